"""Prediction ids and the spool: found by place, proven by hash, whole after a kill."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stratal.ai.predictions.ids import Place, decode, encode
from stratal.ai.predictions.service import Predictions
from stratal.ai.predictions.spool import MAGIC, Spool, Torn
from stratal.kernel.errors import NotFound

pytestmark = pytest.mark.fast

NUMBER = st.integers(0, 2**32 - 1)
PLACES = st.builds(Place, NUMBER, NUMBER, NUMBER, st.binary(min_size=8, max_size=8))


@given(PLACES)
def test_an_id_says_its_place(place: Place) -> None:
    prediction_id = encode(place)
    assert len(prediction_id) == 39
    assert decode(prediction_id) == place


@given(PLACES, st.integers(3, 38), st.sampled_from("0123456789abcdefghjkmnpqrstvwxyz"))
def test_a_mistyped_id_is_no_id(place: Place, at: int, letter: str) -> None:
    prediction_id = encode(place)
    if prediction_id[at] == letter:
        return
    with pytest.raises(NotFound):
        decode(prediction_id[:at] + letter + prediction_id[at + 1 :])


@given(st.text(max_size=60))
def test_nothing_else_is_an_id(text: str) -> None:
    with pytest.raises(NotFound):
        decode(text)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, segment_bytes=300)


def test_rows_are_read_back_by_place_across_segments(spool: Spool) -> None:
    rows = [os.urandom(size) for size in (0, 1, 50, 100, 250, 400, 3)]
    written = [spool.append(row) for row in rows]
    assert [spool.read(w.segment, w.offset) for w in written] == rows
    assert len(spool.segments()) > 2
    assert [row for n in spool.segments() for _, row in spool.rows(n)] == rows


def test_a_restart_goes_on_in_a_segment_of_its_own(spool: Spool, tmp_path: Path) -> None:
    first = spool.append(b"before")
    again = Spool(tmp_path)
    second = again.append(b"after")
    assert second.segment != first.segment
    assert again.read(first.segment, first.offset) == b"before"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 60))
def test_a_torn_tail_hides_no_whole_row(tmp_path: Path, cut: int) -> None:
    folder = tmp_path / str(cut)
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    spool = Spool(folder)
    rows = [b"row one", b"row two", b"row three"]
    written = [spool.append(row) for row in rows]
    path = folder / "0000000001.seg"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut])
    ends = [w.offset + 8 + len(row) for w, row in zip(written, rows, strict=True)]
    expected = [row for row, end in zip(rows, ends, strict=True) if end <= len(whole) - cut]
    assert [row for _, row in Spool(folder).rows(1)] == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 27), bit=st.integers(0, 7))
def test_an_altered_byte_is_noticed(tmp_path: Path, at: int, bit: int) -> None:
    folder = tmp_path / f"{at}-{bit}"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    spool = Spool(folder)
    written = spool.append(b"a row of twenty byte")
    path = folder / "0000000001.seg"
    stored = bytearray(path.read_bytes())
    stored[len(MAGIC) + at] ^= 1 << bit
    path.write_bytes(stored)
    with pytest.raises(Torn):
        spool.read(written.segment, written.offset)


def test_a_place_that_is_none_holds_no_row(spool: Spool) -> None:
    spool.append(b"x" * 40)
    for segment, offset in ((1, 0), (1, 17), (1, 10_000), (2, 16), (99, 16)):
        with pytest.raises(Torn):
            spool.read(segment, offset)


def test_a_blanked_row_is_gone_and_its_neighbours_are_not(spool: Spool) -> None:
    places = [spool.append(row) for row in (b"one", b"secret", b"three")]
    spool.blank(places[1].segment, places[1].offset)
    assert [row for _, row in spool.rows(1)] == [b"one", b"\0" * 6, b"three"]


def test_answers_are_counted_from_where_they_were_counted_to(tmp_path: Path) -> None:
    def predictions() -> tuple[Spool, Predictions]:
        spool = Spool(tmp_path, segment_bytes=600)
        return spool, Predictions(spool, cast("Any", None))

    async def story() -> None:
        spool, told = predictions()
        read: list[int] = []
        rows = spool.rows

        def watched(segment: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
            for offset, row in rows(segment, start):
                read.append(offset)
                yield offset, row

        spool.rows = watched  # type: ignore[method-assign]
        for number in range(12):
            spool.append(_row(number % 2, "prj_a" if number < 8 else "prj_b"))
        assert await told.counted([0, 1, 7]) == {0: 6, 1: 6, 7: 0}
        assert len(read) == 12
        assert len(spool.segments()) > 1
        assert await told.counted([1]) == {1: 6}
        spool.append(_row(1, "prj_a"))
        assert await told.counted([1]) == {1: 7}
        assert len(read) <= 14, "only what came since"
        spool, told = predictions()
        assert await told.counted([0, 1]) == {0: 6, 1: 7}, "after a restart"
        await told.purge("prj_a")
        assert await told.counted([0, 1]) == {0: 2, 1: 2}

    asyncio.run(story())


def _row(revision: int, project: str) -> bytes:
    header = json.dumps({"revision": revision, "project_id": project}).encode()
    return len(header).to_bytes(4, "little") + header + b"x" * 40
