"""Ranking what was laid out: as the marks are defined, whatever the snapshot; and the cache that holds it."""

import asyncio
import io
import math
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stratal.ai.retrieval.model import Mark, Snapshot
from stratal.engines.retrieval.layouts import Layouts
from stratal.kernel.errors import Unavailable

WORDS = [f"w{number}" for number in range(30)]
NUMBERS = pa.list_(pa.float32())
TYPES = {
    "id": pa.int64(), "document": pa.string(), "version": pa.string(), "title": pa.string(), "page": pa.int64(),
    "position": pa.int64(), "text": pa.string(), "parts": pa.list_(pa.string()), "terms": pa.list_(pa.string()),
    "length": pa.int64(), "embedding": NUMBERS, "part_embeddings": pa.list_(NUMBERS),
}  # fmt: skip


def passages(count: int, chance: random.Random) -> list[dict[str, Any]]:
    made = []
    for number in range(count):
        parts = chance.choice([None, 0, 1, 5])
        terms = chance.choices(
            WORDS, [1 / (place + 1) for place in range(len(WORDS))], k=chance.randint(1, 20)
        )
        made.append(
            {
                "id": 100 - number, "document": f"d{number // 5}", "version": "v", "title": "t", "page": number % 3 or None,
                "position": number, "text": f"text {number} é", "terms": terms, "length": len(terms),
                "parts": None if parts is None else [f"p{at}" for at in range(parts)], "embedding": unit(chance),
                "part_embeddings": None if parts is None else [unit(chance) for _ in range(parts)],
            }
        )  # fmt: skip
    return [*made, {**made[0], "id": 7}] if made else []  # one that is as good as another


def unit(chance: random.Random) -> list[float]:
    found = [chance.gauss(0, 1) for _ in range(8)]
    size = math.sqrt(sum(value * value for value in found))
    return [value / size for value in found]


class Shelf:
    """Gives rows as the warehouse does, in batches, and counts how often it is asked."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.asked = 0
        self.fails = False

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked += 1
        yield self._chunks()

    async def _chunks(self) -> AsyncIterator[bytes]:
        table = pa.table(
            {name: pa.array([row[name] for row in self.rows], kind) for name, kind in TYPES.items()}
        )
        out = io.BytesIO()
        with pa.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table, max_chunksize=7)
        data = out.getvalue()
        yield data[: len(data) // 2]
        if self.fails:
            raise Unavailable("The query worker ended.")
        yield data[len(data) // 2 :]


def product(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def as_defined(rows: list[dict[str, Any]], mark: Mark) -> tuple[list[tuple[int, float]], float]:
    """(id, score) of the best, and the greatest confidence: sums, one passage after the other."""
    rows = [row for row in rows if row["document"] != mark.without]
    whole = {row["id"]: product(row["embedding"], list(mark.vector)) for row in rows}
    idf, count = {}, len(rows)
    for term in set(mark.terms):
        having = sum(term in row["terms"] for row in rows)
        idf[term] = math.log(1 + (count - having + 0.5) / (having + 0.5))
    average = sum(row["length"] for row in rows) / max(count, 1)
    words = {}
    for row in rows:
        norm = 1.2 * (0.25 + 0.75 * row["length"] / average)
        times = {term: row["terms"].count(term) for term in idf}
        words[row["id"]] = sum(idf[term] * n * 2.2 / (n + norm) for term, n in times.items() if n)
    found, most = [], 0.0
    for row in rows:
        nearest = max(
            (product(part, list(mark.vector)) for part in row["part_embeddings"] or []),
            default=whole[row["id"]],
        )
        mine = [whole[one["id"]] for one in rows if one["document"] == row["document"]]
        score = (whole[row["id"]] + nearest) / 2 + mark.about * sum(mine) / len(mine)
        score += mark.weight * words[row["id"]] / max(words.values()) if max(words.values()) else 0.0
        share = sum(idf[term] for term in idf if term in row["terms"]) / sum(idf.values())
        most = max(most, (max(whole[row["id"]], 0) + share) / 2)
        found.append((row["id"], score))
    return sorted(found, key=lambda one: (-round(one[1], 5), one[0]))[: mark.limit], most


def mark_of(chance: random.Random, **said: Any) -> Mark:
    given = {
        "limit": chance.choice([1, 5, 40]),
        "without": chance.choice(["", "d0", "d1"]),
        "about": 0.3,
        "weight": 0.15,
    }
    return Mark(unit(chance), chance.sample([*WORDS, "unknown", ""], 4), **(given | said))


def test_passages_are_ranked_as_the_marks_are_defined_also_after_a_restart(tmp_path: Path) -> None:
    chance = random.Random(5)
    shelves = {number: Shelf(passages(count, chance)) for number, count in enumerate((0, 1, 43))}

    async def story(layouts: Layouts) -> None:
        await layouts.start()
        for number, shelf in shelves.items():
            for _ in range(12):
                mark = mark_of(chance)
                ranked = await layouts.rank(Snapshot("prj", f"t{number}", 1), shelf, mark)
                wanted, most = as_defined(shelf.rows, mark)
                assert [one["id"] for one in ranked.passages] == [one for one, _ in wanted]
                assert [one["score"] for one in ranked.passages] == pytest.approx(
                    [s for _, s in wanted], abs=1e-5
                )
                assert ranked.confidence == pytest.approx(most, abs=1e-5)
                known = {row["id"]: row for row in shelf.rows}
                for one in ranked.passages:
                    row = known[one["id"]]
                    assert all(one[name] == row[name] for name in ("document", "page", "text", "title"))
                    nears = [product(part, list(mark.vector)) for part in row["part_embeddings"] or []]
                    assert (one["parts"], one["part_near"]) == (
                        row["parts"] or [],
                        pytest.approx(nears, abs=1e-5),
                    )

    asyncio.run(story(Layouts(tmp_path)))
    asyncio.run(story(Layouts(tmp_path)))
    assert [shelf.asked for shelf in shelves.values()] == [1, 1, 1]


def test_what_is_laid_out_is_made_once_replaced_removed_and_made_again_when_it_is_damaged(
    tmp_path: Path,
) -> None:
    chance = random.Random(6)
    shelf = Shelf(passages(20, chance))
    mark = mark_of(chance, without="")

    def there() -> list[str]:
        return sorted(str(one.relative_to(tmp_path)) for one in tmp_path.glob("*/*"))

    async def story() -> None:
        layouts = Layouts(tmp_path)
        shelf.fails = True
        with pytest.raises(Unavailable):
            await layouts.rank(Snapshot("a", "t", 1), shelf, mark)
        assert list(tmp_path.iterdir()) == []  # of what broke off nothing is left
        shelf.fails, shelf.asked = False, 0
        both = await asyncio.gather(*(layouts.rank(Snapshot("a", "t", 1), shelf, mark) for _ in range(3)))
        assert (both[0], shelf.asked) == (both[2], 1)
        await layouts.rank(Snapshot("a", "t", 2), shelf, mark)
        assert there() == ["a/t@2"]
        (tmp_path / "making-x").mkdir()
        (tmp_path / "a" / "t@2" / "wholes.f32").write_bytes(b"")
        layouts = Layouts(tmp_path, max_bytes=1)
        await layouts.start()
        shelf.asked = 0
        assert await layouts.rank(Snapshot("a", "t", 2), shelf, mark) == both[0]
        assert (shelf.asked, there()) == (1, ["a/t@2"])
        await layouts.rank(Snapshot("b", "t", 1), shelf, mark)
        assert there() == ["b/t@1"]  # the other was over the bound
        await layouts.forget("b", "other")
        assert there() == ["b/t@1"]
        await layouts.forget("b", "t")
        assert there() == []
        await layouts.rank(Snapshot("b", "t", 3), shelf, mark)
        await layouts.forget("b")
        assert not (tmp_path / "b").exists()

    asyncio.run(story())
    shutil.rmtree(tmp_path)
