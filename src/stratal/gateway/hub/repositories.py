"""Repositories as such: who asks, what there is, made, renamed and removed."""

import re
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response

from stratal.ai.models.commits import Commits, commit_of
from stratal.ai.models.reading import read_yaml
from stratal.ai.models.registered import RegisteredModels
from stratal.gateway.bodies import beside, read_body
from stratal.gateway.hub import wire
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.projects import Projects
from stratal.kernel.errors import Conflict, Invalid, NotFound, Unsupported

Repository = tuple[str, str, str]
"""(project's id, its name, the model's name)."""

_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_][\w.\-]{0,95}\Z", re.ASCII)
_SEARCHABLE = re.compile(r"[\w.\- ]{1,100}\Z")
_MAX_PAGE = 1000
_MAX_BODY = 1 << 20
_MAX_CARD = 64 << 10
"""Characters, and values that they may stand for."""


class Repositories:
    def __init__(self, projects: Projects, names: RegisteredModels, commits: Commits) -> None:
        self._projects = projects
        self._names = names
        self._commits = commits

    async def whoami(self, who: Principal) -> Response:
        """The key's project stands for the user's name, since it is what repositories' names begin with."""
        can_write = who.role.value != "viewer"
        return json_response(
            {
                "type": "user",
                "id": who.id,
                "name": who.project,
                "fullname": who.name,
                "orgs": [],
                "auth": {
                    "type": "access_token",
                    "accessToken": {"displayName": who.name, "role": "write" if can_write else "read"},
                },
            }
        )

    async def list(self, who: Principal, request: Request) -> Response:
        """Models of a project (`author`, else the key's own), by name; `search` and `filter` narrow it down."""
        asked = request.query_params
        project_id, project = who.project_id, who.project
        if asked.get("author") and asked["author"] != who.project:
            try:
                place = await self._projects.get(who, asked["author"])
            except NotFound:
                return json_response([])
            project_id, project = place.id, place.name
        text = ""
        if search := asked.get("search", "").rpartition("/")[2]:
            if not _SEARCHABLE.match(search):
                return json_response([])
            text = f"name ILIKE '%{search}%'"
        limit = _number(asked.get("limit"), 500)
        page = await self._names.search(
            who, project_id, text=text, limit=limit, token=asked.get("cursor", "")
        )
        wanted = set(asked.getlist("filter"))
        found = []
        for model in page.items:
            newest = max(model.latest, key=lambda one: one.version, default=None)
            said = wire.summary(project, model, newest, commit_of(newest or model))
            if wanted <= set(said["tags"]):
                found.append(said)
        headers = {}
        if page.next_token:
            query = [(k, v) for k, v in asked.multi_items() if k != "cursor"]
            more = urlencode([*query, ("cursor", page.next_token)])
            headers["Link"] = f'<{base_of(request)}/api/models?{more}>; rel="next"'
        return json_response(found, headers=headers)

    async def create(self, who: Principal, request: Request) -> Response:
        body = await json_body(request)
        _check_kind(body)
        _check_visibility(body)
        project_id, project = await self._place(who, body)
        name = wire.text(body, "name")
        if not _NAME.match(name) or name.endswith((".git", ".ipynb", "-", ".")):
            raise Invalid(
                f"{name[:100]!r} cannot name a repository.",
                hint="Use at most 96 of A-Z a-z 0-9 _ - and '.', without '--' and '..'.",
                reason="bad_name",
            )
        url = f"{base_of(request)}/{quote(project)}/{quote(name)}"
        said = {"url": url, "name": wire.repo_id(project, name)}
        try:
            await self._names.create(who, project_id, name, tags={})
        except Conflict as error:  # clients read the address of the one that is there
            return json_response({**said, "error": str(error)}, 409, {"X-Error-Message": str(error)})
        return json_response(said)

    async def delete(self, who: Principal, request: Request) -> Response:
        body = await json_body(request)
        _check_kind(body)
        project_id, _ = await self._place(who, body)
        await self._names.delete(who, project_id, wire.text(body, "name"))
        return json_response({})

    async def move(self, who: Principal, request: Request) -> Response:
        """A new name within the same project."""
        body = await json_body(request)
        _check_kind(body)
        source, _, name = wire.text(body, "fromRepo").partition("/")
        target, _, new_name = wire.text(body, "toRepo").partition("/")
        if source != target:
            raise Unsupported(
                "A model stays in its project.", hint="Download it and upload it to the other one."
            )
        place = await self._projects.get(who, source)
        await self._names.rename(who, place.id, name, new_name)
        return json_response({})

    async def settings(self, who: Principal, request: Request, repository: Repository) -> Response:
        """Only what is so anyway: readable by its project, without a gate."""
        body = await json_body(request)
        require(who, "models.write", repository[0])
        await self._names.get(who, repository[0], repository[2])
        _check_visibility(body)
        if body.get("gated") not in (None, False):
            raise Unsupported("Repositories have no gates here.", hint="A project's roles say who may read.")
        return json_response({"visibility": "private", "gated": False})

    async def access(self, who: Principal, repository: Repository) -> Response:
        """Whoever may read it is told nothing more; others, that it is not there."""
        require(who, "models.read", repository[0])
        await self._names.get(who, repository[0], repository[2])
        return json_response({})

    async def validate(self, request: Request) -> Response:
        """Is the metadata at a README's top readable? It is asked without a key, and of nothing that is kept here."""
        body = await json_body(request)
        content = wire.text(body, "content")
        try:
            await beside(len(content), card_of, content.encode(errors="replace"))
        except Invalid as error:
            return json_response({"errors": [{"message": error.message}], "warnings": []}, 400)
        return json_response({"errors": [], "warnings": []})

    async def _place(self, who: Principal, body: dict[str, Any]) -> tuple[str, str]:
        organization = wire.text(body, "organization")
        if not organization or organization == who.project:
            return who.project_id, who.project
        place = await self._projects.get(who, organization)
        return place.id, place.name


def card_of(readme: bytes) -> dict[str, Any]:
    """The metadata between the two ``---`` at the top of a README. Raises `Invalid` when it is not YAML."""
    text = readme.decode(errors="replace").replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return {}
    head, end, _ = text[4:].partition("\n---")
    if not end:
        return {}
    if len(head) > _MAX_CARD:
        raise Invalid(f"The metadata is longer than {_MAX_CARD >> 10} KiB.", reason="bad_card")
    try:
        found = read_yaml(head, _MAX_CARD)
        return (
            orjson.loads(orjson.dumps(found, default=str, option=orjson.OPT_NON_STR_KEYS))
            if isinstance(found, dict)
            else {}
        )
    except (ValueError, RecursionError, orjson.JSONEncodeError) as error:
        raise Invalid(f"The metadata is not YAML: {str(error)[:300]}", reason="bad_card") from None


def base_of(request: Request) -> str:
    """The address of this door as the client knows it."""
    return f"{request.url.scheme}://{request.url.netloc}/hub"


async def json_body(request: Request) -> dict[str, Any]:
    body = await read_body(request.scope, request.receive, _MAX_BODY)
    try:
        value = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise Invalid("The request is not JSON.", reason="bad_request") from error
    if not isinstance(value, dict):
        raise Invalid("The request is not a JSON object.", reason="bad_request")
    return value


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, "application/json")


def _number(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) < 1:
        raise Invalid(f"limit must be a number of at least 1, not {text[:40]!r}.", reason="bad_request")
    return min(int(text), _MAX_PAGE)


def _check_kind(body: dict[str, Any]) -> None:
    if wire.text(body, "type", "model") != "model":
        raise Unsupported(
            f"This hub keeps models; a {wire.text(body, 'type')[:20]} cannot be made here.",
            hint="Put data into a bucket (S3) or a table.",
        )


def _check_visibility(body: dict[str, Any]) -> None:
    if body.get("visibility") not in (None, "private") or body.get("private") is False:
        raise Unsupported(
            "A repository here is readable by its project only.", hint="Leave the visibility out."
        )
