"""Jobs: the list, an array, and one job with its log as it is written, its attempts, code and fences."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from shlex import join, quote

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Json, Refused, segment
from stratal.console.pages.repositories import commit_href
from stratal.console.pages.runs import to_project_of
from stratal.console.render import Ways
from stratal.console.shown import between, moment
from stratal.console.view import View

LOOKED_THROUGH = 500

COLUMNS = (
    Column("id", "Job", lambda job: job["id"], numeric=True),
    Column("name", "Name", lambda job: job.get("name") or ""),
    Column("state", "State", lambda job: job["state"]),
    Column("command", "Command", lambda job: join(job.get("argv") or ())),
    Column("exit", "Exit", lambda job: job.get("exit_code"), numeric=True),
    Column("time", "Time", lambda job: _seconds(job), numeric=True),
    Column("by", "By", lambda job: job.get("created_by")),
    Column("queued", "Queued", lambda job: job.get("queued_at")),
)


FILES = (
    Column("path", "File", lambda file: file["path"]),
    Column("size", "Size", lambda file: file["size"], numeric=True),
    Column("sha256", "SHA-256", lambda file: file["sha256"]),
)


def _seconds(job: Json) -> float | None:
    """How long an ended job ran; a running one's time is told by the page, not sorted by."""
    ended = moment(job.get("ended_at"))
    return between(job.get("started_at"), job.get("ended_at"), ended) if ended else None


async def jobs(view: View) -> Response:
    """The project's newest jobs."""
    answer = await view.get("/jobs", limit=LOOKED_THROUGH)
    listing = arrange(gathered(answer["jobs"]), COLUMNS, view.query, more=answer.get("next") is not None)
    return view.page(
        "jobs.html",
        "Jobs",
        at="jobs",
        live="job.",
        ways=Ways(
            cli=f"stratal jobs {view.flag}\nstratal run {view.flag} --with scikit-learn -- python train.py",
            python=view.sdk("/jobs"),
        ),
        listing=listing,
    )


def gathered(jobs: Sequence[Json]) -> list[Json]:
    """Jobs with each array's members as one row, in the place of its newest: `members` counts them by state."""
    rows: dict[str, Json] = {}
    for one in jobs:
        array = one.get("array")
        if not array:
            rows[str(one["id"])] = one
            continue
        row = rows.setdefault(array, {**one, "members": Counter()})
        row["members"][one["state"]] += 1
        if row["members"][one["state"]] == 1:
            row["state"] = next(state for state in _TELLING if state in row["members"])
    return list(rows.values())


_TELLING = ("running", "starting", "queued", "failed", "unknown", "stopped", "succeeded")
"""Of the states of an array's members the one that it is shown with: the first of these that any is in."""


async def array(view: View) -> Response:
    """One array: how its members do."""
    number = view.part("array")
    told = await view.get(f"/arrays/{segment(number)}")
    answer = await view.get("/jobs", array=number, limit=1000)
    columns = (Column("index", "Index", lambda job: job.get("array_index"), numeric=True), *COLUMNS)
    return view.page(
        "array.html",
        f"Array {told['id']}",
        at="jobs",
        live="job.",
        ways=Ways(
            cli=f"stratal job show {quote(told['id'])} {view.flag}\nstratal job stop {quote(told['id'])} {view.flag}",
            python=view.sdk(f"/arrays/{segment(number)}"),
        ),
        array=told,
        listing=arrange(answer["jobs"], columns, view.query, default="index"),
    )


async def job(view: View) -> Response:
    """One job."""
    number = view.part("job")
    told, why, tried = await asyncio.gather(
        view.get(f"/jobs/{segment(number)}"),
        view.attempt(f"/jobs/{segment(number)}/why"),
        view.attempt(f"/jobs/{segment(number)}/attempts"),
    )
    return view.page(
        "job.html",
        f"Job {told['id']}",
        at="jobs",
        live="job.",
        ways=Ways(
            cli=f"stratal job show {quote(number)} {view.flag}\nstratal job logs {quote(number)} --follow {view.flag}",
            python=view.sdk(f"/jobs/{segment(number)}"),
        ),
        job=told,
        waits=[] if isinstance(why, Refused) else why["waits_for"],
        attempts=[] if isinstance(tried, Refused) else tried["attempts"],
        command=join(told.get("argv") or ()),
        commit=await commit_href(view, told.get("source") or {}),
        ended=told.get("ended_at") is not None,
    )


async def anywhere(view: View) -> Response:
    """``/jobs/N`` without a project: to the job's page."""
    return await to_project_of(view, f"/jobs/{segment(view.part('job'))}", "job")


async def code(view: View) -> Response:
    """The files of the code snapshot that a job ran."""
    number = view.part("job")
    told = await view.get(f"/jobs/{segment(number)}")
    snapshot = told.get("snapshot")
    if not snapshot:
        raise Refused(404, "no_code", f"Job {number[:20]} ran without code of its own.", "See its command.")
    found = await view.get(f"/code/snapshots/{segment(str(snapshot))}")
    return view.page(
        "code.html",
        f"Code of job {told['id']}",
        at="jobs",
        ways=Ways(
            cli=f"stratal job show {quote(number)} --json {view.flag}",
            python=view.sdk(f"/code/snapshots/{segment(str(snapshot))}"),
        ),
        job=told,
        snapshot=found,
        listing=arrange(found["files"], FILES, view.query),
    )
