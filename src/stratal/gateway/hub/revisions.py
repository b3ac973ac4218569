"""Repositories at a revision: what they hold, their history, and names for its points."""

from typing import Any
from urllib.parse import parse_qs, urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response

from stratal.ai.models.commits import Commits, Point
from stratal.ai.models.registered import RegisteredModels
from stratal.collab.artifacts import check_path
from stratal.gateway.bodies import beside, read_body
from stratal.gateway.hub import errors, wire
from stratal.gateway.hub.repositories import Repository, base_of, card_of, json_body, json_response
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.errors import Conflict, Invalid, NotFound

_PAGE = 1000
_MAX_README = 1 << 20
_MAX_PATHS = 1000


class Revisions:
    def __init__(self, names: RegisteredModels, commits: Commits) -> None:
        self._names = names
        self._commits = commits

    async def info(self, who: Principal, request: Request, repository: Repository, revision: str) -> Response:
        point = await self._at(who, repository, revision)
        asked = request.query_params
        blobs = asked.get("blobs", "").lower() in {"1", "true"}
        return json_response(wire.info(repository[1], point, await self._card(point), blobs=blobs))

    async def tree(
        self, who: Principal, request: Request, repository: Repository, revision: str, directory: str
    ) -> Response:
        """Files and directories, a page at a time."""
        point = await self._at(who, repository, revision)
        asked = request.query_params
        directory = check_path(directory) if directory else ""
        files = point.version.files if point.version else ()
        recursive = asked.get("recursive", "").lower() in {"1", "true"}
        found = wire.tree(files, directory, recursive=recursive)
        if directory and not found:
            raise _no_entry(directory, point)
        start = _start(asked.get("cursor", "0"))
        page = found[start : start + _PAGE]
        if asked.get("expand", "").lower() in {"1", "true"} and point.version is not None:
            said = wire.commit(point)
            last = {"id": said["id"], "title": said["title"], "date": said["date"]}
            page = [{**one, "lastCommit": last} for one in page]
        headers = {}
        if start + _PAGE < len(found):
            query = [(k, v) for k, v in asked.multi_items() if k != "cursor"]
            more = urlencode([*query, ("cursor", str(start + _PAGE))])
            raw = request.scope["raw_path"].decode("ascii").removeprefix("/hub")
            headers["Link"] = f'<{base_of(request)}{raw}?{more}>; rel="next"'
        return json_response(page, headers=headers)

    async def paths_info(
        self, who: Principal, request: Request, repository: Repository, revision: str
    ) -> Response:
        """What these paths are, those that are there."""
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
        files = {file.path: file for file in point.version.files} if point.version else {}
        found = []
        for path in paths:
            path = str(path).rstrip("/")
            if path in files:
                found.append(wire.entry(files[path]))
            elif any(one.startswith(f"{path}/") for one in files):
                found.append(wire.folder(path))
        return json_response(found)

    async def log(self, who: Principal, request: Request, repository: Repository, revision: str) -> Response:
        points = await self._commits.log(who, repository[0], repository[2], revision)
        start = _start(request.query_params.get("p", "0")) * _PAGE
        headers = {}
        if start + _PAGE < len(points):
            raw = request.scope["raw_path"].decode("ascii").removeprefix("/hub")
            headers["Link"] = f'<{base_of(request)}{raw}?p={start // _PAGE + 1}>; rel="next"'
        return json_response([wire.commit(one) for one in points[start : start + _PAGE]], headers=headers)

    async def refs(self, who: Principal, repository: Repository) -> Response:
        points = await self._commits.log(who, repository[0], repository[2])
        model = await self._names.get(who, repository[0], repository[2])
        by_number = {one.version.version: one.commit for one in points if one.version}
        tags = [
            {"name": alias, "ref": f"refs/tags/{alias}", "targetCommit": by_number[number]}
            for alias, number in model.aliases.items()
            if number in by_number
        ]
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": points[0].commit}
        return json_response({"branches": [main], "converts": [], "tags": tags, "pullRequests": []})

    async def tag(self, who: Principal, request: Request, repository: Repository, revision: str) -> Response:
        """Name the point `revision` with an alias of the registry; an alias in use is not moved by this."""
        require(who, "models.write", repository[0])
        name = wire.text(await json_body(request), "tag")
        point = await self._commits.at(who, repository[0], repository[2], revision)
        if point.version is None:
            raise Invalid("There is nothing to name before the first commit.", reason="no_files")
        model = await self._names.get(who, repository[0], repository[2])
        if name in model.aliases:
            raise Conflict(f"There is a tag {name!r} already.", hint="Delete it first.", reason="tag_exists")
        await self._names.set_alias(who, repository[0], repository[2], name, str(point.version.version))
        return json_response({})

    async def untag(self, who: Principal, repository: Repository, tag: str) -> Response:
        require(who, "models.write", repository[0])
        model = await self._names.get(who, repository[0], repository[2])
        if tag not in model.aliases:
            raise NotFound(f"There is no tag {tag[:100]!r}.", reason="no_such_revision")
        await self._names.delete_alias(who, repository[0], repository[2], tag)
        return json_response({})

    async def _at(self, who: Principal, repository: Repository, revision: str) -> Point:
        return await self._commits.at(who, repository[0], repository[2], revision)

    async def _card(self, point: Point) -> dict[str, Any]:
        for file in point.version.files if point.version else ():
            if file.path == "README.md" and file.size <= _MAX_README:
                try:
                    return await beside(file.size, card_of, await self._commits.blobs.read_all(file.blob_key))
                except Invalid:
                    return {}
        return {}


def _no_entry(path: str, point: Point) -> NotFound:
    return NotFound(
        f"{path[:200]!r} is not in this repository.",
        reason="no_such_entry",
        **{errors.COMMIT: point.commit},
    )


def _start(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Invalid("That cursor is none of ours.", reason="bad_request")
    return int(text)
