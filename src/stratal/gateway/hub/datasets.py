"""Data sets as the Hub's clients read them: a bucket of the project is a repository of files, to be read.

``PROJECT/BUCKET`` has one line, ``main``; its commit stands for exactly the objects that the bucket names now, so a
client that began with another one is told so rather than given a mixture. Files are put there through S3.
"""

import hashlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import orjson
from starlette.requests import Request
from starlette.responses import Response

from stratal.ai.models.model import ModelFile
from stratal.collab.artifacts import check_path
from stratal.data.objects.model import ObjectVersion
from stratal.data.objects.service import Objects
from stratal.gateway.bodies import read_body
from stratal.gateway.hub import errors, wire
from stratal.gateway.hub.files import sent
from stratal.gateway.hub.repositories import Repository, json_response
from stratal.identity.model import Principal
from stratal.kernel.clock import iso
from stratal.kernel.errors import Invalid, NotFound, TooLarge, Unsupported

MAX_FILES = 20_000
_MAX_PATHS = 1000


@dataclass(frozen=True, slots=True)
class _Point:
    """What a bucket names at one moment."""

    commit: str
    files: tuple[ModelFile, ...]
    versions: dict[str, ObjectVersion]
    changed_at: int


class DataSets:
    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def list(self, who: Principal, project_id: str, project: str) -> Response:
        """The project's buckets, each by its name; what is in them is told one by one."""
        found = await self._objects.list_buckets(who, project_id=project_id)
        return json_response([_summary(project, bucket.name, "", bucket.created_at) for bucket in found])

    async def info(self, who: Principal, request: Request, repository: Repository, revision: str) -> Response:
        point = await self._at(who, repository, revision)
        blobs = request.query_params.get("blobs", "").lower() in {"1", "true"}
        said = _summary(repository[1], repository[2], point.commit, point.changed_at)
        return json_response({**said, "siblings": [wire.sibling(file, blobs=blobs) for file in point.files]})

    async def refs(self, who: Principal, repository: Repository) -> Response:
        point = await self._at(who, repository, "main")
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": point.commit}
        return json_response({"branches": [main], "converts": [], "tags": [], "pullRequests": []})

    async def tree(
        self, who: Principal, request: Request, repository: Repository, revision: str, directory: str
    ) -> Response:
        point = await self._at(who, repository, revision)
        directory = check_path(directory) if directory else ""
        recursive = request.query_params.get("recursive", "").lower() in {"1", "true"}
        found = wire.tree(point.files, directory, recursive=recursive)
        if directory and not found:
            raise _no_entry(directory, point)
        return json_response(found)

    async def paths_info(
        self, who: Principal, request: Request, repository: Repository, revision: str
    ) -> Response:
        point = await self._at(who, repository, revision)
        body = await read_body(request.scope, request.receive, 4 << 20)
        if request.headers.get("content-type", "").startswith("application/json"):
            try:
                asked: Any = orjson.loads(body)
            except orjson.JSONDecodeError as error:
                raise Invalid(f"The body is no JSON: {error}.", reason="bad_request") from None
            paths = asked.get("paths") if isinstance(asked, dict) else None
        else:
            paths = parse_qs(body.decode(errors="replace")).get("paths", [])
        if not isinstance(paths, list) or len(paths) > _MAX_PATHS:
            raise Invalid(f"paths must be a list of at most {_MAX_PATHS}.", reason="bad_request")
        files = {file.path: file for file in point.files}
        found = []
        for path in (str(path).rstrip("/") for path in paths):
            if path in files:
                found.append(wire.entry(files[path]))
            elif any(one.startswith(f"{path}/") for one in files):
                found.append(wire.folder(path))
        return json_response(found)

    async def send(
        self, who: Principal, request: Request, repository: Repository, revision: str, path: str
    ) -> Response:
        point = await self._at(who, repository, revision)
        version = point.versions.get(check_path(path))
        if version is None:
            raise _no_entry(path, point)
        return sent(
            request,
            path,
            version.sha256,
            version.size,
            point.commit,
            lambda start, length: self._objects.read(who, version, start, length),
        )

    async def _at(self, who: Principal, repository: Repository, revision: str) -> _Point:
        """Raises `NotFound`: no such bucket of the project, or it names other objects by now."""
        project_id, project, name = repository
        try:
            bucket = await self._objects.bucket(who, name)
        except (NotFound, Invalid):
            bucket = None
        if bucket is None or bucket.project_id != project_id:
            raise NotFound(
                f"There is no bucket {name[:100]!r} in project {project!r}.", reason="no_such_model"
            )
        versions: dict[str, ObjectVersion] = {}
        after, changed = "", bucket.created_at
        while True:
            page = await self._objects.list(who, name, after=after)
            versions |= {one.key: one for one in page.objects if _readable(one.key)}
            if len(versions) > MAX_FILES:
                raise TooLarge(f"A bucket of over {MAX_FILES} objects is not read as a data set: use S3.")
            if page.next_after is None:
                break
            after = page.next_after
        digest = hashlib.sha256(bucket.id.encode())
        for key in sorted(versions):
            digest.update(f"\0{versions[key].id}".encode())
            changed = max(changed, versions[key].created_at)
        commit = digest.hexdigest()[:40]
        if revision not in {"main", commit}:
            raise NotFound(
                f"{name!r} is not at {revision[:60]!r} (any more): it is at {commit}.",
                hint="Begin again: the bucket has changed, or the revision never was.",
                reason="no_such_revision",
            )
        files = tuple(
            ModelFile(key, versions[key].size, versions[key].sha256, versions[key].blob_key or "")
            for key in sorted(versions)
        )
        return _Point(commit, files, versions, changed)


def read_only() -> Unsupported:
    return Unsupported(
        "Data sets are read here: they are a project's buckets.",
        hint="Put files there with S3 (or stratal objects put FILE BUCKET/KEY).",
    )


def _readable(key: str) -> bool:
    """Can the key be a file's path for every client?"""
    try:
        return check_path(key) == key
    except Invalid:
        return False


def _summary(project: str, name: str, commit: str, at: int) -> dict[str, Any]:
    return {
        "_id": name,
        "id": wire.repo_id(project, name),
        "author": project,
        "sha": commit,
        "createdAt": iso(at),
        "lastModified": iso(at),
        "private": True,
        "disabled": False,
        "gated": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "cardData": None,
    }


def _no_entry(path: str, point: _Point) -> NotFound:
    return NotFound(
        f"{path[:200]!r} is not in this repository.", reason="no_such_entry", **{errors.COMMIT: point.commit}
    )
