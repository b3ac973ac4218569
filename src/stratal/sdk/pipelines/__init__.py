"""Pipelines in plain Python: what a file of steps imports, and what runs it.

>>> import stratal
>>> @stratal.step
... def ingest(day: str) -> stratal.Table:
...     return stratal.table("raw.trips").replace([{"day": day, "km": 3.2}])
>>> daily = stratal.sql_step("select day, sum(km) km from {{ ref('raw.trips') }} group by day", into="mart.daily")
>>> @stratal.pipeline
... def nightly(day: str = "2024-01-01"):
...     daily(ingest(day))

Owns: authoring (`authoring`), the values that steps hand on (`values`), what a step's code is
(`fingerprint`), tables as a step sees them (`lake`), and the two ways to run: here and now without a server
(`local`), or as the worker of a run (`worker`).
Refuses: anything but Python's standard library. These files travel with the code of every run into its
environment, which holds whatever the user asked for and nothing of the platform.
"""

from stratal.sdk.pipelines import features
from stratal.sdk.pipelines.arriving import ingest_audio, ingest_images, ingest_objects
from stratal.sdk.pipelines.authoring import (
    dbt_step,
    notebook_step,
    pipeline,
    report_step,
    shell_step,
    sql_step,
    step,
)
from stratal.sdk.pipelines.checks import (
    Check,
    between,
    drift,
    fresh,
    matches,
    not_null,
    refers,
    rows_between,
    rows_change,
    sql_check,
    unique,
)
from stratal.sdk.pipelines.ingestion import ingest, ingest_rows, ingest_sqlite
from stratal.sdk.pipelines.lake import read_sql as sql
from stratal.sdk.pipelines.sources import history, ingest_http, ingest_sql
from stratal.sdk.pipelines.transforms import models
from stratal.sdk.pipelines.values import Model, Object, Table, model, object_at, objects_under, table

__all__ = [
    "Check",
    "Model",
    "Object",
    "Table",
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
