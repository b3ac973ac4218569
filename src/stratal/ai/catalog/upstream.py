"""Pulling a model from a hub elsewhere: which one, and with which key, is the server's setting, never a caller's.

A revision is resolved to its commit first, and everything is read at that commit, so what is kept is one state
of the repository. A file is kept when it has the checksum that the hub tells for it. Nothing is unpacked or opened
but the first bytes of files whose names do not say whether they are pickles.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import orjson

from stratal.ai.models.commits import Add, Change, Commits, Link, NewCommit, Remove
from stratal.ai.models.model import ModelVersion
from stratal.ai.models.reading import HEAD_BYTES, is_opaque, is_pickle, is_pickle_name
from stratal.ai.models.registered import RegisteredModels
from stratal.collab.artifacts import check_path
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.errors import Conflict, Invalid, NotFound, TooLarge, Unavailable

TAG = "stratal.upstream"
MAX_FILES = 2_000
MAX_BYTES = 512 << 30
_DESCRIBED = 4 << 20  # what a hub tells of a repository
_SMALL = 8 << 20  # files without a SHA-256 are texts; larger ones must have one
_NAMED = re.compile(
    r"hf:(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[\w.-]{1,120}))?\Z",
    re.ASCII,
)
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_WEIGHTS = (".safetensors", ".onnx", ".gguf")
_NEVER = (".h5", ".msgpack", ".tflite", ".ot", ".mlmodel", ".py", ".zip", ".tar", ".gz", ".xz", ".bz2", ".7z")
"""Weights of other libraries, code and archives: nothing here loads them."""
_OPENED = (".bin", ".pt", ".pth", ".ckpt")
_HIDDEN = (".git", ".gitattributes", ".gitignore")


@dataclass(frozen=True, slots=True)
class Named:
    """``hf:org/name@revision``."""

    repo: str
    revision: str


@dataclass(frozen=True, slots=True)
class Pulled:
    version: ModelVersion
    commit: str
    left_out: Sequence[tuple[str, str]]
    """(path, why) of files that were not taken."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a pull must find: the commit, and the SHA-256 of the files that are known, by path."""

    commit: str
    sums: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    size: int
    sha256: str
    git_blob: str


class Upstream:
    """`address` is the hub's (None: none is set), `token` the key it is asked with, `transport` the way there."""

    def __init__(
        self,
        address: str | None,
        token: str | None,
        names: RegisteredModels,
        commits: Commits,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._address = None if address is None else address.rstrip("/")
        self._token = token
        self._names = names
        self._commits = commits
        self._transport = transport

    async def pull(
        self,
        who: Principal,
        project_id: str,
        source: str,
        *,
        name: str | None = None,
        pickles: bool = False,
        only: str | None = None,
        expected: Expected | None = None,
        adding: Mapping[str, bytes] | None = None,
    ) -> Pulled:
        """Make ``hf:org/name@revision`` the next version of the model `name` (default: its own name).

        With `only`, a pattern (``*Q4_K_M*``), of the files of weights those that it fits are taken; files without
        weights come along. With `pickles`, which an owner may say, files that carry one are taken too and labelled;
        without, they are left out where there are other weights, and refused where there are none. Raises `Invalid`,
        `NotFound`, `Denied`, `Conflict` for a name that is another model's, `TooLarge`, and `Unavailable` when the hub does
        not answer. Files of `adding` are put beside, or in place of, the hub's. With `expected`, another commit or another
        checksum than is known raises `Invalid`. Whatever goes wrong, nothing is kept.
        """
        require(who, "models.write", project_id)
        if pickles:
            require(who, "models.trust", project_id)
        asked = parse_source(source)
        async with self._client() as client:
            commit, files = await _described(client, asked)
            files, passed = _fitting(files, only)
            chosen, left_out = await _chosen(client, asked, commit, files, pickles=pickles)
            left_out = [*left_out, *passed]
            if expected is not None:
                _check_expected(asked, commit, chosen, expected)
            name = name or asked.repo.rpartition("/")[2]
            is_new = await self._claim(who, project_id, name, asked.repo)
            received: list[str] = []
            try:
                changes = await self._fetched(who, project_id, name, client, asked, commit, chosen, received)
                _check_fetched(changes, expected)
                beside = adding or {}
                changes = [change for change in changes if change.path not in beside]
                changes += [Add(path, data) for path, data in beside.items()]
                head = await self._commits.at(who, project_id, name)
                there = {file.path for file in head.version.files} if head.version else set()
                changes += [Remove(path) for path in sorted(there - {change.path for change in changes})]
                described = f"Pulled from hf:{asked.repo} at its commit {commit}."
                new = NewCommit(f"{asked.repo}@{commit[:12]}", described, "", changes)
                point = await self._commits.commit(who, project_id, name, new)
            except BaseException:
                await self._commits.discard(who, project_id, received)
                if is_new:
                    await self._names.delete(who, project_id, name)
                raise
        assert point.version is not None
        return Pulled(point.version, commit, left_out)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        if self._address is None:
            raise Invalid(
                "No hub is set to pull models from.",
                hint="Whoever runs the server sets STRATAL_HUB_UPSTREAM (and STRATAL_HUB_UPSTREAM_TOKEN).",
                reason="no_upstream",
            )
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        timeout = httpx.Timeout(60.0, connect=10.0)
        secure = urlsplit(self._address).scheme == "https"

        async def check(request: httpx.Request) -> None:
            if secure and request.url.scheme != "https":
                raise Unavailable("The hub leads away from https.", reason="upstream_failed")

        try:
            # What the hub leads to elsewhere (a store of large files) is asked without the key: httpx drops it.
            async with httpx.AsyncClient(
                base_url=self._address,
                headers=headers,
                timeout=timeout,
                follow_redirects=True,
                max_redirects=5,
                trust_env=False,
                transport=self._transport,
                event_hooks={"request": [check]},
            ) as client:
                yield client
        except httpx.HTTPError as error:
            raise Unavailable(
                f"The hub did not answer: {type(error).__name__}.",
                reason="upstream_failed",
                retry_after_seconds=30,
            ) from error

    async def _claim(self, who: Principal, project_id: str, name: str, repo: str) -> bool:
        """Take the name; True when it was free. Raises `Conflict` when it is another model's."""
        try:
            await self._names.create(
                who, project_id, name, description=f"From hf:{repo}.", tags={TAG: f"hf:{repo}"}
            )
        except Conflict:
            there = await self._names.get(who, project_id, name)
            if there.tags.get(TAG) != f"hf:{repo}":
                raise
            return False
        return True

    async def _fetched(
        self,
        who: Principal,
        project_id: str,
        name: str,
        client: httpx.AsyncClient,
        asked: Named,
        commit: str,
        files: Sequence[_File],
        received: list[str],
    ) -> list[Change]:
        """The files' bytes, here; `received` is told which of them came for this."""
        oids = sorted({file.sha256 for file in files if file.sha256})
        have: set[str] = set()
        for start in range(0, len(oids), 500):
            have |= await self._commits.present(who, project_id, name, oids[start : start + 500])
        changes: list[Change] = []
        for file in files:
            if not file.sha256:
                changes.append(Add(file.path, await _small(client, asked, commit, file)))
                continue
            if file.sha256 not in have:
                async with _opened(client, asked, commit, file.path) as answer:
                    await self._commits.receive(
                        who, project_id, file.sha256, file.size, answer.aiter_bytes(1 << 20)
                    )
                received.append(file.sha256)
                have.add(file.sha256)
            changes.append(Link(file.path, file.sha256, file.size))
        return changes


def _check_expected(asked: Named, commit: str, files: Sequence[_File], expected: Expected) -> None:
    """Raises `Invalid` before anything is fetched, as far as the hub tells what it has."""
    if commit != expected.commit:
        raise Invalid(
            f"The hub says that {asked.repo} is at {commit}, and {expected.commit} was asked for. Nothing was kept.",
            reason="wrong_commit",
        )
    there = {file.path: file.sha256 for file in files}
    for path, sha256 in expected.sums.items():
        if path not in there:
            raise Invalid(
                f"The hub has no {path} in {asked.repo} at {commit}. Nothing was kept.",
                reason="wrong_checksum",
            )
        if there[path]:
            _check_sum(path, there[path], sha256)


def _check_fetched(changes: Sequence[Change], expected: Expected | None) -> None:
    """The same for small files, whose checksum the hub does not tell."""
    for change in changes:
        known = expected.sums.get(change.path) if expected is not None else None
        if known and isinstance(change, Add):
            _check_sum(change.path, hashlib.sha256(change.data).hexdigest(), known)


def _check_sum(path: str, found: str, known: str) -> None:
    if found != known:
        raise Invalid(
            f"{path} has the SHA-256 {found} there, and {known} is the one that is known. Nothing was kept.",
            hint="Somebody may have changed what the hub gives out: look at it before you pull it by hf:….",
            reason="wrong_checksum",
        )


def parse_source(source: str) -> Named:
    """Raises `Invalid`."""
    match = _NAMED.match(source)
    if match is None or ".." in source or "--" in match["repo"]:
        raise Invalid(
            f"{source[:200]!r} is not like hf:org/name@revision.",
            hint="The revision is a commit, a tag or a branch; without one it is main.",
            reason="bad_source",
        )
    return Named(match["repo"], match["revision"] or "main")


async def _described(client: httpx.AsyncClient, asked: Named) -> tuple[str, list[_File]]:
    """The commit that the revision names now, and the files there. Raises `Invalid` for what could not be kept."""
    revision = quote(asked.revision, safe="")
    address = f"/api/models/{asked.repo}/revision/{revision}"
    async with client.stream("GET", address, params={"blobs": "true"}) as answer:
        told = b""
        async for chunk in answer.aiter_bytes(
            1 << 16
        ):  # unpacked as it comes, so that little cannot become much
            told += chunk
            if len(told) > _DESCRIBED:
                raise Unavailable("The hub's answer is too long.", reason="upstream_failed")
    if answer.status_code in (401, 403, 404):
        raise NotFound(
            f"The hub has no {asked.repo}@{asked.revision}, or does not show it to this server.",
            hint="A private or gated model needs STRATAL_HUB_UPSTREAM_TOKEN.",
            reason="no_such_upstream_model",
        )
    if answer.status_code != 200:
        raise Unavailable(f"The hub answered {answer.status_code}.", reason="upstream_failed")
    try:
        said = orjson.loads(bytes(told))
        commit = said["sha"]
        files = [_file(one) for one in said["siblings"]]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise Unavailable("The hub's answer cannot be read.", reason="upstream_failed") from None
    if not isinstance(commit, str) or not _COMMIT.match(commit):
        raise Unavailable("The hub names no commit.", reason="upstream_failed")
    if len(files) > MAX_FILES or sum(file.size for file in files) > MAX_BYTES:
        raise TooLarge(f"The repository is larger than {MAX_FILES} files or {MAX_BYTES >> 30} GiB.")
    for file in files:
        check_path(file.path)
    return commit, files


def _fitting(files: list[_File], only: str | None) -> tuple[list[_File], list[tuple[str, str]]]:
    """The files but the weights that `only` does not fit, and those. Raises `Invalid` when it fits none."""
    if only is None:
        return files, []
    weights = [file for file in files if file.path.lower().endswith((*_WEIGHTS, *_OPENED))]
    passed = [file for file in weights if not fnmatchcase(file.path, only)]
    if len(passed) == len(weights):
        listed = ", ".join(file.path for file in weights[:6])
        raise Invalid(
            f"No weights there are like {only[:100]!r}; there are {listed}.", reason="no_such_weights"
        )
    return [file for file in files if file not in passed], [(file.path, "not asked for") for file in passed]


def _file(said: dict[str, Any]) -> _File:
    lfs = said.get("lfs") or {}
    size, sha256, blob = lfs.get("size", said.get("size")), lfs.get("sha256") or "", said.get("blobId") or ""
    if not isinstance(size, int) or size < 0 or not isinstance(said["rfilename"], str):
        raise TypeError
    if (sha256 and not _SHA256.match(sha256)) or not isinstance(blob, str):
        raise TypeError
    return _File(said["rfilename"], size, sha256, blob)


async def _chosen(
    client: httpx.AsyncClient, asked: Named, commit: str, files: Sequence[_File], *, pickles: bool
) -> tuple[list[_File], list[tuple[str, str]]]:
    kept: list[_File] = []
    left_out: list[tuple[str, str]] = []
    carrying: list[_File] = []
    for file in files:
        name = file.path.lower()
        if name.rpartition("/")[2] in _HIDDEN or name.startswith(".git/"):
            continue
        if name.endswith(_NEVER):
            left_out.append((file.path, "nothing here loads it"))
        elif is_pickle_name(name) or (is_opaque(file.path) and await _carries(client, asked, commit, file)):
            carrying.append(file)
        elif not file.sha256 and file.size > _SMALL:
            left_out.append((file.path, "the hub tells no checksum for it"))
        else:
            kept.append(file)
    if pickles:
        return [*kept, *carrying], left_out
    weights = any(file.path.lower().endswith(_WEIGHTS) for file in kept)
    if carrying and not weights:
        raise Invalid(
            f"The weights of {asked.repo} are pickles ({', '.join(file.path for file in carrying[:3])}): opening one "
            "runs code. Nothing was kept.",
            hint="Look for a revision with safetensors, or have an owner pull it with --allow-pickle.",
            reason="pickle_refused",
        )
    return kept, [*left_out, *((file.path, "it carries a pickle") for file in carrying)]


async def _carries(client: httpx.AsyncClient, asked: Named, commit: str, file: _File) -> bool:
    """Is the file a pickle, by its first bytes?"""
    if file.size == 0:
        return False
    async with _opened(client, asked, commit, file.path, {"Range": f"bytes=0-{HEAD_BYTES - 1}"}) as answer:
        head = b""
        async for chunk in answer.aiter_bytes(HEAD_BYTES):
            head += chunk
            if len(head) >= HEAD_BYTES:
                break
    return is_pickle(head[:HEAD_BYTES])


async def _small(client: httpx.AsyncClient, asked: Named, commit: str, file: _File) -> bytes:
    data = b""
    async with _opened(client, asked, commit, file.path) as answer:
        async for chunk in answer.aiter_bytes(1 << 16):
            data += chunk
            if len(data) > file.size:
                break
    made = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - git's naming
    if len(data) != file.size or (file.git_blob and made != file.git_blob):
        raise Invalid(
            f"{file.path} came with other bytes than the hub tells. Nothing was kept.",
            reason="wrong_checksum",
        )
    return data


@asynccontextmanager
async def _opened(
    client: httpx.AsyncClient, asked: Named, commit: str, path: str, headers: dict[str, str] | None = None
) -> AsyncIterator[httpx.Response]:
    address = f"/{asked.repo}/resolve/{commit}/{quote(path)}"
    plain = {"Accept-Encoding": "identity", **(headers or {})}
    async with client.stream("GET", address, headers=plain) as answer:
        if answer.status_code not in (200, 206):
            raise Unavailable(
                f"The hub answered {answer.status_code} for {path[:200]}.", reason="upstream_failed"
            )
        yield answer
