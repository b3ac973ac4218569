"""Optuna as the one who searches: an `Advisor` of sweeps, behind the extra ``stratal[sweeps]``.

Optuna runs in a small process of its own (`worker`), started at the first question and ended when none has
come for a while: the server neither imports it nor holds what it allocates. A question carries the whole
study, its answer depends on nothing else, so the process may be killed at any moment.

Others use `stratal.engines.optuna.adapter.OptunaAdvisor`.
"""
