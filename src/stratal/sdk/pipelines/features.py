"""Features as they were known at a moment: joins without a look into the future.

A model that is trained on what was not known yet when it would have been asked does well in the notebook and
badly afterwards. `join` gives each label the newest feature row that was known at the label's moment.
"""

from collections.abc import Sequence
from typing import Any

from stratal.sdk.pipelines import lake
from stratal.sdk.pipelines.values import Table


def join(
    labels: Table,
    features: Table,
    *,
    on: str | Sequence[str],
    at: str,
    known_at: str | None = None,
    into: str | None = None,
) -> Any:
    """Each row of `labels` with the columns of the newest row of `features` that has the same `on` and was known then.

    `at` is the moment of a label, `known_at` (default: the same name) when a feature row became known: the two
    may be equal. A label for which nothing was known keeps NULLs. The rows are returned as dicts, or become the
    table `into`, which is returned. Columns that both have are the labels'.
    """
    keys = [on] if isinstance(on, str) else list(on)
    if not keys:
        raise ValueError("A join needs the names of the columns that must be the same.")
    known = known_at or at
    place = lake.current()
    left = place.at(_path(labels.name), labels.snapshot)
    right = place.at(_path(features.name), features.snapshot)
    same = " AND ".join(f"l.{_quoted(key)} = f.{_quoted(key)}" for key in keys)
    taken = set(lake.columns(labels)) | {*keys, known}
    kept = [column for column in lake.columns(features) if column not in taken]
    chosen = ", ".join(["l.*", *(f"f.{_quoted(column)}" for column in kept)])
    text = (
        f"SELECT {chosen} FROM (SELECT * FROM {left}) l ASOF LEFT JOIN (SELECT * FROM {right}) f "  # noqa: S608
        f"ON {same} AND l.{_quoted(at)} >= f.{_quoted(known)}"
    )
    return lake.read_sql(text) if into is None else lake.write_sql(into, text, "replace", [])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _path(name: str) -> str:
    return ".".join(map(_quoted, name.split(".")))
