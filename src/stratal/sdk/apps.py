"""Apps from Python: deploy an ASGI application from a file, look at it, ask it.

>>> from pathlib import Path
>>> from stratal.sdk import Client, apps
>>> client = Client()
>>> apps.deploy(client, "app.py:app", folder=Path("."), name="shop", requirements="fastapi")
>>> apps.request(client, "shop", "GET", "/health").json()
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from stratal.sdk.client import Client
from stratal.sdk.functions import rolled_out
from stratal.sdk.worktree import WorkTree

Json = dict[str, Any]


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
    """Send the working tree around `folder` (or `tree`, read before) and deploy `target` in it as the app `name`.

    `wishes` are the API's: ``min``, ``max``, ``max_concurrency``, ``idle_seconds``, ``memory_bytes``, ``public``. For
    the rest, and what is raised, see `stratal.sdk.functions.deploy`.
    """
    return rolled_out(client, "apps", target, folder, tree, name, requirements, env, wait, said, wishes)


def get(client: Client, name: str) -> Json:
    """The app. Raises `ApiError`."""
    return client.get(path(client, name))


def path(client: Client, name: str, rest: str = "") -> str:
    """Where the native API has the app."""
    return client.path(f"/apps/{quote(name, safe='')}{rest}")


def request(client: Client, name: str, method: str, url: str = "/", **more: Any) -> httpx.Response:
    """Ask the app, with the client's key: `url` is a path of the app's, `more` is what `httpx.Client.request` takes.

    The platform is reached at its own address, and told the app's host name, so that no name need resolve.
    """
    host = urlsplit(get(client, name)["url"]).netloc
    headers = httpx.Headers(more.pop("headers", None))
    headers["Host"] = host
    return client.http.request(method, url, headers=headers, **more)


def rollback(client: Client, name: str, revision: int | None = None) -> Json:
    """Deploy again what `revision` was (None: the one that answered before), as a new revision. Raises `ApiError`."""
    return client.post(path(client, name, "/rollback"), {"revision": revision})
