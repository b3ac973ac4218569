"""Stratal: one system that stores the data, runs the work and answers the requests.

Importing this package is cheap: what pipelines are written with (`stratal.step`, `stratal.table` …) is imported
when it is first used. The rooms inside are described in ARCHITECTURE.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stratal.sdk.pipelines import (
        Check,
        Model,
        Object,
        Table,
        between,
        dbt_step,
        drift,
        features,
        fresh,
        history,
        ingest,
        ingest_audio,
        ingest_http,
        ingest_images,
        ingest_objects,
        ingest_rows,
        ingest_sql,
        ingest_sqlite,
        matches,
        model,
        models,
        not_null,
        notebook_step,
        object_at,
        objects_under,
        pipeline,
        refers,
        report_step,
        rows_between,
        rows_change,
        shell_step,
        sql,
        sql_check,
        sql_step,
        step,
        table,
        unique,
    )

__version__ = "0.1.0"

__all__ = [
    "Check",
    "Model",
    "Object",
    "Table",
    "__version__",
    "between",
    "dbt_step",
    "drift",
    "features",
    "fresh",
    "history",
    "ingest",
    "ingest_audio",
    "ingest_http",
    "ingest_images",
    "ingest_objects",
    "ingest_rows",
    "ingest_sql",
    "ingest_sqlite",
    "matches",
    "model",
    "models",
    "not_null",
    "notebook_step",
    "object_at",
    "objects_under",
    "pipeline",
    "refers",
    "report_step",
    "rows_between",
    "rows_change",
    "shell_step",
    "sql",
    "sql_check",
    "sql_step",
    "step",
    "table",
    "unique",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'stratal' has no attribute {name!r}")
    from stratal.sdk import pipelines

    return getattr(pipelines, name)
