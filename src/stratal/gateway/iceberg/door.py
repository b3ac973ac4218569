"""The door's routes: paths are split before they are decoded, since names may hold any character.

A path is ``/iceberg/v1[/<prefix>]/<route>``. The prefix, which our configuration answer tells clients to
use, is the project's name (``~<name>`` where that is also a word of the protocol); without one, the
key's own project is meant.
"""

from collections.abc import Awaitable, Callable
from urllib.parse import unquote_to_bytes

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from stratal.data.lake.catalog import Definition
from stratal.data.lake.lake import Lake
from stratal.data.lake.model import Change, Place, TableName, no_such_namespace
from stratal.gateway.credentials import Authenticator, key_of
from stratal.gateway.door import principal
from stratal.gateway.iceberg import errors, wire
from stratal.identity.keys import Keys
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.projects import Projects
from stratal.kernel.errors import Invalid, NotFound, StratalError, Unauthenticated, Unsupported

_ROOT = b"/iceberg/v1/"
_TOKENS = b"/iceberg/v1/oauth/tokens"
_WORDS = {"config", "oauth", "namespaces", "tables", "transactions", "views"}
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 (a type's name)

ENDPOINTS = [
    "GET /v1/{prefix}/namespaces",
    "POST /v1/{prefix}/namespaces",
    "GET /v1/{prefix}/namespaces/{namespace}",
    "HEAD /v1/{prefix}/namespaces/{namespace}",
    "DELETE /v1/{prefix}/namespaces/{namespace}",
    "POST /v1/{prefix}/namespaces/{namespace}/properties",
    "GET /v1/{prefix}/namespaces/{namespace}/tables",
    "POST /v1/{prefix}/namespaces/{namespace}/tables",
    "POST /v1/{prefix}/namespaces/{namespace}/register",
    "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "DELETE /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}/credentials",
    "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}/metrics",
    "POST /v1/{prefix}/tables/rename",
    "POST /v1/{prefix}/transactions/commit",
]


class IcebergDoor:
    """`region` is what S3 clients sign for."""

    name = "iceberg"

    def __init__(
        self, authenticate: Authenticator, keys: Keys, projects: Projects, lake: Lake, *, region: str
    ) -> None:
        self._bearer = authenticate
        self._keys = keys
        self._projects = projects
        self._lake = lake
        self._region = region

    def matches(self, scope: Scope) -> bool:
        return bool(scope["raw_path"].startswith((_ROOT, b"/iceberg/")) or scope["raw_path"] == b"/iceberg")

    async def authenticate(self, request: Request) -> Principal | None:
        if request.scope["raw_path"] == _TOKENS:
            return None
        return await self._bearer(request)

    def error(self, error: StratalError, scope: Scope) -> Response:
        if scope["method"] == "HEAD":
            return Response(status_code=error.status)
        if scope["raw_path"] == _TOKENS:
            return errors.oauth_answer(error)
        return errors.answer(error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if scope["raw_path"] == _TOKENS:
            response = await self._token(request)
        else:
            response = await self._route(request, _segments(scope["raw_path"]))
        await response(scope, receive, send)

    async def _route(self, request: Request, segments: list[str]) -> Response:
        who = principal(request.scope)
        if segments == ["config"] and request.method == "GET":
            return await self._config(request, who)
        place = Place(who.project_id, who.project)
        if len(segments) > 1 and segments[0] not in _WORDS:
            place = await self._place(who, segments.pop(0).removeprefix("~"))
        call = _Call(request, who, place, self._lake, self._storage(request, who))
        return await call.dispatch(segments)

    async def _place(self, who: Principal, name: str) -> Place:
        if name == who.project:
            return Place(who.project_id, who.project)
        project = await self._projects.get(who, name)
        return Place(project.id, project.name)

    async def _config(self, request: Request, who: Principal) -> Response:
        """getConfig: `warehouse` is the project's name; without one it is the key's own."""
        place = await self._place(who, request.query_params.get("warehouse") or who.project)
        require(who, "tables.read", place.id)
        prefix = f"~{place.name}" if place.name in _WORDS else place.name
        storage = self._storage(request, who)
        shared = {
            key: value for key, value in storage.items() if not key.startswith(("s3.access", "s3.secret"))
        }
        return JSONResponse({"defaults": shared, "overrides": {"prefix": prefix}, "endpoints": ENDPOINTS})

    def _storage(self, request: Request, who: Principal) -> dict[str, str]:
        """How to reach a table's files: this address, with the caller's own key, so that reads stay attributed."""
        endpoint = f"{request.scope['scheme']}://{request.headers['host']}"
        config = {
            "s3.endpoint": endpoint,
            "s3.region": self._region,
            "client.region": self._region,
            "s3.path-style-access": "true",
            "s3.force-virtual-addressing": "false",
        }
        if who.key_id is not None:
            config["s3.access-key-id"] = who.key_id
            config["s3.secret-access-key"] = self._keys.secret_of(who.key_id)
        return config

    async def _token(self, request: Request) -> Response:
        """The OAuth2 endpoint of clients that only know `credential`: gives the key back as a bearer token."""
        if request.method != "POST":
            raise Invalid("Ask for a token with POST.", reason="bad_token_request")
        form = QueryParams((await wire.read(request, 64 * 1024)).decode("latin-1"))
        grant = form.get("grant_type", "")
        if grant == "client_credentials":
            key_id, secret = _client(request, form)
        elif grant == "urn:ietf:params:oauth:grant-type:token-exchange":
            key_id, _, secret = form.get("subject_token", "").partition(".")
        else:
            raise Invalid(f"The grant type {grant[:60]!r} is not offered.", reason="bad_grant")
        await self._keys.authenticate(key_id, secret)
        return JSONResponse(
            {
                "access_token": f"{key_id}.{secret}",
                "token_type": "bearer",
                "expires_in": 3600,
                "issued_token_type": _ACCESS_TOKEN,
            }
        )


def _client(request: Request, form: QueryParams) -> tuple[str, str]:
    if "authorization" in request.headers and "client_secret" not in form:
        return key_of(request)
    key_id, secret = form.get("client_id", ""), form.get("client_secret", "")
    if not key_id and "." in secret:  # a credential without a colon: the whole key is the secret
        key_id, _, secret = secret.partition(".")
    if not key_id or not secret:
        raise Unauthenticated("The request carries no client_id and client_secret.")
    return key_id, secret


def _segments(raw_path: bytes) -> list[str]:
    """The path's segments behind ``/iceberg/v1``, decoded one by one. Raises `NotFound`, `Invalid`."""
    if not raw_path.startswith(_ROOT):
        raise NotFound(
            "The catalogue is at /iceberg/v1.", hint="Set the catalogue's uri to <address>/iceberg"
        )
    try:
        return [unquote_to_bytes(part).decode() for part in raw_path[len(_ROOT) :].rstrip(b"/").split(b"/")]
    except UnicodeDecodeError as error:
        raise Invalid("The path is not UTF-8.", reason="bad_path") from error


class _Call:
    """One request, with whose it is and which project it is about."""

    def __init__(
        self, request: Request, who: Principal, place: Place, lake: Lake, storage: dict[str, str]
    ) -> None:
        self._request = request
        self._who = who
        self._place = place
        self._lake = lake
        self._storage = storage

    async def dispatch(self, segments: list[str]) -> Response:
        method = self._request.method
        match segments:
            case ["namespaces"]:
                return await self._one_of(
                    method, {"GET": self._list_namespaces, "POST": self._create_namespace}
                )
            case ["namespaces", namespace]:
                return await self._namespace(method, namespace)
            case ["namespaces", namespace, "properties"] if method == "POST":
                return await self._set_properties(namespace)
            case ["namespaces", namespace, "tables"]:
                return await self._tables(method, namespace)
            case ["namespaces", namespace, "register"] if method == "POST":
                return await self._register(namespace)
            case ["namespaces", namespace, "tables", table]:
                return await self._table(method, TableName(wire.namespace_of(namespace), table))
            case ["namespaces", namespace, "tables", table, "credentials"] if method == "GET":
                return await self._credentials(TableName(wire.namespace_of(namespace), table))
            case ["namespaces", namespace, "tables", table, "metrics"] if method == "POST":
                await self._lake.catalog.find_readable(
                    self._who, self._place, TableName(wire.namespace_of(namespace), table)
                )
                return Response(status_code=204)
            case ["namespaces", namespace, "views"]:
                return await self._views(method, namespace)
            case ["namespaces", _, "views", view] if method in {"GET", "HEAD", "DELETE"}:
                raise NotFound(f"There is no view {view[:200]!r}.", reason="no_such_view")
            case ["tables", "rename"] if method == "POST":
                return await self._rename()
            case ["transactions", "commit"] if method == "POST":
                return await self._transaction()
            case ["namespaces" | "views", *_]:
                raise Unsupported(f"{method} is not offered here: this catalogue keeps tables, not views.")
            case _:
                raise NotFound(f"There is no {method} {self._request.url.path[:200]}.")

    async def _one_of(self, method: str, calls: dict[str, Callable[[], Awaitable[Response]]]) -> Response:
        if method not in calls:
            raise Unsupported(f"{method} is not offered here.", reason="method_not_allowed")
        return await calls[method]()

    # -- namespaces --------------------------------------------------------------------------

    async def _list_namespaces(self) -> Response:
        parent = self._request.query_params.get("parent")
        found = await self._lake.namespaces_below(
            self._who, self._place, wire.namespace_of(parent) if parent else ()
        )
        names = ["\x1f".join(name) for name in found]
        some, token = wire.page(found, names, self._request)
        return _json({"namespaces": some, "next-page-token": token})

    async def _create_namespace(self) -> Response:
        body = await wire.body(self._request, wire.CreateNamespace)
        made = await self._lake.namespaces.create(
            self._who, self._place, tuple(body.namespace), body.properties
        )
        return _json({"namespace": made.name, "properties": made.properties})

    async def _namespace(self, method: str, text: str) -> Response:
        name = wire.namespace_of(text)
        if method == "DELETE":
            await self._lake.namespaces.drop(self._who, self._place, name)
            return Response(status_code=204)
        if method not in {"GET", "HEAD"}:
            raise Unsupported(f"{method} is not offered here.")
        info = await self._lake.namespace(self._who, self._place, name)
        if method == "HEAD":
            return Response(status_code=204)
        return _json({"namespace": info.name, "properties": info.properties})

    async def _set_properties(self, text: str) -> Response:
        body = await wire.body(self._request, wire.UpdateProperties)
        updated, removed, missing = await self._lake.namespaces.set_properties(
            self._who,
            self._place,
            wire.namespace_of(text),
            removals=body.removals or [],
            updates=body.updates,
        )
        return _json({"updated": updated, "removed": removed, "missing": missing})

    # -- tables ------------------------------------------------------------------------------

    async def _tables(self, method: str, text: str) -> Response:
        namespace = wire.namespace_of(text)
        if method == "POST":
            return await self._create_table(text)
        if method != "GET":
            raise Unsupported(f"{method} is not offered here.")
        found = await self._lake.catalog.readable(self._who, self._place, namespace)
        names = [info.name.name for info in found]
        some, token = wire.page(names, names, self._request)
        listed = [{"namespace": namespace, "name": name} for name in some]
        return _json({"identifiers": listed, "next-page-token": token})

    async def _create_table(self, text: str) -> Response:
        body = await wire.body(self._request, wire.CreateTable)
        definition = Definition(
            body.schema_, body.partition_spec, body.write_order, (body.location or "").rstrip("/") or None,
            body.properties,
        )  # fmt: skip
        name = TableName(wire.namespace_of(text), body.name)
        loaded = await self._lake.catalog.create(
            self._who, self._place, name, definition, stage=body.stage_create
        )
        return wire.table_answer(loaded, self._storage)

    async def _register(self, text: str) -> Response:
        body = await wire.body(self._request, wire.RegisterTable)
        name = TableName(wire.namespace_of(text), body.name)
        loaded = await self._lake.catalog.register(
            self._who, self._place, name, body.metadata_location, overwrite=body.overwrite
        )
        return wire.table_answer(loaded, self._storage)

    async def _table(self, method: str, name: TableName) -> Response:
        match method:
            case "GET":
                loaded = await self._lake.catalog.load(self._who, self._place, name)
                refs_only = self._request.query_params.get("snapshots") == "refs"
                return wire.table_answer(loaded, self._storage, refs_only=refs_only)
            case "HEAD":
                await self._lake.catalog.find_readable(self._who, self._place, name)
                return Response(status_code=204)
            case "POST":
                body = await wire.body(self._request, wire.CommitTable)
                change = Change(name, body.requirements, body.updates)
                (loaded,) = await self._lake.catalog.commit(self._who, self._place, [change])
                return wire.commit_answer(loaded)
            case "DELETE":
                purge = self._request.query_params.get("purgeRequested", "false").lower() == "true"
                await self._lake.drop(self._who, self._place, name, purge=purge)
                return Response(status_code=204)
            case _:
                raise Unsupported(f"{method} is not offered here.")

    async def _credentials(self, name: TableName) -> Response:
        info = await self._lake.catalog.find_readable(self._who, self._place, name)
        return _json({"storage-credentials": wire.storage_credentials(info.location, self._storage)})

    async def _rename(self) -> Response:
        body = await wire.body(self._request, wire.RenameTable)
        await self._lake.catalog.rename(self._who, self._place, body.source.table(), body.destination.table())
        return Response(status_code=204)

    async def _transaction(self) -> Response:
        body = await wire.body(self._request, wire.CommitTransaction)
        changes = []
        for change in body.table_changes:
            if change.identifier is None:
                raise Invalid("Each change of a transaction names its table.", reason="bad_commit")
            changes.append(Change(change.identifier.table(), change.requirements, change.updates))
        await self._lake.catalog.commit(self._who, self._place, changes)
        return Response(status_code=204)

    async def _views(self, method: str, text: str) -> Response:
        """There are no views: an empty list is the truth, and making one is not offered."""
        if method != "GET":
            raise Unsupported("This catalogue keeps tables, not views.")
        namespace = wire.namespace_of(text)
        if not await self._lake.namespaces.exists(self._who, self._place, namespace):
            raise no_such_namespace(namespace)
        return _json({"identifiers": []})


def _json(value: dict[str, object]) -> Response:
    return Response(
        orjson.dumps({key: item for key, item in value.items() if item is not None}),
        media_type="application/json",
    )
