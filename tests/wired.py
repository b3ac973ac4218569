"""The whole platform on a home of its own, wired as `stratal up` wires it, asked without a socket.

Its engine is not started: jobs stay queued and endpoints stay asleep, which is all that doors need to be
asked who may do what.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson
from starlette.types import Message, Scope

from stratal.app.settings import Home, Settings
from stratal.app.tables import metadata
from stratal.app.wiring import Platform, wire
from stratal.kernel.database import Database

HOST = (b"host", b"127.0.0.1:8484")


@dataclass
class Answer:
    """What a client would have got. `taken` counts the bytes of the request's body that the door asked for."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    taken: int = 0

    def json(self) -> Any:
        return orjson.loads(self.body)


class Wired:
    """One platform. `close` when done."""

    def __init__(self, root: Path) -> None:
        home = Home(root)
        home.make()
        (home.work / "imports").mkdir()  # as starting does
        database = Database(home.database)
        database.write_now(metadata.create_all)
        database.close()
        self.platform: Platform = wire(Settings(home), Database(home.database))
        self.admin = self.platform.founded.credential.token
        self._runner = asyncio.Runner()

    def close(self) -> None:
        self.platform.database.close()
        self._runner.close()

    # -- asking --------------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        path: str | bytes,
        key: str | None = None,
        *,
        json: Any = None,
        body: bytes | AsyncIterator[bytes] = b"",
        headers: Mapping[str, str] | list[tuple[bytes, bytes]] | None = None,
    ) -> Answer:
        """Send one request; `path` is raw, with its query. Raises what the server would have to log as a defect."""
        raw, _, query = (path.encode("ascii") if isinstance(path, str) else path).partition(b"?")
        pairs = [HOST]
        if key is not None:
            pairs.append((b"authorization", f"Bearer {key}".encode()))
        if json is not None:
            body = orjson.dumps(json)
            pairs.append((b"content-type", b"application/json"))
        if isinstance(body, bytes) and body:
            pairs.append((b"content-length", b"%d" % len(body)))
        listed = headers.items() if isinstance(headers, Mapping) else headers or []
        for name, value in listed:
            pairs.append(
                (name, value)
                if isinstance(name, bytes)
                else (name.lower().encode(), str(value).encode("latin-1"))
            )
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": _unquoted(raw),
            "raw_path": raw,
            "query_string": query,
            "root_path": "",
            "headers": pairs,
            "client": ("127.0.0.1", 40000),
            "server": ("127.0.0.1", 8484),
        }
        return self._runner.run(self._ask(scope, body))

    async def _ask(self, scope: Scope, body: bytes | AsyncIterator[bytes]) -> Answer:
        answer = Answer()
        gone = asyncio.Event()
        chunks = _once(body) if isinstance(body, bytes) else body
        ended = False

        async def receive() -> Message:
            nonlocal ended
            if not ended:
                chunk = await anext(chunks, None)
                ended = chunk is None
                answer.taken += len(chunk or b"")
                return {"type": "http.request", "body": chunk or b"", "more_body": not ended}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {k.decode().lower(): v.decode("latin-1") for k, v in message["headers"]}
                if answer.headers.get("content-type", "").startswith("text/event-stream"):
                    gone.set()  # it would never end
            else:
                answer.body += message.get("body", b"")

        await self.platform.chain(scope, receive, send)
        return answer

    # -- making --------------------------------------------------------------------------------

    def project(self, name: str) -> str:
        assert self.ask("POST", "/api/v1/projects", self.admin, json={"name": name}).status == 201
        return name

    def key(self, project: str, role: str, **more: Any) -> str:
        """A new key's token."""
        asked = {"name": f"{role}-key", "role": role, **more}
        answer = self.ask("POST", f"/api/v1/projects/{project}/keys", self.admin, json=asked)
        assert answer.status == 201, answer.body
        return str(answer.json()["token"])

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table: what must be the same after a refused request."""
        return self.platform.database.read_now(
            lambda c: {
                table.name: sorted((tuple(row) for row in c.execute(table.select())), key=repr)
                for table in metadata.sorted_tables
            }
        )


def _unquoted(raw: bytes) -> str:
    return unquote(raw.decode("ascii"))


async def _once(body: bytes) -> AsyncIterator[bytes]:
    if body:
        yield body
