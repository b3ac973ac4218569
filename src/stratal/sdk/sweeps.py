"""Sweeps from Python: search parameters with which a script does best.

>>> from pathlib import Path
>>> from stratal.sdk import Client, sweeps
>>> client = Client()
>>> sweep = sweeps.begin(
...     client, ["python", "train.py"], {"lr": "log:1e-4..1e-1", "depth": "int:2..8"}, "val_auc", folder=Path(".")
... )
>>> sweeps.wait(client, sweep["id"])["best"]["params"]
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stratal.sdk.client import ApiError, Client
from stratal.sdk.jobs import send
from stratal.sdk.worktree import WorkTree, read_worktree

Json = dict[str, Any]
ENDED = {"succeeded", "failed", "stopped"}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"(float|log|int|intlog):({_NUMBER})\.\.({_NUMBER})(?::({_NUMBER}))?\Z", re.ASCII)
_LOOK_SECONDS = 1.0
_PATIENCE_SECONDS = 120.0


def parameter(name: str, text: str) -> Json:
    """``log:1e-4..1e-1``, ``float:0..1:0.1``, ``int:2..8``, ``intlog:16..4096``, ``choice:a,b`` as the API takes it.

    Raises `ValueError` with what would have been right.
    """
    if text.startswith("choice:"):
        return {"name": name, "kind": "choice", "choices": text.removeprefix("choice:").split(",")}
    match = _RANGE.match(text)
    if match is None:
        raise ValueError(
            f"{text[:60]!r} is no range to search: say float:0..1, log:1e-4..1e-1, int:2..8, intlog:16..4096 "
            "or choice:a,b (float and int also take a step, int:2..8:2)."
        )
    kind, low, high, step = match.groups()
    return {
        "name": name,
        "kind": kind,
        "low": float(low),
        "high": float(high),
        "step": None if step is None else float(step),
    }


def begin(
    client: Client,
    argv: Sequence[str],
    space: Mapping[str, str],
    metric: str,
    *,
    folder: Path | None = None,
    tree: WorkTree | None = None,
    name: str | None = None,
    direction: str = "maximize",
    trials: int = 20,
    parallel: int = 1,
    prune: bool = False,
    seed: int | None = None,
    register_as: str | None = None,
    experiment: str | None = None,
    **job: Any,
) -> Json:
    """Send the working tree around `folder` (or `tree`) and begin a search. Returns the sweep.

    Each trial runs `argv` with the parameters where ``{name}`` stands, else as ``--name=value`` behind it.
    `job` are further fields of a job (``cpus``, ``memory_bytes``, ``gpus``, ``requirements``, ``env`` …).
    Raises `ApiError`, `ValueError` for a space that cannot be read, `TreeError`.
    """
    wanted = [parameter(one, text) for one, text in space.items()]
    if tree is None and folder is not None:
        tree = read_worktree(folder)
    asked: Json = {"argv": list(argv), "name": name, **job}
    if tree is not None:
        asked |= {"snapshot": send(client, tree), "cwd": tree.cwd, "source": dict(tree.source)}
    body = {
        "job": asked,
        "space": wanted,
        "metric": metric,
        "direction": direction,
        "name": name,
        "trials": trials,
        "parallel": parallel,
        "prune": prune,
        "seed": seed,
        "register_as": register_as,
        "experiment": experiment,
    }
    return client.post(client.path("/sweeps"), body)


def list_sweeps(client: Client, *, limit: int = 100) -> list[Json]:
    """The newest sweeps. Raises `ApiError`."""
    return list(client.get(client.path("/sweeps"), limit=limit)["sweeps"])


def get(client: Client, sweep_id: int) -> Json:
    """One sweep with its trials. Raises `ApiError`."""
    return client.get(client.path(f"/sweeps/{sweep_id}"))


def stop(client: Client, sweep_id: int) -> Json:
    """Begin no more trials and stop those that run. Raises `ApiError`."""
    return client.post(client.path(f"/sweeps/{sweep_id}/stop"), {})


def wait(
    client: Client, sweep_id: int, tell: Callable[[Json], None] | None = None, *, seconds: float | None = None
) -> Json:
    """The sweep once it has ended, or as it is after `seconds`; `tell` is given each trial as it ends.

    A server that is restarted meanwhile is waited for. Raises `ApiError`.
    """
    told: set[int] = set()
    deadline = None if seconds is None else time.monotonic() + seconds
    quiet_since: float | None = None
    while True:
        try:
            sweep = get(client, sweep_id)
        except ApiError as error:
            quiet_since = quiet_since or time.monotonic()
            if 0 < error.status < 500 or time.monotonic() - quiet_since > _PATIENCE_SECONDS:
                raise
            time.sleep(_LOOK_SECONDS)
            continue
        quiet_since = None
        for trial in sweep["tried"]:
            if trial["ended_at"] and trial["number"] not in told:
                told.add(trial["number"])
                if tell is not None:
                    tell(trial)
        if sweep["state"] in ENDED or (deadline is not None and time.monotonic() > deadline):
            return sweep
        time.sleep(_LOOK_SECONDS)
