"""The path of a request: find the endpoint, get a replica (waking one if need be), ask it, record, answer.

No row of the database is read or written on this path; what it needs is kept in memory by `Serving`,
which `service` and `rollout` tell of every change.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stratal.ai.endpoints.model import Endpoint, Revision
from stratal.ai.endpoints.runtime import Broken
from stratal.ai.endpoints.scoring import Inputs
from stratal.ai.endpoints.tensors import Tensor
from stratal.ai.endpoints.upkeep import Condition, Upkeep
from stratal.ai.predictions.service import Answered, Predictions
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.errors import NotFound, Unavailable

REQUEST_SECONDS = 60.0
MAX_WAITING = 512
MAX_WAITING_BYTES = 256 << 20
_TRIES = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """An endpoint's answer, recorded under `prediction_id`."""

    prediction_id: str
    outputs: Sequence[Tensor]
    model_version: str
    revision_number: int


class Live:
    """An endpoint in memory. `active` answers; `deploying` is the newest revision that is not ready yet."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.active: Upkeep | None = None
        self.deploying: Revision | None = None
        self.failure = ""
        self.changed = asyncio.Condition()
        self.waiting = 0
        self.waiting_bytes = 0
        self.answered = 0

    async def tell(self) -> None:
        """Wake whoever waits for a change of this endpoint."""
        async with self.changed:
            self.changed.notify_all()


@dataclass(frozen=True, slots=True)
class Served:
    """What an endpoint takes and gives, from memory. `interface` is None before its first replica told."""

    name: str
    model_version: str
    revision_number: int
    interface: Mapping[str, Any] | None
    runtime: str
    answers: bool
    """It would answer a request now (at zero too: it would wake)."""
    reason: str


class Serving:
    def __init__(
        self, predictions: Predictions, clock: Clock, *, request_seconds: float = REQUEST_SECONDS
    ) -> None:
        self._predictions = predictions
        self._clock = clock
        self.request_seconds = request_seconds
        self._live: dict[tuple[str, str], Live] = {}

    # -- the registry --------------------------------------------------------------------------

    def put(self, live: Live) -> None:
        self._live[live.endpoint.project_id, live.endpoint.name] = live

    def drop(self, live: Live) -> None:
        self._live.pop((live.endpoint.project_id, live.endpoint.name), None)

    def find(self, project_id: str, name: str) -> Live | None:
        return self._live.get((project_id, name))

    def all(self) -> list[Live]:
        return list(self._live.values())

    def change(self, live: Live, **values: Any) -> None:
        """Note changed columns of the endpoint's row."""
        live.endpoint = replace(live.endpoint, **values)

    def _get(self, who: Principal, action: str, project_id: str, name: str) -> Live:
        require(who, action, project_id, what=f"endpoint {name[:100]!r}")
        live = self._live.get((project_id, name))
        if live is None:
            raise no_such_endpoint(name)
        return live

    # -- requests ------------------------------------------------------------------------------

    async def infer(
        self,
        who: Principal,
        project_id: str,
        name: str,
        inputs: Inputs,
        outputs: Sequence[str] | None,
        *,
        request_id: str,
        shown: bool = False,
        version: str | None = None,
    ) -> Answer:
        """Ask the endpoint. `shown`: only the output that is the model's answer (MLflow's ``predict_fn``).

        Raises `NotFound` (no such endpoint, or not that `version`), `Denied`, `Invalid` for inputs that the
        model does not take, `Internal` when the model fails, and `Unavailable` (with ``retry_after_seconds``
        in its details): stopped, cannot be started, too many waiting, or no answer within `request_seconds`.
        """
        started = time.perf_counter()
        live = self._get(who, "endpoints.invoke", project_id, name)
        size = sum(len(tensor.data) for tensor in inputs.tensors)
        if live.waiting >= MAX_WAITING or live.waiting_bytes + size > MAX_WAITING_BYTES:
            raise Unavailable(
                f"Endpoint {name!r} has as many requests waiting as it holds ({MAX_WAITING}).",
                hint="Try again in a moment.",
                reason="endpoint_overloaded",
                retry_after_seconds=1,
            )
        live.waiting += 1
        live.waiting_bytes += size
        try:
            async with asyncio.timeout(self.request_seconds):
                upkeep, tensors = await self._ask(live, inputs, outputs, shown, version)
        except TimeoutError:
            raise Unavailable(
                f"Endpoint {name!r} did not answer within {self.request_seconds:.0f} s.",
                hint="See what its replica is doing: stratal endpoint logs NAME",
                reason="endpoint_timeout",
                retry_after_seconds=5,
            ) from None
        finally:
            live.waiting -= 1
            live.waiting_bytes -= size
        revision = upkeep.revision
        prediction_id = await self._record(who, live, revision, inputs, tensors, request_id, started)
        live.answered += 1
        return Answer(prediction_id, tensors, revision.model_version, revision.number)

    async def _ask(
        self, live: Live, inputs: Inputs, outputs: Sequence[str] | None, shown: bool, version: str | None
    ) -> tuple[Upkeep, list[Tensor]]:
        for _ in range(_TRIES):
            upkeep = await self._answering(live)
            if version is not None and version != upkeep.revision.model_version:
                raise not_that_version(live.endpoint.name, version, upkeep.revision.model_version)
            with upkeep.claim():
                replica = await upkeep.replica()
                wanted = outputs
                if shown and replica.greeting.interface.get("answers"):
                    wanted = [replica.greeting.interface["answers"]]
                try:
                    return upkeep, await replica.infer(inputs, wanted)
                except Broken:
                    continue  # it died under the request: asking is harmless to repeat, once
        raise Unavailable(
            f"The replica of endpoint {live.endpoint.name!r} died while it was answering.",
            hint="Its log: stratal endpoint logs NAME",
            reason="replica_died",
            retry_after_seconds=2,
        )

    async def _answering(self, live: Live) -> Upkeep:
        """The upkeep of the active revision; waits for the first one to become ready."""
        if live.active is not None and not live.endpoint.stopped:
            return live.active
        async with live.changed:
            while live.active is None or live.endpoint.stopped:
                if live.deploying is None:
                    raise _refusal(live)
                await live.changed.wait()
            return live.active

    async def _record(
        self,
        who: Principal,
        live: Live,
        revision: Revision,
        inputs: Inputs,
        outputs: Sequence[Tensor],
        request_id: str,
        started: float,
    ) -> str:
        try:
            return await self._predictions.record(
                Answered(
                    project_id=live.endpoint.project_id,
                    endpoint=live.endpoint.name,
                    revision=revision.seq,
                    revision_number=revision.number,
                    model_version_id=revision.model_version_id,
                    actor=who.actor,
                    request_id=request_id,
                    at=self._clock(),
                    latency_ms=(time.perf_counter() - started) * 1000,
                    rows=inputs.rows,
                    columns=inputs.columns,
                    inputs=inputs.tensors,
                    outputs=outputs,
                )
            )
        except OSError as error:
            raise Unavailable(
                f"The prediction cannot be recorded, so it is not given out: {error.strerror}.",
                reason="spool_failed",
                retry_after_seconds=5,
            ) from error

    # -- descriptions --------------------------------------------------------------------------

    def describe(self, who: Principal, project_id: str, name: str, version: str | None = None) -> Served:
        """What the endpoint takes and gives. Raises `NotFound`, also for a version that is not the one that answers."""
        served = self._served(self._get(who, "endpoints.read", project_id, name))
        if version is not None and version != served.model_version:
            raise not_that_version(name, version, served.model_version)
        return served

    def served(self, who: Principal, project_id: str) -> list[Served]:
        """Every endpoint of the project, by name."""
        require(who, "endpoints.read", project_id)
        return [self._served(live) for (place, _), live in sorted(self._live.items()) if place == project_id]

    def _served(self, live: Live) -> Served:
        name = live.endpoint.name
        if live.active is None or live.endpoint.stopped:
            revision = live.deploying or (live.active.revision if live.active else None)
            return Served(
                name=name,
                model_version=revision.model_version if revision else "",
                revision_number=revision.number if revision else 0,
                interface=live.active.interface if live.active else None,
                runtime=revision.plan.runtime if revision else "",
                answers=False,
                reason="loading" if live.deploying else _refusal(live).message,
            )
        failing = live.active.condition is Condition.FAILING
        return Served(
            name=name,
            model_version=live.active.revision.model_version,
            revision_number=live.active.revision.number,
            interface=live.active.interface,
            runtime=live.active.revision.plan.runtime,
            answers=not failing,
            reason=live.active.failure if failing else "",
        )


def _refusal(live: Live) -> Unavailable:
    name = live.endpoint.name
    if live.endpoint.stopped:
        return Unavailable(
            f"Endpoint {name!r} is stopped.",
            hint=f"Start it with: stratal endpoint start {name}",
            reason="endpoint_stopped",
        )
    return Unavailable(
        f"Endpoint {name!r} has no revision that works: {live.failure or 'none was deployed'}",
        hint=f"Its log: stratal endpoint logs {name}",
        reason="endpoint_failed",
        retry_after_seconds=30,
    )


def no_such_endpoint(name: str) -> NotFound:
    return NotFound(
        f"There is no endpoint {name[:100]!r}.",
        hint="List them with: stratal endpoints",
        reason="no_such_endpoint",
    )


def not_that_version(name: str, asked: str, have: str) -> NotFound:
    return NotFound(
        f"Endpoint {name[:100]!r} serves version {have or '(none yet)'} of its model, not {asked[:40]!r}.",
        reason="no_such_version",
    )
