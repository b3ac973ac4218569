"""The MLflow door without a socket: every route, whatever is sent to it, answers in MLflow's dialect."""

import asyncio
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rooms.tracking.room import Room
from stratal.gateway.chain import Chain
from stratal.gateway.mlflow.artifacts import ArtifactRoutes
from stratal.gateway.mlflow.door import MlflowDoor
from stratal.gateway.mlflow.logged_models import LoggedModelRoutes
from stratal.gateway.mlflow.registry import RegistryRoutes
from stratal.gateway.mlflow.tracking import Tracking
from stratal.identity.model import Principal

pytestmark = pytest.mark.fast

FIELDS = [
    "experiment_id",
    "experiment_ids",
    "experiment_name",
    "name",
    "new_name",
    "key",
    "value",
    "tags",
    "run_id",
    "run_uuid",
    "metric_key",
    "metrics",
    "params",
    "models",
    "datasets",
    "timestamp",
    "step",
    "status",
    "filter",
    "order_by",
    "max_results",
    "page_token",
    "view_type",
    "run_view_type",
    "artifact_location",
    "start_time",
    "end_time",
    "run_name",
    "user_id",
    "model_json",
    "path",
    "version",
    "alias",
    "source",
    "stage",
    "description",
    "model_id",
    "run_link",
    "archive_existing_versions",
    "run_ids",
    "start_step",
    "end_step",
    "artifact_directory_path",
]
SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(["0", "1", "..", "a/b", "\x00", "NaN", "x" * 2000, "metrics.a > 1", "ACTIVE_ONLY"]),
)
JUNK = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3),
    max_leaves=6,
)
BODY = st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=8)


class Bearer:
    """Lets everybody in as `ann`."""

    def __init__(self, who: Principal) -> None:
        self._who = who

    async def __call__(self, request: object) -> Principal:
        return self._who


def chain_of(room: Room) -> tuple[Chain, list[tuple[str, str]]]:
    """The door behind the chain, and its routes with the names in them filled."""
    families = (
        Tracking(room.experiments, room.runs, room.search),
        ArtifactRoutes(room.artifacts),
        LoggedModelRoutes(room.logged, room.artifacts),
        RegistryRoutes(room.names, room.models),
    )
    door = MlflowDoor(Bearer(room.ann), *families)  # type: ignore[arg-type]
    routes = [
        (method, path.replace("{model_id}", "m-1").replace("{key}", "k"))
        for family in families
        for method, path in family.routes()
    ]
    return Chain([door]), sorted(routes)


def send(chain: Chain, method: str, path: str, **options: Any) -> httpx.Response:
    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(chain)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.request(method, path, **options)

    return asyncio.run(main())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(number=st.integers(0, 10**6), body=BODY)
def test_junk_is_never_a_defect(room: Room, number: int, body: dict[str, Any]) -> None:
    chain, routes = chain_of(room)
    method, path = routes[number % len(routes)]
    where = f"/{path}" if path == "get-artifact" else f"/api/2.0/{path}"
    if method == "GET":
        flat = {name: value for name, value in body.items() if isinstance(value, str | int)}
        answer = send(chain, method, where, params=flat)
    else:
        answer = send(chain, method, where, json=body)
    assert answer.status_code in {200, 400, 403, 404}, (method, path, body, answer.text)
    if answer.status_code != 200:
        assert set(answer.json()) == {"error_code", "message"}


def test_routes_are_found_by_their_parts(room: Room) -> None:
    chain, routes = chain_of(room)
    assert len(routes) > 60
    for version in ("2.0", "3.0"):
        found = send(chain, "GET", f"/api/{version}/mlflow/experiments/get", params={"experiment_id": "0"})
        assert found.json()["experiment"]["name"] == "Default"
    info = send(chain, "GET", "/api/3.0/mlflow/server-info").json()
    assert info["workspaces_enabled"] is False
    made = send(chain, "POST", "/api/2.0/mlflow/logged-models", json={"experiment_id": "0"}).json()
    model_id = made["model"]["info"]["model_id"]
    tags = {"tags": [{"key": "a/b c", "value": "1"}]}
    send(chain, "PATCH", f"/api/2.0/mlflow/logged-models/{model_id}/tags", json=tags).raise_for_status()
    gone = send(chain, "DELETE", f"/api/2.0/mlflow/logged-models/{model_id}/tags/a%2Fb%20c")
    assert gone.status_code == 200
    found = send(chain, "GET", f"/api/2.0/mlflow/logged-models/{model_id}").json()
    assert found["model"]["info"]["tags"] == []
