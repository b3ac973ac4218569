"""What steps hand to each other: plain values, and references to tables, objects and models.

A value is kept in the journal as JSON. Whatever is large belongs into a table or an object, of which the
reference is handed on: it names the very snapshot or version, so a later step reads what was meant.
"""

import datetime
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_BYTES = 1024 * 1024
_WRITTEN = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
_OBJECT = re.compile(r"s3://([^/]+)/(.+)\Z", re.DOTALL)


class NotAValue(TypeError):
    """A step was given, or returned, what the journal cannot hold."""


@dataclass(frozen=True)
class Table:
    """A table of the project, at one `snapshot` or (None) as it is when it is read.

    Writing gives a new `Table` at what was written; others see it once the step has succeeded.
    """

    name: str
    snapshot: str | None = None

    def rows(self) -> list[dict[str, Any]]:
        """Its rows as dicts. Values that JSON has no type for (dates, decimals) come as text."""
        from stratal.sdk.pipelines import lake

        return lake.rows(self)

    def arrow(self) -> Any:
        """Its rows as a ``pyarrow.Table``; the step's environment must have pyarrow."""
        from stratal.sdk.pipelines import lake

        return lake.arrow(self)

    def pandas(self) -> Any:
        """Its rows as a ``pandas.DataFrame``; the step's environment must have pandas and pyarrow."""
        return self.arrow().to_pandas()

    def polars(self) -> Any:
        """Its rows as a ``polars.DataFrame``; the step's environment must have polars and pyarrow."""
        import polars  # type: ignore[import-not-found,unused-ignore]

        return polars.from_arrow(self.arrow())

    def append(self, data: Any) -> "Table":
        """Add rows: dicts, a pyarrow table, a data frame, or a path to a Parquet, CSV or JSON-lines file."""
        from stratal.sdk.pipelines import lake

        return lake.write(self, data, "append")

    def replace(self, data: Any) -> "Table":
        """Put these rows in the place of all others; columns become theirs."""
        from stratal.sdk.pipelines import lake

        return lake.write(self, data, "replace")

    def upsert(self, data: Any, keys: Sequence[str]) -> "Table":
        """Put each of these rows in the place of the one with the same `keys`, or add it. NULL keys are equal."""
        from stratal.sdk.pipelines import lake

        return lake.write(self, data, "upsert", keys=list(keys))

    def overwrite(self, data: Any, where: Mapping[str, Any]) -> "Table":
        """Put these rows in the place of those with the given values: one partition's, for example."""
        from stratal.sdk.pipelines import lake

        return lake.write(self, data, "overwrite", where=dict(where))


@dataclass(frozen=True)
class Object:
    """An object in a bucket, at one version (its `etag`) or (None) as it is when it is read."""

    bucket: str
    key: str
    etag: str | None = None

    @property
    def location(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def read(self) -> bytes:
        from stratal.sdk.pipelines import lake

        return lake.read_object(self)

    def put(self, data: bytes) -> "Object":
        """Store bytes under a key that nothing has yet. Raises `FileExistsError` for one that has other bytes."""
        from stratal.sdk.pipelines import lake

        return lake.put_object(self, data)


@dataclass(frozen=True)
class Model:
    """A registered model's version."""

    name: str
    version: str

    def deploy(self, endpoint: str, *, seconds: float = 900.0, **wishes: Any) -> str:
        """Have the endpoint (made when there is none) serve this version; its address, once it answers with it.

        `wishes` are those of ``stratal deploy`` (`min`, `max`, `concurrency`, `cpus` …). Until the new revision is ready
        the one before goes on answering; when it never is, this raises `RuntimeError`, and that one still does.
        Deploying is seen by others at once, so a step that does it says ``replay=False``.
        """
        from stratal.sdk.pipelines import lake

        return lake.current().deploy(self, endpoint, wishes, seconds)


def table(name: str, snapshot: str | int | None = None) -> Table:
    """The table called ``namespace.name``."""
    return Table(name, None if snapshot is None else str(snapshot))


def object_at(location: str) -> Object:
    """The object at ``s3://bucket/key``. Raises `ValueError`."""
    found = _OBJECT.match(location)
    if found is None:
        raise ValueError(f"{location!r} is not like s3://bucket/key")
    return Object(found[1], found[2])


def objects_under(location: str) -> list[Object]:
    """The objects below ``s3://bucket/prefix``, each at its version, by key.

    That something came is not seen by the cache: the step that lists says ``cache=False`` and hands the list on.
    """
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    if not location.startswith("s3://") or not bucket:
        raise ValueError(f"{location!r} is not like s3://bucket/prefix")
    from stratal.sdk.pipelines import lake

    return lake.list_objects(bucket, prefix)


def model(name: str, version: str | int) -> Model:
    """Version `version` of the registered model `name`."""
    return Model(name, str(version))


# -- as JSON -------------------------------------------------------------------------------------------

_TAGS = ("$table", "$object", "$model", "$date", "$time")


def encode(value: Any) -> Any:
    """`value` as JSON for the journal. Raises `NotAValue`."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if value != value or value in (float("inf"), float("-inf")):
                raise NotAValue(f"{value} has no form in JSON; hand on None or text instead.")
            return value
        case Table(name, snapshot):
            return {"$table": name, "snapshot": snapshot}
        case Object(bucket, key, etag):
            return {"$object": f"s3://{bucket}/{key}", "etag": etag}
        case Model(name, version):
            return {"$model": name, "version": version}
        case datetime.datetime():
            return {"$time": value.isoformat()}
        case datetime.date():
            return {"$date": value.isoformat()}
        case Mapping():
            return _encode_mapping(value)
        case list() | tuple():
            return [encode(item) for item in value]
    raise NotAValue(
        f"A {type(value).__module__}.{type(value).__qualname__} cannot be handed from step to step: return plain "
        "values (numbers, text, lists, dicts), or write a table or an object and return that."
    )


def _encode_mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    wrong = next((key for key in value if not isinstance(key, str)), None)
    if wrong is not None:
        raise NotAValue(f"The key {wrong!r} of a dict is no text.")
    if any(tag in value for tag in _TAGS):
        raise NotAValue(f"A dict must not have any of the keys {', '.join(_TAGS)}.")
    return {key: encode(item) for key, item in value.items()}


def decode(value: Any) -> Any:
    """What `encode` was given."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$table" in value:
        return Table(value["$table"], value["snapshot"])
    if "$object" in value:
        place = object_at(value["$object"])
        return Object(place.bucket, place.key, value["etag"])
    if "$model" in value:
        return Model(value["$model"], value["version"])
    if "$time" in value:
        return datetime.datetime.fromisoformat(value["$time"])
    if "$date" in value:
        return datetime.date.fromisoformat(value["$date"])
    return {key: decode(item) for key, item in value.items()}


def dumped(value: Any) -> str:
    """An encoded value as text, in one form only. Raises `NotAValue` when it is too long."""
    text = _WRITTEN(value)
    if len(text) > MOST_BYTES:
        raise NotAValue(
            f"A value of {len(text) >> 10} KiB is too long for the journal (1 MiB): write a table or an object "
            "and hand that on."
        )
    return text


def without_moments(value: Any) -> Any:
    """An encoded value with each reference reduced to what it names, not which moment of it: what a step is asked
    to do, in words that are the same on another instance."""
    if isinstance(value, list):
        return [without_moments(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$table" in value:
        return {"$table": value["$table"]}
    if "$object" in value:
        return {"$object": value["$object"]}
    return {key: without_moments(item) for key, item in value.items()}


def moments(value: Any) -> Iterable[Any]:
    """Every reference to a table, object or model within an encoded value, as it stands."""
    if isinstance(value, list):
        for item in value:
            yield from moments(item)
    elif isinstance(value, dict):
        if any(tag in value for tag in ("$table", "$object", "$model")):
            yield value
        else:
            for item in value.values():
                yield from moments(item)


def digest(value: Any) -> str:
    """SHA-256 of an encoded value."""
    return hashlib.sha256(dumped(value).encode()).hexdigest()
