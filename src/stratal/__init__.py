"""Stratal: one system that stores the data, runs the work and answers the requests.

Importing this package is cheap: what pipelines are written with (`stratal.step`, `stratal.table` …) is imported
when it is first used. The rooms inside are described in ARCHITECTURE.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stratal.sdk.pipelines import (
        Model,
        Object,
        Table,
        model,
        object_at,
        pipeline,
        shell_step,
        sql,
        sql_step,
        step,
        table,
    )

__version__ = "0.1.0"

_AUTHORING = (
    *("Model", "Object", "Table", "model", "object_at"),
    *("pipeline", "shell_step", "sql", "sql_step", "step", "table"),
)

__all__ = [
    "Model",
    "Object",
    "Table",
    "__version__",
    "model",
    "object_at",
    "pipeline",
    "shell_step",
    "sql",
    "sql_step",
    "step",
    "table",
]


def __getattr__(name: str) -> Any:
    if name not in _AUTHORING:
        raise AttributeError(f"module 'stratal' has no attribute {name!r}")
    from stratal.sdk import pipelines

    return getattr(pipelines, name)
