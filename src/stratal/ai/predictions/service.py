"""Predictions: each answer of an endpoint is a row, recorded before the answer leaves and read back by its id.

A row is ``u32 header length``, a JSON header, then the bytes of the input and output tensors. Tensors
stay as they travelled: nothing is converted while a caller waits, only when somebody asks for the row.
"""

import contextlib
import hashlib
import struct
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
import orjson
from sqlalchemy import select

from stratal.ai.endpoints.tables import endpoint_revisions, endpoints
from stratal.ai.endpoints.tensors import Tensor, nested
from stratal.ai.predictions.ids import DIGEST_BYTES, Place, decode, encode, no_such
from stratal.ai.predictions.spool import Spool, Torn
from stratal.identity.model import Principal
from stratal.identity.permissions import may
from stratal.kernel.database import Database

KEPT_BYTES = 1 << 20
"""Inputs (and outputs) of more bytes than this are kept as their SHA-256 alone."""
_COUNT = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Answered:
    """What is recorded of one answered request. `revision` is the revision's `seq`; times are milliseconds."""

    project_id: str
    endpoint: str
    revision: int
    revision_number: int
    model_version_id: str
    actor: str
    request_id: str
    at: int
    latency_ms: float
    rows: int
    columns: Sequence[str] | None
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    params: Mapping[str, Any] = field(default_factory=dict)
    asked_in: str | None = None
    """The project that asked, by id, when the endpoint is lent to it."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A recorded prediction. When its row is damaged, `intact` is False, `problem` says how, and what it held is empty.

    `inputs` and `outputs` are ``{"name", "datatype", "shape", "data"}``; where they were too long to keep,
    ``data`` is absent and `inputs_sha256`/`outputs_sha256` is that of their bytes, one behind the other.
    """

    id: str
    project_id: str
    endpoint: str
    revision: int
    """The revision's `seq`, unique in the instance."""
    revision_number: int
    model_version_id: str
    intact: bool
    problem: str | None = None
    actor: str | None = None
    request_id: str | None = None
    at: int | None = None
    latency_ms: float | None = None
    rows: int | None = None
    columns: list[str] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    inputs_sha256: str | None = None
    outputs_sha256: str | None = None
    asked_in: str | None = None
    """The project that asked, where that is another one: what it got is its own to look at."""


class Predictions:
    def __init__(self, spool: Spool, database: Database) -> None:
        self._spool = spool
        self._database = database
        self._counted: dict[int, tuple[int, Counter[int]]] = {}
        self._counting = threading.Lock()

    async def record(self, answered: Answered) -> str:
        """Write the row; returns the id once the row survives a kill of the server. Raises `OSError`."""
        inputs, inputs_sha256 = await _kept(answered.inputs)
        outputs, outputs_sha256 = await _kept(answered.outputs)
        header = orjson.dumps(
            {
                "at": answered.at,
                "project_id": answered.project_id,
                "endpoint": answered.endpoint,
                "revision": answered.revision,
                "revision_number": answered.revision_number,
                "model_version_id": answered.model_version_id,
                "actor": answered.actor,
                "request_id": answered.request_id,
                "latency_ms": round(answered.latency_ms, 3),
                "rows": answered.rows,
                "columns": answered.columns,
                "inputs": [(t.name, t.datatype, t.shape, len(t.data)) for t in answered.inputs],
                "outputs": [(t.name, t.datatype, t.shape, len(t.data)) for t in answered.outputs],
                "inputs_sha256": inputs_sha256,
                "outputs_sha256": outputs_sha256,
                **({"params": answered.params} if answered.params else {}),
                **({"asked_in": answered.asked_in} if answered.asked_in else {}),
            }
        )
        row = b"".join((_COUNT.pack(len(header)), header, *inputs, *outputs))
        written = self._spool.append(row)
        return encode(Place(answered.revision, written.segment, written.offset, written.digest))

    async def get(self, who: Principal, prediction_id: str) -> Prediction:
        """The prediction, read from the spool and checked against its id.

        Raises `NotFound` for an id that was never handed out, or of an answer neither by nor to a project of the caller's.
        """
        place = decode(prediction_id)
        query = (
            select(
                endpoints.c.project_id,
                endpoints.c.name,
                endpoint_revisions.c.number,
                endpoint_revisions.c.model_version_id,
            )
            .join(endpoints, endpoints.c.id == endpoint_revisions.c.endpoint_id)
            .where(endpoint_revisions.c.seq == place.revision)
        )
        known = await self._database.read(lambda c: c.execute(query).one_or_none())
        if known is None:
            raise no_such(prediction_id)
        own = may(who, "predictions.read", known.project_id)
        try:
            found = await anyio.to_thread.run_sync(self._read, prediction_id, place)
            if not own and not (found.asked_in and may(who, "predictions.read", found.asked_in)):
                raise no_such(prediction_id)
            return found
        except Torn as torn:
            if not own:
                raise no_such(prediction_id) from torn
            return Prediction(
                id=prediction_id,
                project_id=known.project_id,
                endpoint=known.name,
                revision=place.revision,
                revision_number=known.number,
                model_version_id=known.model_version_id,
                intact=False,
                problem=str(torn),
            )

    async def counted(self, revisions: Collection[int]) -> dict[int, int]:
        """How many answers are recorded of each of these revisions (their `seq`). Reads what has come since it was asked
        last; what is in segments that are full is kept beside them."""

        def work() -> dict[int, int]:
            with self._counting:
                found: Counter[int] = Counter()
                segments = self._spool.segments()
                for segment in segments:
                    found += self._counts(segment, full=segment != segments[-1])
                return {revision: found[revision] for revision in revisions}

        return await anyio.to_thread.run_sync(work) if revisions else {}

    def _counts(self, segment: int, *, full: bool) -> Counter[int]:
        """How many rows of each revision a segment has, read on from where it was read to."""
        kept = self._spool.beside(segment, "counts")
        if segment not in self._counted and full:
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                told = orjson.loads(kept.read_bytes())
                counts = Counter({int(revision): int(count) for revision, count in told["counts"].items()})
                self._counted[segment] = (int(told["end"]), counts)
        start, counts = self._counted.get(segment, (0, Counter()))
        end = start
        for offset, row in self._spool.rows(segment, start):
            (length,) = _COUNT.unpack_from(row)
            if length:
                counts[orjson.loads(row[4 : 4 + length])["revision"]] += 1
            end = self._spool.behind(offset, row)
        self._counted[segment] = (end, counts)
        if full and (end != start or not kept.exists()):
            body = {"end": end, "counts": {str(revision): count for revision, count in counts.items()}}
            scratch = kept.with_suffix(".new")
            with contextlib.suppress(OSError):  # a full disk: it is counted again next time
                scratch.write_bytes(orjson.dumps(body))
                scratch.replace(kept)
        return counts

    async def purge(self, project_id: str) -> None:
        """Overwrite every row of the project. Call it when nothing of the project predicts any more."""

        def work() -> None:
            with self._counting:
                self._counted.clear()
                for segment in self._spool.segments():
                    self._spool.beside(segment, "counts").unlink(missing_ok=True)
                    for offset, row in self._spool.rows(segment):
                        (length,) = _COUNT.unpack_from(row)
                        if length and orjson.loads(row[4 : 4 + length])["project_id"] == project_id:
                            self._spool.blank(segment, offset)

        await anyio.to_thread.run_sync(work)

    def _read(self, prediction_id: str, place: Place) -> Prediction:
        row = self._spool.read(place.segment, place.offset)
        if hashlib.sha256(row).digest()[:DIGEST_BYTES] != place.digest:
            raise Torn("the row was altered: its SHA-256 is not the one in the prediction's id")
        (length,) = _COUNT.unpack_from(row)
        header = orjson.loads(row[4 : 4 + length])
        if header["revision"] != place.revision:
            raise Torn("the row is of another revision than the prediction's id says")
        at = 4 + length
        shown: dict[str, list[dict[str, Any]]] = {}
        for side in ("inputs", "outputs"):
            shown[side] = []
            for name, datatype, shape, size in header[side]:
                tensor = {"name": name, "datatype": datatype, "shape": shape}
                if header[f"{side}_sha256"] is None:
                    tensor["data"] = nested(Tensor(name, datatype, tuple(shape), row[at : at + size]))
                    at += size
                shown[side].append(tensor)
        return Prediction(
            id=prediction_id,
            project_id=header["project_id"],
            endpoint=header["endpoint"],
            revision=header["revision"],
            revision_number=header["revision_number"],
            model_version_id=header["model_version_id"],
            intact=True,
            actor=header["actor"],
            request_id=header["request_id"],
            at=header["at"],
            latency_ms=header["latency_ms"],
            rows=header["rows"],
            columns=header["columns"],
            params=header.get("params", {}),
            inputs=shown["inputs"],
            outputs=shown["outputs"],
            inputs_sha256=header["inputs_sha256"],
            outputs_sha256=header["outputs_sha256"],
            asked_in=header.get("asked_in"),
        )


async def _kept(tensors: Sequence[Tensor]) -> tuple[list[bytes | memoryview], str | None]:
    """The tensors' bytes, or none and their SHA-256 when they are too long to keep."""
    buffers = [tensor.data for tensor in tensors]
    if sum(map(len, buffers)) <= KEPT_BYTES:
        return buffers, None

    def digest() -> str:
        hashed = hashlib.sha256()
        for buffer in buffers:
            hashed.update(buffer)
        return hashed.hexdigest()

    return [], await anyio.to_thread.run_sync(digest)
