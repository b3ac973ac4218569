"""Functions from Python: deploy one from a file, call it, and look at what came of calls.

>>> from pathlib import Path
>>> from stratal.sdk import Client, functions
>>> client = Client()
>>> functions.deploy(client, "app.py:handler", folder=Path("."), name="greet")
>>> functions.invoke(client, "greet", {"name": "Ada"})
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx

from stratal.sdk.client import Client, error_of
from stratal.sdk.jobs import send
from stratal.sdk.worktree import WorkTree, read_worktree

Json = dict[str, Any]
ENDED = {"succeeded", "failed", "dead"}
_POLL_SECONDS = 0.2


def deploy(
    client: Client,
    target: str,
    *,
    folder: Path | None = None,
    tree: WorkTree | None = None,
    name: str,
    requirements: str = "",
    env: Mapping[str, str] | None = None,
    wait: bool = True,
    said: Callable[[str], object] | None = None,
    **wishes: Any,
) -> Json:
    """Send the working tree around `folder` (or `tree`, read before) and deploy `target` in it as the function `name`.

    `wishes` are the API's: ``min``, ``max``, ``max_concurrency``, ``idle_seconds``, ``timeout_seconds``, ``retries``,
    ``memory_bytes``, ``public``. With `wait`, returns when the revision answers or has failed (see ``latest`` of
    what is returned), and `said` hears of each new state. Raises `ApiError`, and `TreeError` when the tree cannot be
    sent.
    """
    return rolled_out(client, "functions", target, folder, tree, name, requirements, env, wait, said, wishes)


def rolled_out(
    client: Client,
    noun: str,
    target: str,
    folder: Path | None,
    tree: WorkTree | None,
    name: str,
    requirements: str,
    env: Mapping[str, str] | None,
    wait: bool,
    said: Callable[[str], object] | None,
    wishes: Mapping[str, Any],
) -> Json:
    """Deploy a function or an app, as `noun` says: see `deploy`."""
    tree = tree or read_worktree(folder or Path.cwd())
    source = {key: tree.source.get(key) for key in ("kind", "commit", "branch", "remote")}
    body = {
        "name": name,
        "target": target,
        "snapshot": send(client, tree),
        "cwd": tree.cwd,
        "source": {**source, "dirty": bool(tree.source.get("dirty"))},
        "requirements": requirements,
        "env": dict(env or {}),
        **{key: value for key, value in wishes.items() if value is not None},
    }
    made = client.post(client.path(f"/{noun}"), body)
    return answering(client, noun, made, said) if wait else made


def answering(client: Client, noun: str, made: Json, said: Callable[[str], object] | None = None) -> Json:
    """Wait until the newest revision of what was `made` answers, has failed, or is not the newest any more."""
    number, state = made["latest"]["number"], ""
    while made["latest"]["number"] == number and made["latest"]["state"] in {"preparing", "starting"}:
        if made["latest"]["state"] != state and said is not None:
            state = made["latest"]["state"]
            said(state)
        time.sleep(_POLL_SECONDS)
        made = client.get(client.path(f"/{noun}/{quote(made['name'], safe='')}"))
    return made


def get(client: Client, name: str) -> Json:
    """The function. Raises `ApiError`."""
    return client.get(path(client, name))


def rollback(client: Client, name: str, revision: int | None = None) -> Json:
    """Deploy again what `revision` was (None: the one that answered before), as a new revision. Raises `ApiError`."""
    return client.post(path(client, name, "/rollback"), {"revision": revision})


def path(client: Client, name: str, rest: str = "") -> str:
    """Where the native API has the function."""
    return client.path(f"/functions/{quote(name, safe='')}{rest}")


def address(client: Client, name: str) -> str:
    """The path that it is called at."""
    return f"/f/{quote(client.project, safe='')}/{quote(name, safe='')}"


def invoke(client: Client, name: str, event: Any = None) -> Any:
    """Call the function and return its answer: what its JSON says, else its bytes. Raises `ApiError`."""
    answer = client.http.post(address(client, name), json=event, timeout=httpx.Timeout(3700.0, connect=5.0))
    if answer.is_error:
        raise error_of(answer)
    if answer.headers.get("content-type", "").startswith("application/json"):
        return answer.json()
    return answer.content


def stream(
    client: Client, name: str, body: bytes, content_type: str = "application/json"
) -> AbstractContextManager[httpx.Response]:
    """Call the function with `body`, for its answer to be read while it comes."""
    return client.http.stream(
        "POST",
        address(client, name),
        content=body,
        headers={"Content-Type": content_type},
        timeout=httpx.Timeout(3700.0, connect=5.0),
    )


def invoke_later(
    client: Client, name: str, body: bytes = b"null", content_type: str = "application/json"
) -> Json:
    """Have the function called, tried again if need be, whatever dies meanwhile; ``id`` names the call.

    Raises `ApiError`.
    """
    answer = client.http.post(
        address(client, name), params={"async": "1"}, content=body, headers={"Content-Type": content_type}
    )
    if answer.is_error:
        raise error_of(answer)
    return cast("Json", answer.json())


def result(client: Client, name: str, invocation_id: str, *, wait: float = 0) -> Json:
    """What came of a call, after up to `wait` seconds of waiting for its end. Raises `ApiError`."""
    deadline = time.monotonic() + wait
    while True:
        left = max(0.0, deadline - time.monotonic())
        answer = client.http.get(
            f"{address(client, name)}/invocations/{quote(invocation_id, safe='')}",
            params={"wait": f"{min(left, 50):.2f}"},
        )
        if answer.is_error:
            raise error_of(answer)
        told = cast("Json", answer.json())
        if told["state"] in ENDED or left <= 0:
            return told
