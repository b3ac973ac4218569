"""The platform over HTTP, with the standard library alone, patient while the server restarts.

Everything a worker asks may be asked twice with one effect: the journal knows each entry, a write is
numbered within its attempt, an object is put under a key of its own. So when an answer is lost (the server was killed,
a connection broke off) the question is simply asked again.
"""

import contextlib
import http.client
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from stratal.sdk.pipelines.lake import Body
from stratal.sdk.pipelines.values import Model, Object, Table

Json = dict[str, Any]
_PATIENCE_SECONDS = 300.0
_AGAIN = (429, 502, 503, 504)


class Refused(Exception):
    """The platform said no: `status`, a stable `code`, and its own words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Doors:
    """One key's way to one instance. Connections are kept; one that broke is opened again."""

    def __init__(self, url: str, key: str, project: str, *, patience: float = _PATIENCE_SECONDS) -> None:
        self._url = urlsplit(url)
        self._key = key
        self.project = project
        self._patience = patience
        self._connection: http.client.HTTPConnection | None = None

    @classmethod
    def of_environment(cls) -> "Doors":
        """As the variables of every workload say. Raises `KeyError` outside of one."""
        environ = os.environ
        return cls(environ["STRATAL_URL"], environ["STRATAL_API_KEY"], environ["STRATAL_PROJECT"])

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def path(self, rest: str) -> str:
        return f"/api/v1/projects/{quote(self.project, safe='')}{rest}"

    def json(self, method: str, path: str, body: Any = None, **headers: str) -> Json:
        """Send JSON, get JSON. Raises `Refused`, and `OSError` when nobody answered for five minutes."""
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        answer = self.send(method, path, data, {"Content-Type": "application/json", **headers})
        return dict(json.loads(answer)) if answer else {}

    def send(self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]) -> bytes:
        """Send bytes, get bytes; again when nobody answers or the platform is busy. Raises as `json`."""
        deadline = time.monotonic() + self._patience
        pause = 0.05
        said = False
        while True:
            try:
                status, answer = self._once(method, path, data, headers)
                if status < 400:
                    return answer
                problem: Exception = _refused(status, answer)
                if status not in _AGAIN or time.monotonic() > deadline:
                    raise problem
            except (OSError, http.client.HTTPException) as error:
                self.close()
                problem = error
                if time.monotonic() > deadline:
                    raise
            if pause > 1.0 and not said:
                print(f"waiting for the platform: {problem}", file=sys.stderr, flush=True)
                said = True
            time.sleep(pause)
            pause = min(pause * 2, 2.0)

    def _once(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        if self._connection is None:
            secure = self._url.scheme == "https"
            kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
            self._connection = kind(self._url.hostname or "", self._url.port, timeout=3600)
        self._connection.request(
            method, path, body=data, headers={"Authorization": f"Bearer {self._key}", **headers}
        )
        response = self._connection.getresponse()
        return response.status, response.read()


def _refused(status: int, answer: bytes) -> Refused:
    try:
        error = json.loads(answer)["error"]
        words = f"{error['message']} {error.get('hint', '')}".strip()
        return Refused(status, str(error.get("reason") or error["code"]), words)
    except (ValueError, KeyError, TypeError):
        return Refused(status, "unexpected", f"HTTP {status}: {answer[:300].decode(errors='replace')}")


def reports_bucket(project: str) -> str:
    """The bucket that a project's reports are kept in."""
    return f"{re.sub('[^a-z0-9-]+', '-', project.lower()).strip('-')[:50]}-reports"


class PlatformLake:
    """Tables and objects of a step of a run, under the step's own key."""

    def __init__(self, doors: Doors, run: str, step: str, attempt: int) -> None:
        self._doors = doors
        self._run = run
        self._step = step
        self._attempt = attempt
        self._writes = 0
        self.written: dict[str, Table] = {}

    @classmethod
    def of_environment(cls) -> "PlatformLake":
        environ = os.environ
        return cls(
            Doors.of_environment(),
            environ["STRATAL_PIPELINE_RUN"],
            environ["STRATAL_STEP"],
            int(environ["STRATAL_STEP_ATTEMPT"]),
        )

    def at(self, quoted: str, snapshot: str | None) -> str:
        return quoted if snapshot is None else f"{quoted} AT (VERSION => {int(snapshot)})"

    def query(self, text: str) -> list[Json]:
        answer = self._doors.json("POST", "/api/v1/sql", {"sql": text, "format": "json", "limit": 10_000_000})
        if answer["truncated"]:
            raise ValueError(
                "The rows are more than a step can have as dicts (64 MiB): aggregate or filter in SQL, or read them "
                "with .arrow()."
            )
        names = [column["name"] for column in answer["columns"]]
        return [dict(zip(names, row, strict=True)) for row in answer["rows"]]

    def columns(self, text: str) -> list[str]:
        asked = {"sql": text, "format": "json", "limit": 0}
        return [str(column["name"]) for column in self._doors.json("POST", "/api/v1/sql", asked)["columns"]]

    def types(self, text: str) -> dict[str, str]:
        asked = {"sql": text, "format": "json", "limit": 0}
        columns = self._doors.json("POST", "/api/v1/sql", asked)["columns"]
        return {str(column["name"]): str(column["type"]) for column in columns}

    def arrow(self, text: str) -> Any:
        import pyarrow as pa

        body = json.dumps({"sql": text, "format": "arrow"}).encode()
        answer = self._doors.send("POST", "/api/v1/sql", body, {"Content-Type": "application/json"})
        with pa.ipc.open_stream(answer) as stream:
            return stream.read_all()

    def write(self, name: str, body: Body, mode: str, keys: Sequence[str], where: Json) -> Table:
        said = json.dumps(where, default=_plain) if where else ""
        words = {"format": body.format, "keys": list(keys), "where": said}
        path = self._path(name, mode, **words)
        answer = self._doors.send("PUT", path, body.data, {"Content-Type": "application/octet-stream"})
        return self._wrote(json.loads(answer))

    def write_sql(self, name: str, text: str, mode: str, keys: Sequence[str]) -> Table:
        return self._wrote(self._doors.json("POST", self._path(name, mode, keys=list(keys)), {"sql": text}))

    def _wrote(self, answer: Json) -> Table:
        table = Table(answer["table"], answer["snapshot"])
        self.written[table.name] = table
        return table

    def _path(self, name: str, mode: str, **words: Any) -> str:
        self._writes += 1
        query = urlencode(
            {
                "mode": mode,
                "attempt": self._attempt,
                "number": self._writes,
                **{k: v for k, v in words.items() if v},
            },
            doseq=True,
        )
        step, table = quote(self._step, safe=""), quote(name, safe="")
        return self._doors.path(f"/pipelines/runs/{self._run}/steps/{step}/tables/{table}?{query}")

    def read_object(self, wanted: Object) -> bytes:
        return self._doors.send("GET", self._object(wanted), None, {})

    def put_object(self, place: Object, data: bytes) -> Object:
        """Conditional, so that whoever does it again after a crash finds its own object and nobody's is overwritten."""
        try:
            made = self._doors.send("PUT", self._object(place), data, {"If-None-Match": "*"})
            return Object(place.bucket, place.key, json.loads(made)["etag"])
        except Refused as error:
            if error.status != 412:
                raise
        import hashlib

        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if self.read_object(place) != data:
            raise FileExistsError(
                f"{place.location} holds other bytes already; steps never overwrite an object."
            )
        return Object(place.bucket, place.key, etag)

    def put_report(self, key: str, page: bytes) -> Object:
        bucket = reports_bucket(self._doors.project)
        try:
            return self.put_object(Object(bucket, key), page)
        except Refused as error:
            if error.status != 404:
                raise
        with contextlib.suppress(Refused):  # another step was first
            self._doors.json("POST", self._doors.path("/buckets"), {"name": bucket})
        return self.put_object(Object(bucket, key), page)

    def list_objects(self, bucket: str, prefix: str) -> list[Object]:
        found: list[Object] = []
        after: str | None = ""
        while after is not None:
            words = urlencode({"prefix": prefix, "after": after, "limit": 1000})
            page = self._doors.json(
                "GET", self._doors.path(f"/buckets/{quote(bucket, safe='')}/objects?{words}")
            )
            found += [Object(bucket, one["name"], one["etag"]) for one in page["objects"]]
            after = page["next_after"]
        return found

    def deploy(self, model: Model, endpoint: str, wishes: Json, seconds: float) -> str:
        asked = {"name": endpoint, "model": f"models:/{model.name}/{model.version}", **wishes}
        path = self._doors.path(f"/endpoints/{quote(endpoint, safe='')}")
        made = self._doors.json("POST", self._doors.path("/endpoints"), asked)
        number = made["latest"]["number"]
        deadline = time.monotonic() + seconds
        while made["latest"]["number"] == number and made["latest"]["state"] in {"preparing", "starting"}:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Endpoint {endpoint} does not answer with revision {number} yet.")
            time.sleep(0.3)
            made = self._doors.json("GET", path)
        latest = made["latest"]
        if latest["number"] == number and latest["state"] != "active":
            why = latest["failure"] or made["failure"]
            raise RuntimeError(f"Endpoint {endpoint}, revision {number}: {latest['state']}: {why}")
        return str(made["url"])

    def publish_features(self, view: str, definition: Json, snapshot: str | None) -> Json:
        path = self._doors.path(f"/features/{quote(view, safe='')}")
        return self._doors.json("PUT", path, {**definition, "snapshot": snapshot})

    def lookup_features(self, view: str, keys: list[Json]) -> list[Json | None]:
        path = self._doors.path(f"/features/{quote(view, safe='')}/lookup")
        found: list[Json | None] = []
        for start in range(0, len(keys), 1000):
            rows = self._doors.json("POST", path, {"keys": keys[start : start + 1000]})["rows"]
            found += [row["features"] for row in rows]
        return found

    def _object(self, wanted: Object) -> str:
        bucket, key = quote(wanted.bucket, safe=""), quote(wanted.key, safe="")
        return self._doors.path(f"/buckets/{bucket}/object?key={key}")


def _plain(value: Any) -> Any:
    """A date or a library's own number as JSON has it."""
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r} cannot be compared with a column.")
