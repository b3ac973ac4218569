"""Runs of pipelines from Python: send the code, start, follow.

>>> from pathlib import Path
>>> from stratal.sdk import Client, pipeline_runs
>>> client = Client()
>>> run = pipeline_runs.start(client, Path("nightly.py"), parameters={"day": "2024-01-01"})
>>> pipeline_runs.wait(client, run["id"])["state"]
"""

import keyword
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stratal.sdk.client import Client
from stratal.sdk.jobs import send
from stratal.sdk.worktree import Entry, TreeError, WorkTree, read_worktree

Json = dict[str, Any]
ENDED = {"succeeded", "failed", "cancelled"}
CARRIED = ".stratal"
_PEP723 = re.compile(r"(?m)^# /// script\s*$\s(?P<content>(?:^#(?:| .*)$\s)+)^# ///\s*$")


def tree_of(file: Path, *, without: Path | None = None) -> tuple[WorkTree, str]:
    """The working tree around `file` with the SDK that its workers run, and where the file lies from its `cwd`.

    Raises `TreeError`.
    """
    file = file.resolve()
    if not file.is_file() or file.suffix != ".py":
        raise TreeError(f"There is no Python file {file}.", "For example: stratal pipeline run nightly.py")
    here = Path.cwd().resolve()
    folder = here if file.is_relative_to(here) else file.parent
    tree = read_worktree(folder, without=without)
    if any(entry.path.startswith(CARRIED + "/") for entry in tree.entries):
        raise TreeError(f"The folder {CARRIED} is kept for the platform.", "Rename yours.")
    return replace(tree, entries=[*tree.entries, *_sdk()]), file.relative_to(folder).as_posix()


MODELS_FILE = ".stratal_transform.py"
"""The file that makes a folder of SQL models a pipeline; it goes along with the code and is nowhere else."""


def start_models(
    client: Client,
    folder: Path,
    *,
    select: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    parallel: int | None = None,
    use_cache: bool = True,
    without: Path | None = None,
) -> Json:
    """Send the code around a folder of SQL models, or of a dbt project, and queue a run of them. Returns the run.

    Raises `ApiError`, `TreeError`, `ValueError` for a variable of dbt's whose name is none in Python.
    """
    folder = folder.resolve()
    here = Path.cwd().resolve()
    base = here if folder.is_relative_to(here) and folder != here else folder.parent
    tree = read_worktree(base, without=without)
    inside = folder.relative_to(base).as_posix()
    if is_dbt(folder):
        text = _with_dbt(inside, select, list(parameters or {}))
    else:
        text = f"import stratal\n\ntransform = stratal.models({inside!r}, select={list(select)!r})\n"
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "transform.py"
        made.write_text(text, encoding="utf-8")
        path = f"{tree.cwd}/{MODELS_FILE}" if tree.cwd else MODELS_FILE
        own = [entry for entry in tree.entries if entry.path != path]
        size = made.stat().st_size
        tree = replace(tree, entries=[*own, Entry(path, "100644", size, made), *_sdk()])
        snapshot = send(client, tree)
    body = {
        "file": MODELS_FILE,
        "snapshot": snapshot,
        "cwd": tree.cwd,
        "source": {name: value for name, value in tree.source.items() if name != "diff"},
        "pipeline": "transform",
        "parameters": dict(parameters or {}),
        "parallel": parallel,
        "use_cache": use_cache,
    }
    return client.post(client.path("/pipelines/runs"), body)


def is_dbt(folder: Path) -> bool:
    """Is the folder a project of dbt?"""
    return (folder / "dbt_project.yml").is_file()


def _with_dbt(inside: str, select: Sequence[str], variables: Sequence[str]) -> str:
    for name in variables:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"{name!r} cannot be set from here: give it a name that Python could have.")
    given = ", ".join(f"{name}={name}" for name in variables)
    return (
        f"import stratal\n\nproject = stratal.dbt_step({inside!r}, select={list(select)!r})\n\n\n"
        f"@stratal.pipeline\ndef transform({', '.join(variables)}):\n    return project({given})\n"
    )


def _sdk() -> list[Entry]:
    """The files of this package that a worker needs: the standard library is all they import."""
    package = Path(__file__).resolve().parents[1]
    wanted = [
        package / "__init__.py",
        package / "sdk" / "__init__.py",
        package / "sdk" / "amounts.py",
        *(package / "sdk" / "pipelines").glob("*.py"),
    ]
    return [
        Entry(
            f"{CARRIED}/stratal/{path.relative_to(package).as_posix()}", "100644", path.stat().st_size, path
        )
        for path in sorted(wanted)
    ]


def inline_requirements(file: Path) -> str:
    """The ``dependencies`` of the file's inline metadata (PEP 723), one a line; "" without any. Raises `TreeError`."""
    import tomllib

    found = _PEP723.search(file.read_text(encoding="utf-8"))
    if found is None:
        return ""
    lines = found["content"].splitlines()
    text = "\n".join(line[2:] if line.startswith("# ") else line[1:] for line in lines)
    try:
        return "".join(f"{line}\n" for line in tomllib.loads(text).get("dependencies", []))
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise TreeError(f"The inline metadata of {file} is not valid: {error}") from error


def start(
    client: Client,
    file: Path,
    *,
    pipeline: str = "",
    parameters: Mapping[str, Any] | None = None,
    requirements: str = "",
    network: str | None = None,
    parallel: int | None = None,
    use_cache: bool = True,
    partitions: Sequence[str] | None = None,
    without: Path | None = None,
) -> Json:
    """Send the code around `file` and queue a run of its pipeline, once for each of `partitions` if given.

    The file's own inline requirements are installed beside `requirements`. Returns the run. Raises `ApiError`, `TreeError`.
    """
    body = _sent(client, file, requirements, without) | {
        "pipeline": pipeline,
        "parameters": dict(parameters or {}),
        "network": network,
        "parallel": parallel,
        "use_cache": use_cache,
        "partitions": None if partitions is None else list(partitions),
    }
    return client.post(client.path("/pipelines/runs"), body)


def _sent(client: Client, file: Path, requirements: str, without: Path | None) -> Json:
    """Send the code; the part of a body that says which it is and what it needs."""
    tree, inside = tree_of(file, without=without)
    return {
        "file": inside,
        "snapshot": send(client, tree),
        "cwd": tree.cwd,
        "source": {name: value for name, value in tree.source.items() if name != "diff"},
        "requirements": inline_requirements(file) + requirements,
    }


def deploy(
    client: Client,
    file: Path,
    name: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    requirements: str = "",
    network: str | None = None,
    parallel: int | None = None,
    schedule: str | None = None,
    timezone: str = "UTC",
    catch_up: str = "last",
    on_table: str | None = None,
    on_prefix: str | None = None,
    on_model: str | None = None,
    on_pipeline: str | None = None,
    overlap: str = "queue",
    partition_of: str | None = None,
    without: Path | None = None,
) -> Json:
    """Send the code around `file` and deploy its pipeline `name`.

    Returns what is deployed. Raises `ApiError`, `TreeError`.
    """
    body = _sent(client, file, requirements, without) | {
        "parameters": dict(parameters or {}),
        "network": network,
        "parallel": parallel,
        "schedule": schedule,
        "timezone": timezone,
        "catch_up": catch_up,
        "on_table": on_table,
        "on_prefix": on_prefix,
        "on_model": on_model,
        "on_pipeline": on_pipeline,
        "overlap": overlap,
        "partition_of": partition_of,
    }
    return client.request("PUT", client.path(f"/pipelines/deployed/{quote(name, safe='')}"), json=body)


def deployed(client: Client) -> list[Json]:
    """The project's deployed pipelines. Raises `ApiError`."""
    return list(client.get(client.path("/pipelines"))["pipelines"])


def undeploy(client: Client, name: str) -> None:
    """Take a deployed pipeline back; its runs stay. Raises `ApiError`."""
    client.delete(client.path(f"/pipelines/deployed/{quote(name, safe='')}"))


def hook(client: Client, name: str, *, grace_seconds: int = 86_400) -> Json:
    """Let signed webhooks run a deployed pipeline: their ``url`` and a new ``secret``. Raises `ApiError`."""
    path = client.path(f"/pipelines/deployed/{quote(name, safe='')}/hook")
    return client.post(path, {"grace_seconds": grace_seconds})


def unhook(client: Client, name: str) -> None:
    """Webhooks run it no more. Raises `ApiError`."""
    client.delete(client.path(f"/pipelines/deployed/{quote(name, safe='')}/hook"))


def calendar(client: Client, pipeline: str) -> list[Json]:
    """Every partition that runs of a pipeline made, with its ``state`` and ``run``. Raises `ApiError`."""
    return list(client.get(client.path(f"/pipelines/calendar/{quote(pipeline, safe='')}"))["partitions"])


def trigger(
    client: Client,
    name: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    partitions: Sequence[str] | None = None,
) -> Json:
    """Run a deployed pipeline now; returns the run. Raises `ApiError`."""
    body = {
        "parameters": dict(parameters or {}),
        "partitions": None if partitions is None else list(partitions),
    }
    return client.post(client.path(f"/pipelines/deployed/{quote(name, safe='')}/runs"), body)


def days(first: str, last: str) -> list[str]:
    """Every day from `first` to `last`, both included, as ISO dates. Raises `ValueError`."""
    from datetime import date, timedelta

    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    if end < begin:
        raise ValueError(f"{last} is before {first}")
    return [(begin + timedelta(days=number)).isoformat() for number in range((end - begin).days + 1)]


def get(client: Client, run_id: int, *, wait: float = 0) -> Json:
    """The run with its `steps`, after up to `wait` (at most 55) seconds of waiting for its end. Raises `ApiError`."""
    return client.get(client.path(f"/pipelines/runs/{run_id}"), wait=wait or None)


def wait(client: Client, run_id: int, *, seconds: float | None = None) -> Json:
    """The run once it has ended, or as it is after `seconds`. Raises `ApiError`."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        left = 50.0 if deadline is None else min(50.0, deadline - time.monotonic())
        run = get(client, run_id, wait=max(left, 0))
        if run["state"] in ENDED or (deadline is not None and time.monotonic() >= deadline):
            return run


def list_runs(
    client: Client, *, pipeline: str | None = None, states: Sequence[str] = (), limit: int = 100
) -> list[Json]:
    """The newest `limit` runs. Raises `ApiError`."""
    found: list[Json] = []
    before = None
    while len(found) < limit:
        page = client.get(
            client.path("/pipelines/runs"),
            pipeline=pipeline,
            state=list(states) or None,
            before=before,
            limit=min(limit - len(found), 1000),
        )
        found += page["runs"]
        before = page["next"]
        if before is None:
            break
    return found


def cancel(client: Client, run_id: int) -> Json:
    """End the run; returns it. Raises `ApiError`."""
    return client.post(client.path(f"/pipelines/runs/{run_id}/cancel"))


def retry(client: Client, run_id: int) -> Json:
    """Take the run up again where it failed; returns it. Raises `ApiError`."""
    return client.post(client.path(f"/pipelines/runs/{run_id}/retry"))


def step_log(client: Client, run_id: int, step: str) -> Json:
    """A step's ``log``, or the ``job`` whose log has it. Raises `ApiError`."""
    return client.get(client.path(f"/pipelines/runs/{run_id}/steps/{quote(step, safe='')}/log"))


def report(client: Client, run_id: int, step: str) -> bytes:
    """The page that a step made. Raises `ApiError`."""
    path = client.path(f"/pipelines/runs/{run_id}/steps/{quote(step, safe='')}/report")
    with client.stream("GET", path) as answer:
        return b"".join(answer.iter_bytes())
