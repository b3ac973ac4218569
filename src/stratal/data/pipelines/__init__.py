"""Pipelines: runs of them, the journal of every step, and effects that happen once.

Owns: runs and steps (`tables`), the journal through which they advance (`journal`), the decision to run a step
or to take what it left before (`caching`), what steps write into tables before anybody else may see it
(`staging`), and keeping a worker for every run that needs one (`upkeep`).
Refuses: to execute a line of a pipeline. Its function and its steps run in jobs; this room is told what
they call and says what is to be done.
"""
