"""The door's routes, and the key that each of them asks for. A path is split before it is decoded."""

from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stratal.ai.models.commits import Commits
from stratal.gateway.credentials import Authenticator
from stratal.gateway.door import principal
from stratal.gateway.hub import errors
from stratal.gateway.hub.datasets import DataSets, read_only
from stratal.gateway.hub.files import Files
from stratal.gateway.hub.repositories import Repositories
from stratal.gateway.hub.revisions import Revisions
from stratal.gateway.hub.uploads import Addresses
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.errors import Invalid, NotFound, StratalError, Unauthenticated, Unsupported

_ROOT = b"/hub/"
_VALIDATE = ["api", "validate-yaml"]
_KINDS = {"spaces", "kernels", "buckets"}
_WORDS = {
    *("revision", "tree", "paths-info", "commits", "refs", "preupload", "commit", "tag", "branch"),
    *(
        "auth-check",
        "super-squash",
        "settings",
        "xet-write-token",
        "xet-read-token",
        "lfs-files",
        "discussions",
        "resolve",
        "raw",
    ),
}


class HubDoor:
    name = "hub"

    def __init__(
        self,
        authenticate: Authenticator,
        addresses: Addresses,
        projects: Projects,
        repositories: Repositories,
        revisions: Revisions,
        files: Files,
        datasets: DataSets,
        commits: Commits,
    ) -> None:
        self._commits = commits
        self._datasets = datasets
        self._bearer = authenticate
        self._addresses = addresses
        self._projects = projects
        self._repositories = repositories
        self._revisions = revisions
        self._files = files

    def matches(self, scope: Scope) -> bool:
        return bool(scope["raw_path"].startswith(_ROOT))

    async def authenticate(self, request: Request) -> Principal | None:
        """A bearer key; an address to upload to carries its own proof, and to look at metadata none is asked for."""
        segments = _segments(request.scope["raw_path"])
        if segments == _VALIDATE:
            return None
        if len(segments) == 3 and segments[0] == "lfs" and request.method == "PUT":
            who, _ = await self._addresses.check(segments[1], segments[2], request.query_params)
            return who
        if "authorization" not in request.headers:
            raise Unauthenticated(
                "This needs a key.",
                hint='Set HF_TOKEN to a Stratal key: eval "$(stratal env)" does.',
                reason="no_credentials",
            )
        return await self._bearer(request)

    def error(self, error: StratalError, scope: Scope) -> Response:
        return errors.answer(error, empty=scope["method"] == "HEAD")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, segments = Request(scope, receive), _segments(scope["raw_path"])
        if segments == _VALIDATE and request.method == "POST":
            response = await self._repositories.validate(request)
        elif segments == _VALIDATE:
            raise _nothing(request)
        else:
            response = await self._answer(principal(scope), request, segments)
        await response(scope, receive, send)

    async def _answer(self, who: Principal, request: Request, segments: list[str]) -> Response:
        match request.method, segments:
            case "GET", ["api", "whoami-v2"]:
                return await self._repositories.whoami(who)
            case "GET", ["api", "models"]:
                return await self._repositories.list(who, request)
            case "POST", ["api", "repos", "create"]:
                return await self._repositories.create(who, request)
            case "DELETE", ["api", "repos", "delete"]:
                return await self._repositories.delete(who, request)
            case "POST", ["api", "repos", "move"]:
                return await self._repositories.move(who, request)
            case "GET", ["api", "datasets"]:
                return await self._datasets.list(who, *await self._place(who, request))
            case _, ["api", "datasets", *rest]:
                return await self._of_dataset(who, request, rest)
            case "GET" | "HEAD", ["datasets", *rest] if "resolve" in rest[1:3] and len(rest) > 3:
                length = rest.index("resolve", 1)
                repository = await self._find(who, rest[:length])
                path = "/".join(rest[length + 2 :])
                return await self._datasets.send(who, request, repository, rest[length + 1], path)
            case _, ["datasets", *_]:
                raise read_only()
            case _, ["api", kind, *_] if kind in _KINDS:
                raise _only_models(kind)
            case _, ["api", "models", *rest] if rest:
                return await self._of_repository(who, request, rest)
            case "PUT", ["lfs", project, oid]:
                place = await self._projects.get(who, project)
                size = int(request.query_params["size"])
                return await self._files.receive(who, request, place.id, oid, size)
            case "POST", [*owner, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                repository = await self._find(who, [*owner, name.removesuffix(".git")])
                return await self._files.batch(who, request, repository)
            case _, [kind, *_] if kind in _KINDS:
                raise _only_models(kind)
            case "GET" | "HEAD", [_, *_]:
                for length in (2, 1):
                    if segments[length : length + 1] in (["resolve"], ["raw"]) and len(segments) > length + 2:
                        repository = await self._find(who, segments[:length])
                        path = "/".join(segments[length + 2 :])
                        return await self._files.send(who, request, repository, segments[length + 1], path)
        raise _nothing(request)

    async def _of_repository(self, who: Principal, request: Request, rest: list[str]) -> Response:
        length = 1 if len(rest) == 1 or (rest[1] in _WORDS and rest[2:3] not in [[w] for w in _WORDS]) else 2
        repository = await self._find(who, rest[:length])
        match request.method, rest[length:]:
            case "GET", []:
                return await self._revisions.info(who, request, repository, "main")
            case "GET", ["revision", revision]:
                return await self._revisions.info(who, request, repository, revision)
            case "GET", ["tree", revision, *path]:
                return await self._revisions.tree(who, request, repository, revision, "/".join(path))
            case "POST", ["paths-info", revision]:
                return await self._revisions.paths_info(who, request, repository, revision)
            case "GET", ["commits", revision]:
                return await self._revisions.log(who, request, repository, revision)
            case "GET", ["refs"]:
                return await self._revisions.refs(who, repository)
            case "POST", ["tag", revision]:
                return await self._revisions.tag(who, request, repository, revision)
            case "DELETE", ["tag", tag]:
                return await self._revisions.untag(who, repository, tag)
            case "POST", ["preupload", revision]:
                return await self._files.preupload(who, request, repository, revision)
            case "POST", ["commit", revision]:
                return await self._files.commit(who, request, repository, revision)
            case "PUT", ["settings"]:
                return await self._repositories.settings(who, request, repository)
            case "GET", ["auth-check"]:
                return await self._repositories.access(who, repository)
            case "GET", [word, *_] if word.startswith("xet-"):
                raise Unsupported(
                    "Xet storage is not spoken here.",
                    hint="Set HF_HUB_DISABLE_XET=1 (stratal env does), then files go by plain HTTP.",
                )
            case _, ["branch", _]:
                raise _one_line()
            case _, [word, *_] if word in {"discussions", "super-squash"}:
                raise Unsupported(f"{word} is not offered by this hub.", hint="docs/hub.md says what is.")
        raise _nothing(request)

    async def _of_dataset(self, who: Principal, request: Request, rest: list[str]) -> Response:
        length = 1 if len(rest) == 1 or (rest[1] in _WORDS and rest[2:3] not in [[w] for w in _WORDS]) else 2
        repository = await self._find(who, rest[:length])
        match request.method, rest[length:]:
            case "GET", []:
                return await self._datasets.info(who, request, repository, "main")
            case "GET", ["revision", revision]:
                return await self._datasets.info(who, request, repository, revision)
            case "GET", ["tree", revision, *path]:
                return await self._datasets.tree(who, request, repository, revision, "/".join(path))
            case "POST", ["paths-info", revision]:
                return await self._datasets.paths_info(who, request, repository, revision)
            case "GET", ["refs"]:
                return await self._datasets.refs(who, repository)
            case "POST" | "PUT" | "DELETE", _:
                raise read_only()
        raise _nothing(request)

    async def _place(self, who: Principal, request: Request) -> tuple[str, str]:
        """The project that is asked about: `author`, else the key's own."""
        author = request.query_params.get("author")
        if not author or author == who.project:
            return who.project_id, who.project
        place = await self._projects.get(who, author)
        return place.id, place.name

    async def _find(self, who: Principal, parts: list[str]) -> tuple[str, str, str]:
        """(project's id, its name, the model's name) of ``PROJECT/NAME``, or of NAME in the key's own project."""
        if len(parts) == 1:
            return who.project_id, who.project, parts[0]
        if len(parts) != 2:
            raise NotFound("A repository is called PROJECT/NAME.", reason="no_such_model")
        if parts[0] == who.project:
            return who.project_id, who.project, parts[1]
        shared = ".".join(parts)
        if await self._commits.is_lent(who, who.project_id, shared):
            return who.project_id, parts[0], shared
        place = await self._projects.get(who, parts[0])
        return place.id, place.name, parts[1]


def _segments(raw_path: bytes) -> list[str]:
    try:
        return [unquote_to_bytes(part).decode() for part in raw_path[len(_ROOT) :].rstrip(b"/").split(b"/")]
    except UnicodeDecodeError as error:
        raise Invalid("The path is not UTF-8.", reason="bad_path") from error


def _nothing(request: Request) -> NotFound:
    return NotFound(f"There is no {request.method} {request.url.path[:200]} here.", reason="no_such_route")


def _only_models(kind: str) -> Unsupported:
    return Unsupported(
        f"This hub keeps models and data sets; {kind} are not kept here.",
        hint="Put data into a bucket (S3) or a table.",
    )


def _one_line() -> Unsupported:
    return Unsupported(
        "A model has one line, main; there are no branches and pull requests here.",
        hint="Name a commit with a tag: create_tag(…).",
    )
