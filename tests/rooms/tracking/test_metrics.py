"""Metric points: none is lost, none is doubled, the newest is the newest, however they arrive."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from rooms.tracking.room import Room
from stratal.collab import metrics as points
from stratal.collab.metrics import Column, Point, downsample
from stratal.collab.model import Metric
from stratal.collab.runs import Batch

pytestmark = pytest.mark.fast

VALUES = st.one_of(st.floats(allow_nan=True, width=64), st.sampled_from([math.nan, math.inf, -math.inf]))
POINTS = st.builds(Point, st.integers(0, 50), st.integers(-5, 50), VALUES)
SLOW_FIXTURE = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30
)


def shown(point: Point) -> tuple[int, int, str]:
    """A point that equals itself, NaN too."""
    return point.timestamp, point.step, repr(point.value + 0.0)


@SLOW_FIXTURE
@given(batches=st.lists(st.lists(POINTS, min_size=1, max_size=90), min_size=1, max_size=6))
def test_history_is_the_set_of_points_however_batched(room: Room, batches: list[list[Point]]) -> None:
    run = room.run()
    for batch in batches:
        room.database.write_now(lambda c, b=batch: points.append(c, run.id, {"m": b}))
    read = room.database.read_now(lambda c: points.history(c, run.id, "m"))
    sent = {shown(point) for batch in batches for point in batch}
    assert sorted(map(shown, read.points())) == sorted(sent)
    assert [(p.timestamp, p.step) for p in read.points()] == sorted((t, s) for t, s, _ in sent)
    (latest,) = room.do(room.runs.get(room.ann, "prj_a", run.id)).metrics
    newest = max((p for batch in batches for p in batch), key=lambda p: p.rank)
    assert (latest.step, latest.timestamp) == (newest.step, newest.timestamp)


def test_a_long_run_keeps_every_point_in_order(room: Room) -> None:
    run = room.run()

    def work(connection: Connection) -> None:
        for start in range(0, 10_000, 20):
            new = [Point(step, step, 1 / (step + 1)) for step in range(start, start + 20)]
            points.append(connection, run.id, {"loss": new})

    room.database.write_now(work)
    column = room.do(room.runs.series(room.ann, "prj_a", run.id, "loss"))
    assert list(column.steps) == list(range(10_000))
    assert column.values[-1] == 1 / 10_000


def test_a_batch_sent_twice_is_kept_once(room: Room) -> None:
    run = room.run()
    batch = Batch([Metric("loss", 0.5, 1000, 3), Metric("loss", math.nan, 1000, 4)])
    for _ in range(2):
        room.do(room.runs.log(room.ann, "prj_a", run.id, batch))
    page = room.do(room.runs.history(room.ann, "prj_a", run.id, "loss", limit=None, token=""))
    assert [point.step for point in page.items] == [3, 4]


def test_an_older_step_does_not_replace_the_latest_value(room: Room) -> None:
    run = room.run()
    for step, value in ((5, 0.5), (2, 0.9), (5, 0.1)):
        batch = Batch([Metric("loss", value, 1000, step)])
        room.do(room.runs.log(room.ann, "prj_a", run.id, batch))
    (latest,) = room.do(room.runs.get(room.ann, "prj_a", run.id)).metrics
    assert (latest.step, latest.value) == (5, 0.5)


def test_history_comes_in_pages(room: Room) -> None:
    run = room.run()
    batch = Batch([Metric("loss", float(step), 1000 + step, step) for step in range(25)])
    room.do(room.runs.log(room.ann, "prj_a", run.id, batch))
    steps, token, pages = [], "", 0
    while pages == 0 or token:
        page = room.do(room.runs.history(room.ann, "prj_a", run.id, "loss", limit=10, token=token))
        steps += [point.step for point in page.items]
        token, pages = page.next_token, pages + 1
    assert (steps, pages) == (list(range(25)), 3)


@given(st.lists(VALUES, min_size=1, max_size=400), st.integers(1, 60))
def test_thinning_keeps_the_ends_and_the_extremes(values: list[float], most: int) -> None:
    column = Column()
    column.add(Point(i, i, value) for i, value in enumerate(values))
    kept = downsample(column, most)
    steps = [point.step for point in kept]
    assert len(kept) <= most or most < 2
    assert steps == sorted(set(steps))
    assert steps[-1] == len(values) - 1
    if most >= 4 and len(values) > most:
        known = [value for value in values[1:-1] if not math.isnan(value)]
        if known:
            assert max(known) in [point.value for point in kept]
            assert min(known) in [point.value for point in kept]
