"""Deploying a model and asking it, through the native API, Open Inference and MLflow's protocol."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from stratal.ai.solutions.manifest import Solution
from stratal.kernel.errors import Internal
from stratal.sdk import ApiError, Client

Json = dict[str, Any]
_POLL_SECONDS = 0.3
_TOLERANCE = 1e-6
_KEY_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Asked:
    """An endpoint's answer to the example: a mapping per row, without what only says how it was made."""

    answers: list[Json]
    prediction_id: str
    url: str
    disclaimed: bool
    """Does every row of it carry the disclaimer?"""


class Serving:
    """`key` opens the doors whose addresses name no project; `client` acts in the solution's project."""

    def __init__(self, client: Client, key: str, solution: Solution, say: Callable[[str], None]) -> None:
        self._client = client
        self._solution = solution
        self._say = say
        self._http = httpx.Client(
            base_url=client.url, headers={"Authorization": f"Bearer {key}"}, timeout=120, trust_env=False
        )

    def deploy(self, endpoint: str, version: str) -> None:
        """Deploy the version and wait until it answers. Raises `Internal` with the reason when it never does."""
        self._say(f"deploy: version {version} to {endpoint}")
        path = self._client.path(f"/endpoints/{quote(endpoint, safe='')}")
        model = f"models:/{self._solution.name}/{version}"
        made = self._client.post(self._client.path("/endpoints"), {"name": endpoint, "model": model})
        number = made["latest"]["number"]
        while made["latest"]["number"] == number and made["latest"]["state"] in {"preparing", "starting"}:
            time.sleep(_POLL_SECONDS)
            made = self._client.get(path)
        if made["latest"]["state"] != "active":
            raise Internal(
                f"Endpoint {endpoint} does not come up: {made['latest']['failure'] or made['failure']}",
                hint=f"Its log: stratal endpoint logs {endpoint} --project {self._client.project}",
            )

    def ask(self, endpoint: str) -> Asked:
        """Ask with the example of ``solution.toml``."""
        path = f"/v2/models/{quote(endpoint, safe='')}"
        answer = self._post(f"{path}/infer", self._request())
        columns = {output["name"]: output["data"] for output in answer.json()["outputs"]}
        said = columns.pop("disclaimer", [])
        columns.pop("model", None)
        rows = [
            {name: values[row] for name, values in columns.items()}
            for row in range(len(self._solution.request))
        ]
        whole = len(said) == len(rows) and all(text == self._solution.disclaimer for text in said)
        self._say(f"ask: {endpoint} answers {rows[0]}")
        return Asked(
            rows, answer.headers["x-stratal-prediction-id"], f"{self._client.url}{path}/infer", whole
        )

    def latency(self, endpoint: str, requests: int) -> Json:
        """How long answers take, one after the other, seen from here, in milliseconds."""
        path = f"/v2/models/{quote(endpoint, safe='')}"
        body = self._request()
        took = []
        for _ in range(requests):
            began = time.perf_counter()
            self._post(f"{path}/infer", body)
            took.append((time.perf_counter() - began) * 1000)
        took.sort()
        at = {share: took[min(len(took) - 1, math.ceil(share * len(took)) - 1)] for share in (0.5, 0.95)}
        self._say(f"ask: {requests} requests, median {at[0.5]:.1f} ms, 95 % within {at[0.95]:.1f} ms")
        return {"requests": requests, "p50_ms": at[0.5], "p95_ms": at[0.95]}

    def why(self, prediction_id: str) -> Json:
        """Does the chain behind the answer verify?"""
        answer = self._client.get(f"/predictions/{prediction_id}/why")
        said = f"{answer['verdict']}, {len(answer['chain'])} links"
        if answer["other_inputs"]:
            said += f"; other inputs possible: {', '.join(answer['other_inputs'])}"
        return {"passed": bool(answer["verified"]), "said": said}

    def alias(self, version: str) -> None:
        """Let ``models:/NAME@champion`` mean this version."""
        body = {"name": self._solution.name, "alias": "champion", "version": version}
        self._post("/api/2.0/mlflow/registered-models/alias", body)

    def _request(self) -> Json:
        """The example as one tensor per column."""
        rows = self._solution.request
        tensors = []
        for name in rows[0]:
            values = [row[name] for row in rows]
            tensors.append(
                {"name": name, "shape": [len(rows)], "datatype": _datatype(values), "data": values}
            )
        return {"inputs": tensors}

    def _post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        answer = self._http.post(path, json=body)
        if answer.is_error:
            raise Internal(f"{path} answered {answer.status_code}.", hint=answer.text[:1000])
        return answer


@contextlib.contextmanager
def key_of(client: Client, name: str) -> Iterator[str]:
    """A key of the client's project, for doors whose addresses name no project: its own, else one made for meanwhile."""
    if client.get("/whoami")["project"] == client.project:
        yield client.key
        return
    wanted = {"name": name, "role": "editor", "expires_at": int(time.time() * 1000) + _KEY_MS}
    made = client.post(client.path("/keys"), wanted)
    try:
        yield str(made["token"])
    finally:
        with contextlib.suppress(ApiError):
            client.delete(client.path(f"/keys/{made['id']}"))


def same(served: Sequence[Json], trained: Sequence[Json], disclaimed: bool) -> Json:
    """Does the endpoint answer as the model did in the job that trained it, with the disclaimer on every row?"""
    for row, (here, there) in enumerate(zip(served, trained, strict=True)):
        for name, value in here.items():
            if not _equal(value, there.get(name)):
                return {
                    "passed": False,
                    "said": f"row {row}, {name}: the endpoint says {value}, the job said {there.get(name)}",
                }
    if not disclaimed:
        return {"passed": False, "said": "the answer does not carry the disclaimer"}
    return {
        "passed": True,
        "said": f"{len(served)} rows as in the job that trained it, each with the disclaimer",
    }


def as_expected(outcome: Json, served: Sequence[Json], expect: Sequence[Mapping[str, Any]]) -> Json:
    """`outcome`, unless an answer to the example is another than declared: a value, or a range ``[low, high]``."""
    if not outcome["passed"]:
        return outcome
    for row, (here, wanted) in enumerate(zip(served, expect, strict=True)):
        for name, value in wanted.items():
            got = here.get(name)
            inside = (
                value[0] <= got <= value[1]
                if isinstance(value, list) and got is not None
                else _equal(got, value)
            )
            if not inside:
                return {"passed": False, "said": f"row {row}, {name}: {got}, expected {value}"}
    return {**outcome, "said": f"{outcome['said']}; the example is answered as expected"}


def _datatype(values: Sequence[Any]) -> str:
    if any(isinstance(value, str) for value in values):
        return "BYTES"
    if all(isinstance(value, bool) for value in values):
        return "BOOL"
    return "INT64" if all(isinstance(value, int) for value in values) else "FP64"


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(a == b)
