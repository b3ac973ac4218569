"""Where a version's files come from: the spellings of a model's source, and what they point at."""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from sqlalchemy import Connection, select

from stratal.ai.models.rows import alias_target, find_model, find_version
from stratal.ai.models.tables import logged_models
from stratal.collab.artifacts import check_path, files_below, find_root
from stratal.collab.model import ACTIVE, Artifact, Root, RootKind
from stratal.kernel.errors import Invalid, NotFound

_PROXY = "/api/2.0/mlflow-artifacts/artifacts/"
_LOCATION = re.compile(r"[^/]+/(?:models/)?(?P<id>[^/]+)/artifacts(?:/(?P<path>.*))?\Z")
_NAMED = re.compile(r"(?P<name>[^/@]+)(?:/(?P<version>[^/@]+)|@(?P<alias>[^/@]+))\Z")


@dataclass(frozen=True, slots=True)
class Source:
    """Files below `directory` of `root`, their paths relative to it."""

    root: Root
    directory: str
    files: tuple[Artifact, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """What ``models:/NAME/…`` says; `version` is a number, ``latest`` or a stage."""

    name: str
    version: str
    alias: str


def parse_named(uri: str) -> Named:
    """``models:/NAME/VERSION``, ``models:/NAME@ALIAS``. Raises `Invalid`."""
    match = _NAMED.match(_path(uri))
    if not uri.startswith("models:/") or match is None:
        raise Invalid(
            f"{uri[:200]!r} does not name a model version.",
            hint="Write models:/NAME/VERSION, models:/NAME@ALIAS or models:/NAME/latest.",
            reason="bad_model_uri",
        )
    return Named(unquote(match["name"]), unquote(match["version"] or ""), unquote(match["alias"] or ""))


def logged_model_of(uri: str) -> str | None:
    """``m-…`` when the URI is a logged model's (``models:/m-…``)."""
    rest = _path(uri)
    return rest if uri.startswith("models:/") and rest.startswith("m-") and "/" not in rest else None


def open_source(connection: Connection, project_id: str, uri: str) -> Source:
    """The files that `uri` points at now.

    Raises `NotFound` when that is not the project's, `Invalid` for a URI whose bytes are not kept here or
    below which there are no files: a version pins its bytes, so there must be some.
    """
    parts = urlsplit(uri)
    if parts.scheme == "models":
        root_id, directory = _of_models(connection, project_id, uri), ""
    elif parts.scheme == "runs":
        root_id, directory = _of_run(connection, project_id, _path(uri))
    elif parts.scheme == "mlflow-artifacts":
        root_id, directory = _of_location(uri, parts.path.strip("/"))
    elif parts.scheme in {"http", "https"} and _PROXY in parts.path:
        root_id, directory = _of_location(uri, unquote(parts.path.split(_PROXY, 1)[1]).strip("/"))
    else:
        raise Invalid(
            f"The source {uri[:200]!r} does not lie on this platform, so its bytes cannot be pinned.",
            hint="Log the model first (log_model), then register runs:/RUN/PATH or models:/m-….",
            reason="bad_source",
        )
    root = find_root(connection, project_id, root_id)
    files = tuple(_relative(file, directory) for file in files_below(connection, root.id, directory))
    if not files:
        raise Invalid(
            f"There are no files at {uri[:200]!r}.", hint="Log the model's files first.", reason="no_files"
        )
    return Source(root, directory, files)


def _of_models(connection: Connection, project_id: str, uri: str) -> str:
    model_id = logged_model_of(uri)
    if model_id is not None:
        return model_id
    named = parse_named(uri)
    model = find_model(connection, project_id, named.name)
    number = alias_target(connection, model, named.alias) if named.alias else named.version
    return find_version(connection, project_id, named.name, number).id


def _of_run(connection: Connection, project_id: str, path: str) -> tuple[str, str]:
    """A run's own directory, or the newest model that it logged under that name."""
    run_id, _, directory = path.partition("/")
    directory = check_path(directory) if directory else ""
    if find_root(connection, project_id, run_id).kind is not RootKind.RUN:
        raise NotFound(f"There is no run {run_id[:100]!r}.", reason="no_such_run")
    if files_below(connection, run_id, directory, limit=1):
        return run_id, directory
    logged = connection.execute(
        select(logged_models.c.id)
        .where(
            logged_models.c.project_id == project_id,
            logged_models.c.source_run_id == run_id,
            logged_models.c.name == directory,
            logged_models.c.lifecycle == ACTIVE,
        )
        .order_by(logged_models.c.created_at.desc(), logged_models.c.id.desc())
        .limit(1)
    ).scalar()
    return (run_id, directory) if logged is None else (logged, "")


def _of_location(uri: str, location: str) -> tuple[str, str]:
    match = _LOCATION.match(check_path(location))
    if match is None:
        raise Invalid(f"{uri[:200]!r} is not where artifacts lie.", reason="bad_source")
    return match["id"], match["path"] or ""


def _relative(file: Artifact, directory: str) -> Artifact:
    path = file.path[len(directory) + 1 :] if directory else file.path
    return Artifact(path, file.size, file.sha256, file.blob_key)


def _path(uri: str) -> str:
    return uri.partition(":")[2].strip("/")
