"""Metric points: how they are packed, appended and read.

A chunk holds its points as three packed columns (see `tables.metric_chunks`). New points go to the
metric's tail, chunk 0; when that has grown past `_TAIL` points it is moved behind the last full chunk,
so a point is rewritten a bounded number of times however long the run is, and a batch of a thousand
points is one row. Points are a set: the same timestamp, step and value sent again (clients retry)
is read once.
"""

import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import BindParameter, Connection, bindparam, delete, select

from stratal.collab.tables import latest_metrics, metric_chunks
from stratal.collab.upsert import upsert

_TAIL = 64
_FULL = 4096

_NAMES: BindParameter[str] = bindparam("names", expanding=True)
_TAILS = select(metric_chunks.c.key, metric_chunks.c.data).where(
    metric_chunks.c.run_id == bindparam("run"), metric_chunks.c.key.in_(_NAMES), metric_chunks.c.seq == 0
)
_LATEST = select(latest_metrics).where(
    latest_metrics.c.run_id == bindparam("run"), latest_metrics.c.key.in_(_NAMES)
)


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: epoch milliseconds, the step (of training, say), and the value (may be NaN, ±inf)."""

    timestamp: int
    step: int
    value: float

    @property
    def rank(self) -> tuple[int, int, float]:
        """By which the newest is found: the greatest step, then time, then value (NaN below all)."""
        return (self.step, self.timestamp, -math.inf if math.isnan(self.value) else self.value)


class Column:
    """Points as three parallel arrays."""

    __slots__ = ("steps", "timestamps", "values")

    def __init__(self) -> None:
        self.timestamps = array("q")
        self.steps = array("q")
        self.values = array("d")

    def __len__(self) -> int:
        return len(self.values)

    def add(self, points: Iterable[Point]) -> None:
        for point in points:
            self.timestamps.append(point.timestamp)
            self.steps.append(point.step)
            self.values.append(point.value)

    def pack(self, start: int, end: int) -> bytes:
        """The points [start, end) as a chunk's bytes."""
        parts = (self.timestamps[start:end], self.steps[start:end], self.values[start:end])
        if sys.byteorder == "big":
            for part in parts:
                part.byteswap()
        return b"".join(part.tobytes() for part in parts)

    def unpack(self, data: bytes) -> None:
        """Append the points of a chunk."""
        third = len(data) // 3
        timestamps, steps = array("q", data[:third]), array("q", data[third : 2 * third])
        values = array("d", data[2 * third :])
        if sys.byteorder == "big":
            for part in (timestamps, steps, values):
                part.byteswap()
        self.timestamps.extend(timestamps)
        self.steps.extend(steps)
        self.values.extend(values)

    def ordered(self) -> "Column":
        """These points by timestamp, step and value, each once."""
        if self._is_ordered():
            return self
        keys = sorted(
            range(len(self)),
            key=lambda i: (self.timestamps[i], self.steps[i], *_comparable(self.values[i])),
        )
        result = Column()
        last: tuple[object, ...] | None = None
        for i in keys:
            this = (self.timestamps[i], self.steps[i], *_comparable(self.values[i]))
            if this != last:
                result.timestamps.append(self.timestamps[i])
                result.steps.append(self.steps[i])
                result.values.append(self.values[i])
            last = this
        return result

    def _is_ordered(self) -> bool:
        before: tuple[int, int] = (-(2**63), -(2**63))
        for this in zip(self.timestamps, self.steps, strict=True):
            if this <= before:
                return False
            before = this
        return True

    def between(self, first_step: int, last_step: int) -> "Column":
        """Those whose step is from `first_step` to `last_step`, both included."""
        result = Column()
        result.add(point for point in self.points() if first_step <= point.step <= last_step)
        return result

    def points(self, start: int = 0, end: int | None = None) -> Iterator[Point]:
        stop = len(self) if end is None else min(end, len(self))
        for i in range(start, stop):
            yield Point(self.timestamps[i], self.steps[i], self.values[i])


def append(connection: Connection, run_id: str, metrics: dict[str, list[Point]]) -> None:
    """Add points to a run's metrics and renew their latest values, in the caller's write transaction."""
    _renew_latest(connection, run_id, metrics)
    tails = {
        row.key: row.data
        for keys in _batches(list(metrics))
        for row in connection.execute(_TAILS, {"run": run_id, "names": keys})
    }
    rows: list[dict[str, object]] = []
    for key, points in metrics.items():
        column = Column()
        column.unpack(tails.get(key, b""))
        column.add(points)
        if len(column) > _TAIL:
            rows += _settle(connection, run_id, key, column)
            column = Column()
        rows.append(_row(run_id, key, 0, column, 0, len(column)))
    upsert(connection, metric_chunks, rows, ("run_id", "key", "seq"))


def history(connection: Connection, run_id: str, key: str) -> Column:
    """All points of a metric, by timestamp, step and value; empty when there is no such metric."""
    column = Column()
    chunks = connection.execute(
        select(metric_chunks.c.seq, metric_chunks.c.data)
        .where(metric_chunks.c.run_id == run_id, metric_chunks.c.key == key)
        .order_by(metric_chunks.c.seq)
    ).all()
    for chunk in sorted(chunks, key=lambda row: row.seq or sys.maxsize):
        column.unpack(chunk.data)
    return column.ordered()


def downsample(column: Column, points: int) -> list[Point]:
    """At most `points` of them, evenly spread over their order, the first and the last included.

    The extremes are what an eye looks for, so of each stretch its smallest and largest value are kept
    rather than just any. A single one asked for is the last.
    """
    if len(column) <= points:
        return list(column.points())
    if points < 2:
        return list(column.points(len(column) - 1))
    inner = max(0, (points - 2) // 2)
    chosen = {0, len(column) - 1}
    for stretch in range(inner):
        low = 1 + stretch * (len(column) - 2) // inner
        high = 1 + (stretch + 1) * (len(column) - 2) // inner
        known = [i for i in range(low, high) if not math.isnan(column.values[i])]
        if known:
            chosen.add(min(known, key=column.values.__getitem__))
            chosen.add(max(known, key=column.values.__getitem__))
        elif low < high:
            chosen.add(low)
    return [next(column.points(i, i + 1)) for i in sorted(chosen)]


def forget(connection: Connection, run_ids: Sequence[str]) -> None:
    """Remove every point of the runs."""
    for table in (metric_chunks, latest_metrics):
        connection.execute(delete(table).where(table.c.run_id.in_(run_ids)))


def _settle(connection: Connection, run_id: str, key: str, column: Column) -> list[dict[str, object]]:
    """The rows of the full chunks once `column` (the tail) has moved behind them."""
    last = connection.execute(
        select(metric_chunks.c.seq, metric_chunks.c.points, metric_chunks.c.data)
        .where(metric_chunks.c.run_id == run_id, metric_chunks.c.key == key, metric_chunks.c.seq > 0)
        .order_by(metric_chunks.c.seq.desc())
        .limit(1)
    ).one_or_none()
    seq = 1
    if last is not None:
        seq = last.seq + 1
        if last.points + len(column) <= _FULL:
            joined = Column()
            joined.unpack(last.data)
            joined.timestamps.extend(column.timestamps)
            joined.steps.extend(column.steps)
            joined.values.extend(column.values)
            column, seq = joined, last.seq
    return [
        _row(run_id, key, seq + number, column, start, min(start + _FULL, len(column)))
        for number, start in enumerate(range(0, len(column), _FULL))
    ]


def _row(run_id: str, key: str, seq: int, column: Column, start: int, end: int) -> dict[str, object]:
    return {
        "run_id": run_id,
        "key": key,
        "seq": seq,
        "points": end - start,
        "data": column.pack(start, end),
    }


def _renew_latest(connection: Connection, run_id: str, metrics: dict[str, list[Point]]) -> None:
    newest = {key: max(points, key=lambda p: p.rank) for key, points in metrics.items()}
    for keys in _batches(list(newest)):
        for row in connection.execute(_LATEST, {"run": run_id, "names": keys}):
            known = Point(row.timestamp, row.step, math.nan if row.is_nan else row.value)
            if known.rank >= newest[row.key].rank:
                del newest[row.key]
    rows = [{"run_id": run_id, "key": key, **stored(point)} for key, point in newest.items()]
    upsert(connection, latest_metrics, rows, ("run_id", "key"))


def stored(point: Point) -> dict[str, object]:
    """A point as the columns of a table of latest values."""
    is_nan = math.isnan(point.value)
    return {
        "value": None if is_nan else point.value,
        "is_nan": int(is_nan),
        "timestamp": point.timestamp,
        "step": point.step,
    }


def _comparable(value: float) -> tuple[bool, float]:
    return (True, 0.0) if math.isnan(value) else (False, value)


def _batches(keys: list[str], size: int = 500) -> Iterator[list[str]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
