"""Collaboration: what people try together, and what came of it.

Owns: experiments, runs with their parameters, metrics, tags and inputs, and the artifacts of runs and
logged models, and git repositories (`repositories/`).
Refuses: to know what a registered model or an endpoint is, and to speak MLflow's wire: that is a door's.
"""
