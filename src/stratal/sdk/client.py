"""The client: requests to the native API, answers as dicts, errors as `ApiError`."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx

from stratal.sdk import contexts
from stratal.sdk.errors import ApiError as ApiError

Json = dict[str, Any]


class Client:
    """Talks to one instance with one key.

    Without `url` and `key` it uses STRATAL_URL and STRATAL_API_KEY; without these the place that this machine
    is signed in at (STRATAL_CONTEXT, ``stratal context``); without one, or with STRATAL_HOME set, the instance
    running on STRATAL_HOME (default ~/.stratal) with that home's admin key.
    Raises `ApiError` (status 0) when there is no address or no key to be found.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        project: str | None = None,
        home: Path | None = None,
    ) -> None:
        environ = os.environ
        signed_in = None
        if (
            home is None
            and not url
            and not key
            and not environ.get("STRATAL_URL")
            and not environ.get("STRATAL_API_KEY")
        ):
            signed_in = contexts.chosen(environ)
        if signed_in is not None:
            url, key, project = (
                signed_in.url,
                signed_in.key,
                project or environ.get("STRATAL_PROJECT") or signed_in.project,
            )
        root = home or Path(environ.get("STRATAL_HOME") or Path.home() / ".stratal").expanduser()
        self.url = (url or environ.get("STRATAL_URL") or _address_of(root)).rstrip("/")
        self.key = key or environ.get("STRATAL_API_KEY") or _admin_key_of(root)
        self._project = project or environ.get("STRATAL_PROJECT")
        self.http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=httpx.Timeout(60.0, connect=5.0),
            trust_env=False,
        )

    @property
    def project(self) -> str:
        """The project to act in: as given, else STRATAL_PROJECT, else the key's own."""
        if self._project is None:
            self._project = str(self.get("/whoami")["project"])
        return self._project

    def path(self, rest: str) -> str:
        """``/projects/<project><rest>``: a path below the project acted in."""
        from urllib.parse import quote

        return f"/projects/{quote(self.project, safe='')}{rest}"

    def get(self, path: str, **params: Any) -> Json:
        """GET ``/api/v1<path>``; None-valued parameters are left out."""
        return self.request("GET", path, params={k: v for k, v in params.items() if v is not None})

    def post(self, path: str, body: Any = None) -> Json:
        return self.request("POST", path, json=body)

    def delete(self, path: str) -> Json:
        return self.request("DELETE", path)

    def request(self, method: str, path: str, **options: Any) -> Json:
        """Send a request and return the JSON object answered (an empty one for an empty answer). Raises `ApiError`."""
        try:
            response = self.http.request(method, f"/api/v1{path}", **options)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise error_of(response)
        return cast("Json", response.json()) if response.content else {}

    @contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """Send a request and hand out the answer while it arrives (no read timeout). Raises `ApiError`."""
        try:
            timeout = httpx.Timeout(60.0, connect=5.0, read=None)
            with self.http.stream(method, f"/api/v1{path}", timeout=timeout, **options) as response:
                if response.is_error:
                    response.read()
                    raise error_of(response)
                yield response
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.HTTPError) -> ApiError:
        return ApiError(
            0,
            "unreachable",
            f"Stratal does not answer at {self.url} ({error}).",
            "Start it with: stratal up --detach",
        )


def error_of(response: httpx.Response) -> ApiError:
    """The error in an answer, whatever its shape."""
    try:
        body = response.json()["error"]
        return ApiError(
            response.status_code,
            body["code"],
            body["message"],
            body.get("hint", ""),
            body.get("request_id", ""),
        )
    except (ValueError, KeyError, TypeError):
        return ApiError(
            response.status_code, "unexpected", f"HTTP {response.status_code}: {response.text[:300]}"
        )


def _address_of(home: Path) -> str:
    try:
        return str(json.loads((home / "run" / "server.json").read_text())["url"])
    except (OSError, ValueError, KeyError) as error:
        raise ApiError(
            0, "not_running", f"No Stratal is running on {home}.", "Start one with: stratal up --detach"
        ) from error


def _admin_key_of(home: Path) -> str:
    path = home / "keys" / "admin.key"
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ApiError(
                0, "open_key_file", f"{path} can be read by others.", f"Close it with: chmod 600 {path}"
            )
        return path.read_text().strip()
    except OSError as error:
        raise ApiError(
            0,
            "no_key",
            "There is no key to use.",
            "Set STRATAL_API_KEY (an owner makes one: stratal keys create).",
        ) from error
