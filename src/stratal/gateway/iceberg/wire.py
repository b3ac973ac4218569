"""The protocol's requests, and how its answers are put together."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from stratal.data.lake.model import Loaded, Namespace, TableName
from stratal.kernel.errors import Invalid, TooLarge

MAX_BODY = 64 * 1024 * 1024
B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")


def _as_text(value: Any) -> Any:
    """Properties are strings; clients in Python send numbers and booleans too."""
    if isinstance(value, dict):
        return {
            key: str(item).lower()
            if isinstance(item, bool)
            else str(item)
            if isinstance(item, int | float)
            else item
            for key, item in value.items()
        }
    return {} if value is None else value


Properties = Annotated[dict[str, str], BeforeValidator(_as_text)]


class Identifier(BaseModel):
    namespace: list[str]
    name: str

    def table(self) -> TableName:
        return TableName(tuple(self.namespace), self.name)


class CreateNamespace(BaseModel):
    namespace: list[str]
    properties: Properties = Field(default_factory=dict)


class UpdateProperties(BaseModel):
    removals: list[str] | None = None
    updates: Properties = Field(default_factory=dict)


class CreateTable(BaseModel):
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    location: str | None = None
    partition_spec: dict[str, Any] | None = Field(None, alias="partition-spec")
    write_order: dict[str, Any] | None = Field(None, alias="write-order")
    stage_create: bool = Field(False, alias="stage-create")
    properties: Properties = Field(default_factory=dict)


class RegisterTable(BaseModel):
    name: str
    metadata_location: str = Field(alias="metadata-location")
    overwrite: bool = False


class CommitTable(BaseModel):
    identifier: Identifier | None = None
    requirements: list[dict[str, Any]] = Field(default_factory=list)
    updates: list[dict[str, Any]] = Field(default_factory=list)


class CommitTransaction(BaseModel):
    table_changes: list[CommitTable] = Field(alias="table-changes")


class RenameTable(BaseModel):
    source: Identifier
    destination: Identifier


async def body(request: Request, model: type[B]) -> B:
    """The request's JSON body. Raises `Invalid`, `TooLarge`."""
    data = await read(request, MAX_BODY)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"The body is not JSON: {error}.", reason="bad_body") from error
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()[:5]]
        raise Invalid("The request is not valid: " + "; ".join(problems), reason="bad_body") from error
    except AttributeError as error:  # pyiceberg looks into properties before it knows that they are an object
        raise Invalid(
            "The request is not valid: properties are an object of text.", reason="bad_body"
        ) from error


async def read(request: Request, limit: int) -> bytes:
    """The request's body. Raises `TooLarge`."""
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > limit:
            raise TooLarge(f"The body is over {limit >> 20} MiB.")
    return bytes(received)


def table_answer(loaded: Loaded, config: Mapping[str, str], *, refs_only: bool = False) -> Response:
    """LoadTableResult: the metadata file's own bytes, and how to reach the table's files."""
    metadata = _only_refs(loaded.metadata) if refs_only else loaded.metadata
    location = loaded.info.metadata_location or None
    parts = [b'{"metadata-location":', orjson.dumps(location), b',"metadata":', metadata]
    parts += [b',"config":', orjson.dumps(dict(config)), b',"storage-credentials":']
    parts += [orjson.dumps(storage_credentials(loaded.info.location, config)), b"}"]
    return Response(b"".join(parts), media_type="application/json")


def commit_answer(loaded: Loaded) -> Response:
    parts = [b'{"metadata-location":', orjson.dumps(loaded.info.metadata_location), b',"metadata":']
    return Response(b"".join([*parts, loaded.metadata, b"}"]), media_type="application/json")


def storage_credentials(location: str, config: Mapping[str, str]) -> list[dict[str, Any]]:
    bucket = location.split("/")[2]
    return [{"prefix": f"s3://{bucket}/", "config": dict(config)}]


def _only_refs(metadata: bytes) -> bytes:
    """The metadata with only those snapshots that a branch or tag names."""
    value = orjson.loads(metadata)
    named = {ref["snapshot-id"] for ref in value.get("refs", {}).values()}
    value["snapshots"] = [s for s in value.get("snapshots", []) if s["snapshot-id"] in named]
    return orjson.dumps(value)


def page(items: Sequence[T], names: Sequence[str], request: Request) -> tuple[Sequence[T], str | None]:
    """The page that the request asks for of items sorted by `names`, and the token of the next. Raises `Invalid`."""
    size, token = request.query_params.get("pageSize"), request.query_params.get("pageToken")
    start = next((i for i, name in enumerate(names) if name > token), len(names)) if token else 0
    if size is None:
        return items[start:], None
    if not re.fullmatch("[0-9]{1,6}", size) or not 0 < int(size) <= 100_000:
        raise Invalid("pageSize must be a positive number.", reason="bad_page")
    end = start + int(size)
    return items[start:end], names[end - 1] if end < len(items) else None


def namespace_of(text: str) -> Namespace:
    """The levels of a namespace as paths and queries carry it: joined by 0x1F."""
    return tuple(text.split("\x1f"))
