"""Jobs from Python: send the code, submit, follow.

>>> from pathlib import Path
>>> from stratal.sdk import Client, jobs
>>> client = Client()
>>> job = jobs.run(client, ["python", "train.py"], folder=Path("."), requirements="scikit-learn")
>>> jobs.follow(client, job["id"])["exit_code"]
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stratal.sdk.client import ApiError, Client
from stratal.sdk.worktree import Entry, WorkTree, read_worktree

Json = dict[str, Any]
ENDED = {"succeeded", "failed", "stopped", "unknown"}
_PACK_BYTES = 32 * 1024 * 1024
_TRIES = 3
_PATIENCE_SECONDS = 120.0


def run(
    client: Client,
    argv: Sequence[str],
    *,
    folder: Path | None = None,
    tree: WorkTree | None = None,
    git: str | None = None,
    name: str | None = None,
    cpus: float | None = None,
    memory_bytes: int | None = None,
    gpus: int = 0,
    gpu_type: str | None = None,
    nodes: int | None = None,
    procs_per_node: int | None = None,
    env: Mapping[str, str] | None = None,
    requirements: str = "",
    upgrade_environment: bool = False,
    network: str | None = None,
    timeout_seconds: float | None = None,
    grace_seconds: float | None = None,
    retries: int = 0,
    priority: int = 0,
    after: Sequence[int | str] = (),
    array: str | None = None,
    parallel: int | None = None,
) -> Json:
    """Send the working tree around `folder` (or `tree`, read before; neither: no code) and queue a job. Returns it.

    With `git` (``study@main``) it runs a commit of one of the platform's repositories instead, and sends nothing.

    `argv` is run in the tree's copy; `requirements` are lines as in a requirements file; `after` names jobs
    (12) and arrays (``a3``) that must have succeeded first. With `array` (``0-9``) it is queued once for
    each index, and the first of them is returned. Raises `ApiError`, and `TreeError` when the tree cannot
    be sent.
    """
    if tree is None and folder is not None:
        tree = read_worktree(folder)
    body: Json = {
        "argv": list(argv),
        "name": name,
        "cpus": cpus,
        "memory_bytes": memory_bytes,
        "gpus": gpus,
        "gpu_type": gpu_type,
        "nodes": nodes,
        "procs_per_node": procs_per_node,
        "env": dict(env or {}),
        "requirements": requirements,
        "upgrade_environment": upgrade_environment,
        "network": network,
        "timeout_seconds": timeout_seconds,
        "grace_seconds": grace_seconds,
        "retries": retries,
        "priority": priority,
        "after": list(after),
        "array": array,
        "parallel": parallel,
    }
    if git is not None:
        body |= commit_of(client, git)
    elif tree is not None:
        body |= {"snapshot": send(client, tree), "cwd": tree.cwd, "source": dict(tree.source)}
    return client.post(client.path("/jobs"), body)


def commit_of(client: Client, git: str) -> Json:
    """What a job is told of the commit that ``repository@revision`` names (without ``@``: HEAD's). Raises `ApiError`."""
    repository, _, revision = git.partition("@")
    path = client.path(f"/repositories/{quote(repository, safe='')}/snapshots")
    made = client.post(path, {"revision": revision})
    return {
        "snapshot": made["id"],
        "source": {
            "kind": "git",
            "commit": made["commit"],
            "branch": made["branch"],
            "remote": made["remote"],
        },
    }


def send(client: Client, tree: WorkTree) -> str:
    """Send what the platform does not have yet of the tree's files; returns the snapshot's id.

    A file that changes while it is sent is read again. Raises `ApiError`.
    """
    for remaining in reversed(range(_TRIES)):
        hashed = [(entry, entry.sha256()) for entry in tree.entries]
        files = [
            {"path": entry.path, "mode": entry.mode, "sha256": digest, "size": _size(entry)}
            for entry, digest in hashed
        ]
        by_digest = {digest: entry for entry, digest in hashed}
        try:
            while True:
                answer = client.post(client.path("/code/snapshots"), {"files": files})
                if not answer["missing"]:
                    return str(answer["id"])
                for pack in _packs([(digest, by_digest[digest]) for digest in answer["missing"]]):
                    client.request("POST", client.path("/code/packs"), content=_packed(pack))
        except ApiError as error:
            if error.code not in {"bad_digest", "bad_pack"} or not remaining:
                raise
    raise AssertionError


def _size(entry: Entry) -> int:
    return entry.size if entry.mode == "120000" else entry.place.stat().st_size


def _packs(wanted: Sequence[tuple[str, Entry]]) -> Iterator[list[tuple[str, Entry]]]:
    """The wanted contents in groups of some 32 MiB."""
    group: list[tuple[str, Entry]] = []
    size = 0
    for digest, entry in wanted:
        if group and size + entry.size > _PACK_BYTES:
            yield group
            group, size = [], 0
        group.append((digest, entry))
        size += entry.size
    if group:
        yield group


def _packed(pack: Sequence[tuple[str, Entry]]) -> Iterator[bytes]:
    for digest, entry in pack:
        yield bytes.fromhex(digest) + _size(entry).to_bytes(8, "big")
        yield from entry.read()


def get(client: Client, job_id: int, *, wait: float = 0) -> Json:
    """The job, after up to `wait` (at most 55) seconds of waiting for its end. Raises `ApiError`."""
    return client.get(client.path(f"/jobs/{job_id}"), wait=wait or None)


def attempts(client: Client, job_id: int) -> list[Json]:
    """The job's attempts, first to last. Raises `ApiError`."""
    return list(client.get(client.path(f"/jobs/{job_id}/attempts"))["attempts"])


def why(client: Client, job_id: int) -> Json:
    """What the job waits for right now, as ``waits_for``. Raises `ApiError`."""
    return client.get(client.path(f"/jobs/{job_id}/why"))


def get_array(client: Client, name: str) -> Json:
    """The array ``a3``, its members counted by state. Raises `ApiError`."""
    return client.get(client.path(f"/arrays/{name.removeprefix('a')}"))


def stop_array(client: Client, name: str) -> Json:
    """Ask every member to stop; returns the array as it is then. Raises `ApiError`."""
    return client.post(client.path(f"/arrays/{name.removeprefix('a')}/stop"))


def list_jobs(
    client: Client, *, states: Sequence[str] = (), array: str | None = None, limit: int = 100
) -> list[Json]:
    """The newest `limit` jobs, in one of `states` and of one array (``a3``) if given. Raises `ApiError`."""
    found: list[Json] = []
    before = None
    while len(found) < limit:
        page = client.get(
            client.path("/jobs"),
            state=list(states) or None,
            array=None if array is None else array.removeprefix("a"),
            before=before,
            limit=min(limit - len(found), 1000),
        )
        found += page["jobs"]
        before = page["next"]
        if before is None:
            break
    return found


def stop(client: Client, job_id: int) -> Json:
    """Ask the job to stop; returns it as it is then. Raises `ApiError`."""
    return client.post(client.path(f"/jobs/{job_id}/stop"))


def wait(client: Client, job_id: int, *, seconds: float | None = None) -> Json:
    """The job once it has ended, or as it is after `seconds`. Raises `ApiError`."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        left = 50.0 if deadline is None else min(50.0, deadline - time.monotonic())
        job = get(client, job_id, wait=max(left, 0))
        if job["state"] in ENDED or (deadline is not None and time.monotonic() >= deadline):
            return job


def read_logs(
    client: Client,
    job_id: int,
    *,
    attempt: int | None = None,
    rank: int | None = None,
    offset: int = 0,
    follow: bool = False,
) -> Iterator[bytes]:
    """The log, or one attempt's or one rank's of a gang, from byte `offset`, as far as there is one now, in chunks.

    Raises `ApiError`.
    """
    asked: Json = {"offset": offset, "follow": follow}
    asked |= {} if attempt is None else {"attempt": attempt}
    asked |= {} if rank is None else {"rank": rank}
    with client.stream("GET", client.path(f"/jobs/{job_id}/logs"), params=asked) as answer:
        yield from answer.iter_bytes()


def logs(
    client: Client, job_id: int, *, attempt: int | None = None, rank: int | None = None, offset: int = 0
) -> bytes:
    """The whole log, or one attempt's or one rank's, from byte `offset`. Raises `ApiError`."""
    return b"".join(read_logs(client, job_id, attempt=attempt, rank=rank, offset=offset))


def follow(
    client: Client, job_id: int, write: Callable[[bytes], object] | None = None, *, offset: int = 0
) -> Json:
    """Hand the log to `write` (default: stdout) as it grows, until the job has ended; returns the job.

    A platform that is restarted meanwhile is waited for (two minutes), and the log goes on where it was:
    jobs run on without it. Raises `ApiError`.
    """
    out = write or _to_stdout
    quiet_since: float | None = None
    while True:
        try:
            path = client.path(f"/jobs/{job_id}/logs")
            with client.stream("GET", path, params={"offset": offset, "follow": True}) as answer:
                for chunk in answer.iter_bytes():
                    quiet_since = None
                    offset += len(chunk)
                    out(chunk)
            job = get(client, job_id)
            quiet_since = None
            if job["state"] in ENDED and offset >= (job["log_bytes"] or 0):
                return job
        except ApiError as error:
            now = time.monotonic()
            quiet_since = now if quiet_since is None else quiet_since
            if (error.status != 0 and error.status < 500) or now - quiet_since > _PATIENCE_SECONDS:
                raise
        time.sleep(0.2)


def _to_stdout(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
