"""``/api/v1/projects/{project}/repositories/{name}/merges``: merge requests, and what checked a commit."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from stratal.collab.repositories.merges import Merge, Standing
from stratal.collab.repositories.model import Check
from stratal.collab.repositories.room import Shelf
from stratal.gateway.native.bodies import Strict
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]


class NewMerge(Strict):
    source: str = Field(max_length=250)
    target: str = Field("", max_length=250, description="Absent: where HEAD is.")
    title: str = Field(max_length=400)
    text: str = Field("", max_length=40_000)


class Accept(Strict):
    method: Literal["auto", "commit", "fast_forward"] = Field(
        "auto", description="auto: move the target on when nothing else came, else by a merge commit."
    )
    despite_checks: bool = False


def router(shelf: Shelf, projects: Projects) -> APIRouter:
    api = APIRouter(tags=["repositories"])
    merges = shelf.merges

    @api.get("/projects/{project}/repositories/{name}/merges")
    async def list_merges(
        who: Who, project: str, name: str, state: Literal["", "open", "merged", "closed"] = ""
    ) -> dict[str, object]:
        """The repository's merge requests, newest first."""
        place = await projects.get(who, project)
        found = await merges.list(who, place.id, name, state=state)
        return {"merges": [_merge(one) for one in found]}

    @api.post("/projects/{project}/repositories/{name}/merges", status_code=201)
    async def create_merge(who: Who, project: str, name: str, body: NewMerge) -> dict[str, object]:
        """Ask that a branch go into another."""
        place = await projects.get(who, project)
        made = await merges.create(
            who, place.id, name, source=body.source, target=body.target, title=body.title, text=body.text
        )
        return _merge(made)

    @api.get("/projects/{project}/repositories/{name}/merges/{number}")
    async def get_merge(who: Who, project: str, name: str, number: int) -> dict[str, object]:
        """A merge request, how its branches stand to each other, and its checks."""
        place = await projects.get(who, project)
        merge, standing = await merges.get(who, place.id, name, number)
        return {**_merge(merge), **_standing(standing)}

    @api.get("/projects/{project}/repositories/{name}/merges/{number}/diff")
    async def get_diff(who: Who, project: str, name: str, number: int) -> dict[str, object]:
        """Its commits, the paths it changes, and its diff, cut at 512 KiB."""
        place = await projects.get(who, project)
        commits, changes, diff, cut = await merges.changes(who, place.id, name, number)
        return {
            "commits": [
                {"id": c.id, "author": c.author, "at": iso(c.authored_at), "subject": c.subject}
                for c in commits
            ],
            "changes": [{"path": c.path, "added": c.added, "removed": c.removed} for c in changes],
            "diff": diff,
            "diff_cut": cut,
        }

    @api.post("/projects/{project}/repositories/{name}/merges/{number}/accept")
    async def accept_merge(who: Who, project: str, name: str, number: int, body: Accept) -> dict[str, object]:
        """Merge it."""
        place = await projects.get(who, project)
        return _merge(
            await merges.merge(
                who, place.id, name, number, method=body.method, despite_checks=body.despite_checks
            )
        )

    @api.post("/projects/{project}/repositories/{name}/merges/{number}/close")
    async def close_merge(who: Who, project: str, name: str, number: int) -> dict[str, object]:
        """Close it unmerged."""
        place = await projects.get(who, project)
        return _merge(await merges.close(who, place.id, name, number))

    @api.get("/projects/{project}/repositories/{name}/checks")
    async def list_checks(
        who: Who, project: str, name: str, rev: Annotated[str, Query(max_length=250)] = ""
    ) -> dict[str, object]:
        """What checked a commit."""
        place = await projects.get(who, project)
        found = await shelf.repositories.get(who, place.id, name)
        commit = await shelf.reading.resolve(found, rev)
        checked = await shelf.checks.of_commit(found.id, commit)
        return {"commit": commit, "checks": [_check(one) for one in checked]}

    return api


def _merge(one: Merge) -> dict[str, object]:
    return {
        "number": one.number,
        "name": f"{one.repository}!{one.number}",
        "repository": one.repository,
        "title": one.title,
        "text": one.text,
        "source": one.source,
        "target": one.target,
        "state": one.state,
        "created_at": iso(one.created_at),
        "created_by": one.created_by,
        "ended_at": None if one.ended_at is None else iso(one.ended_at),
        "ended_by": one.ended_by,
        "merge_commit": one.merge_commit,
    }


def _standing(one: Standing) -> dict[str, object]:
    joined = one.joined
    return {
        "source_commit": one.source_commit,
        "target_commit": one.target_commit,
        "ahead": None if joined is None else joined.ahead,
        "fast_forward": None if joined is None else joined.fast_forward,
        "related": None if joined is None else joined.base is not None,
        "conflicts": [] if joined is None else list(joined.conflicts),
        "checks": [_check(check) for check in one.checks],
    }


def _check(one: Check) -> dict[str, object]:
    return {
        "name": one.name,
        "state": one.state,
        "job": one.job,
        "words": one.words,
        "created_at": iso(one.created_at),
    }
