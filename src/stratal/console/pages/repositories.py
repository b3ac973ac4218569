"""Repositories: the list, a folder at a revision, a file and who wrote its lines, the history, a commit, a search."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from urllib.parse import unquote, urlsplit

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Json, Refused, segment
from stratal.console.render import Ways
from stratal.console.view import View

COLUMNS = (
    Column("name", "Repository", lambda one: one["name"]),
    Column("description", "Description", lambda one: one.get("description")),
    Column("size", "Size", lambda one: one.get("bytes"), numeric=True),
    Column("pushed", "Pushed", lambda one: one.get("pushed_at")),
    Column("by", "By", lambda one: one.get("pushed_by")),
)
_README = re.compile(r"readme(\.(md|rst|txt))?\Z", re.IGNORECASE)
_REMOTE = re.compile(r"/git/([^/]+)/([^/]+?)(?:\.git)?/?\Z")
_PAGE = 50


async def repositories(view: View) -> Response:
    """The project's repositories."""
    answer = await view.get("/repositories")
    return view.page(
        "repositories.html",
        "Code",
        at="repositories",
        live="repository.",
        ways=Ways(
            cli=f"stratal repo ls {view.flag}\nstratal repo create study {view.flag}",
            python=view.sdk("/repositories"),
        ),
        listing=arrange(answer["repositories"], COLUMNS, view.query),
        quota=answer,
    )


async def repository(view: View) -> Response:
    """One folder of a repository at a revision; its top with the README and the last commit."""
    told, name, rev = await _told(view)
    path = view.query.get("path", "").strip("/")
    if not told["branches"] and not told["tags"]:
        return _page(view, "repository.html", told, rev, path, tree=None, last=None, readme=None)
    address = f"/repositories/{segment(name)}"
    tree, log = await asyncio.gather(
        view.get(f"{address}/tree", rev=rev, path=path),
        view.attempt(f"{address}/commits", rev=rev, path=path, limit=1),
    )
    readme = next(
        (e["name"] for e in tree["entries"] if _README.match(e["name"]) and e["kind"] == "file"), None
    )
    text = None
    if readme is not None:
        text = await view.attempt(f"{address}/file", rev=rev, path=f"{path}/{readme}".strip("/"))
    last = None if isinstance(log, Refused) or not log["commits"] else log["commits"][0]
    return _page(
        view, "repository.html", told, rev, path, tree=tree, last=last, readme=text, readme_name=readme
    )


async def file(view: View) -> Response:
    """One file; with ``?blame`` each line with the commit that wrote it."""
    told, name, rev = await _told(view)
    path = view.query.get("path", "").strip("/")
    address = f"/repositories/{segment(name)}"
    found = await view.get(f"{address}/file", rev=rev, path=path)
    blamed = await view.attempt(f"{address}/blame", rev=rev, path=path) if "blame" in view.query else None
    return _page(
        view,
        "repository_file.html",
        told,
        rev,
        path,
        file=found,
        blame=blamed,
        lines=[] if found["text"] is None else found["text"].splitlines(),
        raw=f"/api/v1{view.base}{address}/raw?rev={segment(rev)}&path={segment(path)}",
    )


async def commits(view: View) -> Response:
    """The history behind a revision, of one path when the address names it."""
    told, name, rev = await _told(view)
    path, skip = view.query.get("path", "").strip("/"), view.query.get("skip", "0")
    answer = await view.get(
        f"/repositories/{segment(name)}/commits", rev=rev, path=path, skip=skip, limit=_PAGE
    )
    return _page(
        view, "repository_commits.html", told, rev, path, commits=answer["commits"], after=answer["next"]
    )


async def commit(view: View) -> Response:
    """One commit with its diff."""
    name, id_ = view.part("repository"), view.part("commit")
    found = await view.get(f"/repositories/{segment(name)}/commits/{segment(id_)}")
    at = f"{name}@{found['id'][:12]}"
    return view.page(
        "repository_commit.html",
        found["subject"][:120] or found["id"][:12],
        at="repositories",
        ways=Ways(
            cli=f"git show {quote(found['id'])}\n"
            f"stratal run {view.flag} --git {quote(at)} -- python train.py",
            python=view.sdk(f"/repositories/{segment(name)}/commits/{found['id']}"),
        ),
        repository=name,
        commit=found,
        diff=diff_lines(found["diff"]),
    )


async def search(view: View) -> Response:
    """Lines that hold the words looked for."""
    told, name, rev = await _told(view)
    words = view.query.get("q", "").strip()
    answer = await view.attempt(f"/repositories/{segment(name)}/search", rev=rev, q=words) if words else None
    return _page(view, "repository_search.html", told, rev, "", answer=answer, words=words)


async def commit_href(view: View, source: Json) -> str | None:
    """The page of the commit that a job's code came from; None when no repository of this project holds it."""
    id_, remote = str(source.get("commit") or ""), str(source.get("remote") or "")
    match = _REMOTE.search(urlsplit(remote).path)
    if not id_ or match is None or unquote(match[1]) != view.project:
        return None
    address = f"/repositories/{segment(unquote(match[2]))}/commits"
    found = await view.attempt(address, rev=id_, limit=1)
    return None if isinstance(found, Refused) else f"{view.base}{address}/{segment(id_)}"


async def code_of(view: View, job: object) -> Json | None:
    """What a job's code came from, as its page tells: `commit`, `href` of the commit's page if there is one, `dirty`."""
    if not job:
        return None
    told = await view.attempt(f"/jobs/{segment(str(job))}")
    source = {} if isinstance(told, Refused) else told.get("source") or {}
    if not source.get("commit"):
        return None
    diff = f"/api/v1{view.base}/jobs/{segment(str(job))}/diff" if source.get("dirty") else ""
    return {"commit": source["commit"], "href": await commit_href(view, source) or "", "diff": diff}


async def _told(view: View) -> tuple[Json, str, str]:
    """The repository, its name, and the revision looked at: the address's, else HEAD's branch."""
    name = view.part("repository")
    told = await view.get(f"/repositories/{segment(name)}")
    return told, name, view.query.get("rev") or str(told["head"])


def _page(view: View, template: str, told: Json, rev: str, path: str, **context: object) -> Response:
    name = str(told["name"])
    parts = path.split("/") if path else []
    return view.page(
        template,
        name,
        at="repositories",
        live="repository.",
        ways=Ways(
            cli=f'eval "$(stratal env {view.flag})"\ngit clone {quote(told["clone_url"])}\n'
            f"stratal run {view.flag} --git {quote(f'{name}@{rev}')} -- python train.py",
            python=view.sdk(f"/repositories/{segment(name)}"),
        ),
        repository=told,
        here=f"{view.base}/repositories/{segment(name)}",
        rev=rev,
        below=path,
        steps=[(part, "/".join(parts[: index + 1])) for index, part in enumerate(parts)],
        **context,
    )


@dataclass(frozen=True, slots=True)
class DiffLine:
    """A line of a diff: ``add``, ``del``, ``file``, ``at`` or ``same``."""

    kind: str
    text: str


def diff_lines(diff: str) -> Sequence[DiffLine]:
    """The diff's lines, each with its kind: heads of files only before their first hunk."""
    lines, inside = [], False
    for text in diff.splitlines():
        if text.startswith("diff --git "):
            inside = False
        elif text.startswith("@@"):
            inside = True
        if inside:
            kind = {"+": "add", "-": "del", "@": "meta"}.get(text[:1], "same")
        else:
            kind = "file" if text.startswith("diff --git ") else "meta"
        lines.append(DiffLine(kind, text))
    return lines
