"""The path of a request: find the endpoint, claim a replica (waking one if need be), ask it, record, answer.

No row of the database is read or written on this path; what it needs is kept in memory by `Serving`,
which `service` and `rollout` tell of every change.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import anyio
import orjson

from stratal.ai.endpoints.latency import Latencies
from stratal.ai.endpoints.model import Endpoint, Revision
from stratal.ai.endpoints.runtime import Broken, Replica
from stratal.ai.endpoints.scoring import Inputs
from stratal.ai.endpoints.tensors import Tensor, pack
from stratal.ai.endpoints.traffic import choose, place
from stratal.ai.predictions.service import Answered, Predictions
from stratal.compute.services.model import Condition
from stratal.compute.services.service import Service
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.shares import Shares
from stratal.kernel.clock import Clock
from stratal.kernel.errors import Busy, Internal, Invalid, NotFound, Unavailable

REQUEST_SECONDS = 60.0
_TRIES = 2


class Makes(StrEnum):
    """What a model makes piece by piece; its interface says so by this name."""

    TEXT = "generates"
    PICTURES = "draws"


@dataclass(frozen=True, slots=True)
class Answer:
    """An endpoint's answer, recorded under `prediction_id`; `runtime` says what answered (``sklearn``, ``onnx`` …)."""

    prediction_id: str
    outputs: Sequence[Tensor]
    model_version: str
    revision_number: int
    runtime: str


class Kept:
    """A revision that answers, or is about to: its service, and how quick it was of late."""

    def __init__(self, revision: Revision, service: Service[Replica]) -> None:
        self.revision = revision
        self.service = service
        self.recent = Latencies()

    @property
    def interface(self) -> Mapping[str, Any] | None:
        """What it takes and gives, as a replica told; None before the first one did."""
        one = self.service.one
        return self.revision.interface if one is None else one.greeting.interface


class Live:
    """An endpoint in memory.

    `kept` are the revisions that answer, by seq; `active` is the one of them that gets what the others'
    shares leave, known while stopped too; `deploying` is the newest revision that is not ready yet.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.active: Revision | None = None
        self.kept: dict[int, Kept] = {}
        self.deploying: Revision | None = None
        self.failure = ""
        self.changed = asyncio.Condition()
        self.asking = 0
        self.answered = 0
        self.refused = 0

    @property
    def main(self) -> Kept | None:
        return None if self.active is None else self.kept.get(self.active.seq)

    def pick(self, key: str) -> Kept | None:
        """Who answers a request with this traffic key."""
        shares = self.endpoint.shares
        if shares and self.active is not None:
            chosen = self.kept.get(choose(shares, self.active.seq, place(self.endpoint.id, key)))
            if chosen is not None:
                return chosen
        return self.main

    async def tell(self) -> None:
        """Wake whoever waits for a change of this endpoint."""
        async with self.changed:
            self.changed.notify_all()


@dataclass(frozen=True, slots=True)
class Served:
    """What an endpoint takes and gives, from memory. `interface` is None before its first replica told."""

    name: str
    model_versions: Sequence[str]
    model_version: str
    revision_number: int
    interface: Mapping[str, Any] | None
    runtime: str
    answers: bool
    """It would answer a request now (at zero too: it would wake)."""
    reason: str


class Serving:
    def __init__(
        self,
        predictions: Predictions,
        clock: Clock,
        *,
        shares: Shares | None = None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._shares = shares
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

    def serves(self, project_id: str, model: str) -> bool:
        """Does an endpoint of the project answer with a version of this registered model?"""
        mine = (live for live in self._live.values() if live.endpoint.project_id == project_id)
        return any(kept.revision.model_name == model for live in mine for kept in live.kept.values())

    def change(self, live: Live, **values: Any) -> None:
        """Note changed columns of the endpoint's row."""
        live.endpoint = replace(live.endpoint, **values)

    def _get(self, who: Principal, action: str, project_id: str, name: str) -> Live:
        require(who, action, project_id, what=f"endpoint {name[:100]!r}")
        live = self._live.get((project_id, name)) or self._lent(project_id, name)
        if live is None:
            raise no_such_endpoint(name)
        return live

    def _lent(self, project_id: str, name: str) -> Live | None:
        """Another project's endpoint, which is shared with this one under that name."""
        share = None if self._shares is None else self._shares.endpoint(project_id, name)
        live = None if share is None else self._live.get((share.giver_id, share.name))
        return (
            live if share is not None and live is not None and live.endpoint.id == share.object_id else None
        )

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
        traffic_key: str | None = None,
        shown: bool = False,
        version: str | None = None,
    ) -> Answer:
        """Ask the endpoint. `shown`: only the output that is the model's answer (MLflow's ``predict_fn``).

        Where several revisions answer, `version` (of the model) or else `traffic_key` (else the request's
        id) chooses one. Raises `NotFound` (no such endpoint, or not that `version`), `Denied`, `Invalid` for
        inputs that the model does not take, `Internal` when the model fails, `Busy` when too much is asked
        at once, and `Unavailable`: stopped, cannot be started, too many waiting for it to wake, or no answer
        within `request_seconds`. The last two come with ``retry_after_seconds`` in their details.
        """
        started = time.perf_counter()
        live = self._get(who, "endpoints.invoke", project_id, name)
        live.asking += 1
        try:
            async with asyncio.timeout(self.request_seconds):
                kept, tensors = await self._ask(
                    live, inputs, outputs, shown, version, request_id if traffic_key is None else traffic_key
                )
        except TimeoutError:
            live.refused += 1
            raise Unavailable(
                f"Endpoint {name!r} did not answer within {self.request_seconds:.0f} s.",
                hint="See what its replica is doing: stratal endpoint logs NAME",
                reason="endpoint_timeout",
                retry_after_seconds=5,
            ) from None
        except (Busy, Unavailable):
            live.refused += 1
            raise
        finally:
            live.asking -= 1
        prediction_id = await self._record(
            who, project_id, live, kept.revision, inputs, tensors, request_id, started
        )
        live.answered += 1
        kept.recent.add(time.time(), (time.perf_counter() - started) * 1000)
        revision = kept.revision
        return Answer(prediction_id, tensors, revision.model_version, revision.number, revision.plan.runtime)

    async def generate(
        self,
        who: Principal,
        project_id: str,
        name: str,
        asked: Mapping[str, Any],
        *,
        request_id: str,
        makes: Makes = Makes.TEXT,
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Have the endpoint write or draw: pieces (of text, ``{"text"}``), at last ``{"finish", …, "prediction_id"}``.

        Raises as `infer`, and `Invalid` where its model does not make that. Closing the iterator makes the model
        stop; what it wrote until then is recorded all the same.
        """
        started = time.perf_counter()
        live = self._get(who, "endpoints.invoke", project_id, name)
        live.asking += 1
        texts: list[str] = []
        recorded = False
        kept: Kept | None = None
        try:
            async with asyncio.timeout(self.request_seconds):
                kept = await self._answering(live, None, request_id)
                claim = kept.service.claim(len(str(asked)))
                replica = await claim.__aenter__()
            try:
                _check_makes(live, replica, makes)
                async with aclosing(replica.generate(asked, seconds=self.request_seconds)) as pieces:
                    async for piece in pieces:
                        if "finish" not in piece:
                            texts.append(str(piece.get("text", "")))
                            yield piece
                            continue
                        recorded = True
                        noted = _written(asked, texts, piece)
                        prediction_id = await self._record(
                            who, project_id, live, kept.revision, *noted, request_id, started
                        )
                        live.answered += 1
                        yield {**piece, "prediction_id": prediction_id}
            finally:
                await claim.__aexit__(None, None, None)
        except (Broken, TimeoutError):
            live.refused += 1
            raise Unavailable(
                f"The replica of endpoint {name!r} was silent for too long, or died.",
                hint="Its log: stratal endpoint logs NAME",
                reason="endpoint_timeout",
                retry_after_seconds=5,
            ) from None
        except (Busy, Unavailable):
            live.refused += 1
            raise
        finally:
            live.asking -= 1
            if kept is not None and texts and not recorded:  # broken off
                with anyio.CancelScope(shield=True):
                    await self._record(
                        who, project_id, live, kept.revision, *_written(asked, texts, {}), request_id, started
                    )

    async def _ask(
        self,
        live: Live,
        inputs: Inputs,
        outputs: Sequence[str] | None,
        shown: bool,
        version: str | None,
        key: str,
    ) -> tuple[Kept, list[Tensor]]:
        size = sum(len(tensor.data) for tensor in inputs.tensors)
        tries = 0
        while tries < _TRIES:
            kept = await self._answering(live, version, key)
            try:
                async with kept.service.claim(size) as replica:
                    wanted = outputs
                    if shown and replica.greeting.interface.get("answers"):
                        wanted = [replica.greeting.interface["answers"]]
                    return kept, await replica.infer(inputs, wanted)
            except Broken:
                tries += 1  # it died under the request: asking is harmless to repeat, once
                kept.recent.fail(time.time())
            except Internal:
                kept.recent.fail(time.time())
                raise
            except Unavailable:
                if live.kept.get(kept.revision.seq) is kept:
                    raise
                # It was replaced while the request stood in its line: its successor answers.
        raise Unavailable(
            f"The replica of endpoint {live.endpoint.name!r} died while it was answering.",
            hint="Its log: stratal endpoint logs NAME",
            reason="replica_died",
            retry_after_seconds=2,
        )

    async def _answering(self, live: Live, version: str | None, key: str) -> Kept:
        """Who answers: of the model's `version`, else by the traffic's shares; waits for the first revision to be ready."""
        kept = live.main if version is None and not live.endpoint.shares else self._of(live, version, key)
        if kept is not None:
            return kept
        async with live.changed:
            while (kept := self._of(live, version, key)) is None:
                if live.deploying is None:
                    raise _refusal(live)
                await live.changed.wait()
            return kept

    def _of(self, live: Live, version: str | None, key: str) -> Kept | None:
        if version is None or not live.kept:
            return live.pick(key)
        mine = [kept for kept in live.kept.values() if kept.revision.answers_for(version)]
        if not mine:
            have = ", ".join(sorted({kept.revision.model_version for kept in live.kept.values()}))
            raise not_that_version(live.endpoint.name, version, have)
        return mine[-1]

    async def _record(
        self,
        who: Principal,
        project_id: str,
        live: Live,
        revision: Revision,
        inputs: Inputs,
        outputs: Sequence[Tensor],
        request_id: str,
        started: float,
    ) -> str:
        lent = project_id != live.endpoint.project_id
        try:
            return await self._predictions.record(
                Answered(
                    project_id=live.endpoint.project_id,
                    endpoint=live.endpoint.name,
                    revision=revision.seq,
                    revision_number=revision.number,
                    model_version_id=revision.model_version_id,
                    actor=f"{who.project}/{who.actor}" if lent else who.actor,
                    asked_in=project_id if lent else None,
                    request_id=request_id,
                    at=self._clock(),
                    latency_ms=(time.perf_counter() - started) * 1000,
                    rows=inputs.rows,
                    columns=inputs.columns,
                    inputs=inputs.tensors,
                    outputs=outputs,
                    params=inputs.params,
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
        """What the endpoint takes and gives. Raises `NotFound`, also for a version that does not answer."""
        live = self._get(who, "endpoints.read", project_id, name)
        served = replace(self._served(live), name=name)
        if version is None or version == served.model_version:
            return served
        for kept in live.kept.values():
            if kept.revision.answers_for(version):
                return replace(
                    served,
                    model_version=version,
                    revision_number=kept.revision.number,
                    interface=kept.interface,
                    runtime=kept.revision.plan.runtime,
                )
        raise not_that_version(name, version, ", ".join(served.model_versions))

    def served(self, who: Principal, project_id: str) -> list[Served]:
        """Every endpoint of the project, by name; then those that are shared with it."""
        require(who, "endpoints.read", project_id)
        own = [self._served(live) for (place, _), live in sorted(self._live.items()) if place == project_id]
        given = [] if self._shares is None else sorted(s.shown for s in self._shares.endpoints(project_id))
        lent = [(name, live) for name in given if (live := self._lent(project_id, name)) is not None]
        taken = {served.name for served in own}
        return own + [replace(self._served(live), name=name) for name, live in lent if name not in taken]

    def _served(self, live: Live) -> Served:
        main = live.main
        revision = main.revision if main else live.deploying or live.active
        failing = main is not None and main.service.condition is Condition.FAILING
        if main is None:
            reason = "loading" if live.deploying else _refusal(live).message
        else:
            reason = main.service.failure if failing else ""
        versions = sorted({kept.revision.model_version for kept in live.kept.values()})
        return Served(
            name=live.endpoint.name,
            model_versions=versions or ([revision.model_version] if revision else [""]),
            model_version=revision.model_version if revision else "",
            revision_number=revision.number if revision else 0,
            interface=main.interface if main else live.active.interface if live.active else None,
            runtime=revision.plan.runtime if revision else "",
            answers=main is not None and not failing,
            reason=reason,
        )


def _check_makes(live: Live, replica: Replica, makes: Makes) -> None:
    if replica.greeting.interface.get(makes):
        return
    name = live.endpoint.name
    if makes is Makes.PICTURES:
        raise Invalid(
            f"The model of endpoint {name!r} draws no pictures.",
            hint="Deploy a pipeline of diffusers, for example one uploaded through the Hub door.",
            reason="not_drawing",
        )
    raise Invalid(
        f"The model of endpoint {name!r} does not generate text.",
        hint="Deploy a language model, for example one uploaded through the Hub door.",
        reason="not_generating",
    )


def _written(
    asked: Mapping[str, Any], texts: Sequence[str], end: Mapping[str, Any]
) -> tuple[Inputs, list[Tensor]]:
    """What was asked, and what was written, called and drawn, as it is recorded."""
    question = Tensor("asked", "BYTES", (1,), pack("BYTES", [orjson.dumps(asked).decode()]))
    images, calls = end.get("images"), end.get("calls")
    if isinstance(images, list) and images:
        return Inputs([question]), [
            Tensor("image", "BYTES", (len(images),), pack("BYTES", [str(one) for one in images]))
        ]
    told = [Tensor("text", "BYTES", (1,), pack("BYTES", ["".join(texts)]))]
    if calls:
        told.append(Tensor("calls", "BYTES", (1,), pack("BYTES", [orjson.dumps(calls).decode()])))
    return Inputs([question]), told


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
        hint="List them with: stratal endpoint ls",
        reason="no_such_endpoint",
    )


def not_that_version(name: str, asked: str, have: str) -> NotFound:
    return NotFound(
        f"Endpoint {name[:100]!r} serves version {have or '(none yet)'} of its model, not {asked[:40]!r}.",
        reason="no_such_version",
    )
