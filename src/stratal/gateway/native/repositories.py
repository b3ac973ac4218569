"""``/api/v1/projects/{project}/repositories``: repositories, and looking into them."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from stratal.collab.repositories.model import Commit, Refs, Repository
from stratal.collab.repositories.reading import MOST_FILE, is_text
from stratal.collab.repositories.room import Shelf
from stratal.gateway.native.bodies import Strict
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Project, Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]
Rev = Annotated[str, Query(max_length=250, description="A branch, tag or commit; absent: where HEAD is.")]
Path = Annotated[str, Query(max_length=4096)]

_RAW = 64 << 20


class NewRepository(Strict):
    name: str
    description: str = ""


class Change(Strict):
    """What is absent or null stays as it is."""

    protected: list[str] | None = None
    head: str | None = None
    description: str | None = None


class Wanted(Strict):
    revision: str = ""


class NewQuota(Strict):
    bytes: int | None = None


def router(shelf: Shelf, projects: Projects, url: str) -> APIRouter:
    """`url` is the platform's address, for what to clone."""
    api = APIRouter(tags=["repositories"])
    repositories, reading = shelf.repositories, shelf.reading

    async def look(who: Principal, project: str, name: str, rev: str) -> tuple[Project, Repository, str]:
        place = await projects.get(who, project)
        found = await repositories.get(who, place.id, name)
        return place, found, await reading.resolve(found, rev)

    def shown(place: Project, found: Repository) -> dict[str, object]:
        return {
            **_repository(found),
            "project": place.name,
            "clone_url": f"{url}/git/{place.name}/{found.name}.git",
        }

    @api.get("/projects/{project}/repositories")
    async def list_repositories(who: Who, project: str) -> dict[str, object]:
        """The project's repositories, by name, and the quota that they share."""
        place = await projects.get(who, project)
        found = await repositories.list(who, place.id)
        quota, used = await repositories.quota(who, place.id)
        return {
            "repositories": [shown(place, one) for one in found],
            "quota_bytes": quota,
            "used_bytes": used,
        }

    @api.post("/projects/{project}/repositories", status_code=201)
    async def create_repository(who: Who, project: str, body: NewRepository) -> dict[str, object]:
        """Make an empty repository; its HEAD follows the first branch pushed."""
        place = await projects.get(who, project)
        made = await repositories.create(who, place.id, body.name, description=body.description)
        return shown(place, made)

    @api.put("/projects/{project}/repository-quota")
    async def set_quota(who: Who, project: str, body: NewQuota) -> dict[str, object]:
        """How many bytes the project's repositories may hold together; null: the instance's own limit."""
        place = await projects.get(who, project)
        await repositories.set_quota(who, place.id, body.bytes)
        quota, used = await repositories.quota(who, place.id)
        return {"project": place.name, "quota_bytes": quota, "used_bytes": used}

    @api.get("/projects/{project}/repositories/{name}")
    async def get_repository(who: Who, project: str, name: str) -> dict[str, object]:
        """One repository with its branches and tags."""
        place = await projects.get(who, project)
        found = await repositories.get(who, place.id, name)
        return {**shown(place, found), **_refs(await repositories.refs(found))}

    @api.patch("/projects/{project}/repositories/{name}")
    async def change_repository(who: Who, project: str, name: str, body: Change) -> dict[str, object]:
        """Change which branches are protected, which branch HEAD names, or the description."""
        place = await projects.get(who, project)
        changed = await repositories.change(
            who, place.id, name, protected=body.protected, head=body.head, description=body.description
        )
        return {**shown(place, changed), **_refs(await repositories.refs(changed))}

    @api.delete("/projects/{project}/repositories/{name}", status_code=204)
    async def remove_repository(who: Who, project: str, name: str) -> None:
        """Remove a repository and everything in it. Cannot be undone."""
        place = await projects.get(who, project)
        await repositories.remove(who, place.id, name)
        await shelf.lfs.collect()

    @api.get("/projects/{project}/repositories/{name}/tree")
    async def read_tree(
        who: Who, project: str, name: str, rev: Rev = "", path: Path = ""
    ) -> dict[str, object]:
        """What lies in a folder."""
        _, found, commit = await look(who, project, name, rev)
        entries = await reading.tree(found, commit, path)
        return {
            "commit": commit,
            "path": path,
            "entries": [{"name": e.name, "kind": e.kind, "id": e.object, "size": e.size} for e in entries],
        }

    @api.get("/projects/{project}/repositories/{name}/file")
    async def read_file(who: Who, project: str, name: str, path: Path, rev: Rev = "") -> dict[str, object]:
        """A text file's text (null for one that is not text), cut at 1 MiB."""
        _, found, commit = await look(who, project, name, rev)
        data, cut = await reading.file(found, commit, path, most=MOST_FILE)
        text = data.decode("utf-8", "replace") if is_text(data) else None
        return {"commit": commit, "path": path, "text": text, "bytes": len(data), "cut": cut}

    @api.get("/projects/{project}/repositories/{name}/raw")
    async def read_raw(who: Who, project: str, name: str, path: Path, rev: Rev = "") -> Response:
        """A file's bytes, to be saved, up to 64 MiB."""
        _, found, commit = await look(who, project, name, rev)
        data, _ = await reading.file(found, commit, path, most=_RAW)
        headers = {
            "X-Content-Type-Options": "nosniff",
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(path.rsplit('/', 1)[-1], safe='')}",
        }
        return Response(data, media_type="application/octet-stream", headers=headers)

    @api.get("/projects/{project}/repositories/{name}/commits")
    async def list_commits(
        who: Who,
        project: str,
        name: str,
        rev: Rev = "",
        path: Path = "",
        skip: Annotated[int, Query(ge=0, le=10**7)] = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> dict[str, object]:
        """The history behind a revision, newest first; with `path` only what touched it."""
        _, found, commit = await look(who, project, name, rev)
        commits = await reading.log(found, commit, path=path, skip=skip, limit=limit + 1)
        return {
            "commit": commit,
            "commits": [_commit(one) for one in commits[:limit]],
            "next": skip + limit if len(commits) > limit else None,
        }

    @api.get("/projects/{project}/repositories/{name}/commits/{commit}")
    async def read_commit(who: Who, project: str, name: str, commit: str) -> dict[str, object]:
        """A commit, the paths it touched, and its diff against its first parent, cut at 512 KiB."""
        _, found, id_ = await look(who, project, name, commit)
        told, changes, diff, cut = await reading.commit(found, id_)
        return {
            **_commit(told),
            "changes": [{"path": c.path, "added": c.added, "removed": c.removed} for c in changes],
            "diff": diff,
            "diff_cut": cut,
        }

    @api.get("/projects/{project}/repositories/{name}/blame")
    async def read_blame(who: Who, project: str, name: str, path: Path, rev: Rev = "") -> dict[str, object]:
        """Which commit wrote each line of a text file."""
        _, found, commit = await look(who, project, name, rev)
        lines = await reading.blame(found, commit, path)
        return {
            "commit": commit,
            "path": path,
            "lines": [
                {
                    "commit": line.commit,
                    "author": line.author,
                    "at": iso(line.at),
                    "subject": line.subject,
                    "text": line.text,
                }
                for line in lines
            ],
        }

    @api.get("/projects/{project}/repositories/{name}/search")
    async def search_repository(
        who: Who, project: str, name: str, q: Annotated[str, Query(max_length=200)], rev: Rev = ""
    ) -> dict[str, object]:
        """Lines of text files that hold the words, whatever their case."""
        _, found, commit = await look(who, project, name, rev)
        lines, more = await reading.search(found, commit, q)
        return {
            "commit": commit,
            "found": [{"path": f.path, "line": f.line, "text": f.text} for f in lines],
            "more": more,
        }

    @api.post("/projects/{project}/repositories/{name}/snapshots", status_code=201)
    async def make_snapshot(who: Who, project: str, name: str, body: Wanted) -> dict[str, object]:
        """Make the code snapshot of a revision, for a job to run."""
        place = await projects.get(who, project)
        found = await repositories.get(who, place.id, name)
        made = await shelf.checkout.snapshot(who, place.id, name, body.revision)
        return {
            "id": made.snapshot,
            "commit": made.commit,
            "branch": made.branch,
            "files": made.files,
            "left_out": list(made.left_out),
            "remote": shown(place, found)["clone_url"],
        }

    return api


def _repository(found: Repository) -> dict[str, object]:
    return {
        "name": found.name,
        "id": found.id,
        "description": found.description,
        "protected": list(found.protected),
        "bytes": found.bytes,
        "created_at": iso(found.created_at),
        "created_by": found.created_by,
        "pushed_at": iso(found.pushed_at) if found.pushed_at is not None else None,
        "pushed_by": found.pushed_by,
    }


def _refs(refs: Refs) -> dict[str, object]:
    return {
        "head": refs.head,
        "branches": [{"name": n, "commit": c} for n, c in refs.branches.items()],
        "tags": [{"name": n, "commit": c} for n, c in refs.tags.items()],
    }


def _commit(commit: Commit) -> dict[str, object]:
    return {
        "id": commit.id,
        "parents": list(commit.parents),
        "author": commit.author,
        "email": commit.email,
        "authored_at": iso(commit.authored_at),
        "committed_at": iso(commit.committed_at),
        "subject": commit.subject,
        "message": commit.message,
    }
