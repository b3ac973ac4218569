"""Text as it is made, through a replica's socket: pieces in order, stopped when nobody listens, refusals as they are."""

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import uvloop

import stratal.engines.runtimes as runtimes
from platform_server import wait_until
from stratal.ai.endpoints.runtime import Broken, Replica
from stratal.ai.endpoints.scoring import read_json
from stratal.ai.endpoints.tensors import values
from stratal.engines.runtimes.adapter import Runtimes
from stratal.kernel.errors import Internal, Invalid

ENDLESS = """
import json, os, sys
sys.path.insert(0, {parent!r})
from replica import frames, serve
from replica.arrays import Invalid

class Endless:
    interface, files, libraries = {{"generates": True}}, {{"f": "0"}}, {{}}
    def generate(self, asked):
        if asked["prompt"] == "bad":
            raise Invalid("no")
        if asked["prompt"] == "broken":
            yield {{"text": "a"}}
            raise RuntimeError("oh")
        count = 0
        while asked["max_tokens"] is None or count < asked["max_tokens"]:
            count += 1
            yield {{"text": str(count)}}
        yield {{"finish": "length", "prompt_tokens": 1, "completion_tokens": count}}
    rowwise = False
    def arrange(self, inputs, columns, *, strict):
        return inputs[0][1]
    def predict(self, features, wanted):
        return [("y", features)]

serve._load = lambda plan: Endless()
open("plan.json", "w").write('{{"model": "endless"}}')
serve.main(os.getcwd())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a replica listens that runs the real serving loop around a model that never tires."""
    parent = str(Path(runtimes.__file__).parent)
    program = tmp_path / "endless.py"
    program.write_text(textwrap.dedent(ENDLESS.format(parent=parent)))
    process = subprocess.Popen([sys.executable, "-B", str(program)], cwd=tmp_path)
    wait_until((tmp_path / "replica.sock").exists)
    yield tmp_path
    process.kill()
    process.wait()


def asked(prompt: str = "go", most: int | None = None) -> dict[str, object]:
    return {"prompt": prompt, "max_tokens": most}


def test_pieces_come_in_order_and_the_end_counts_them(folder: Path) -> None:
    async def story() -> None:
        replica = await Runtimes().connect(folder)
        async with aclosing(replica.generate(asked(most=5), seconds=20)) as pieces:
            found = [piece async for piece in pieces]
        assert [piece.get("text") for piece in found[:-1]] == ["1", "2", "3", "4", "5"]
        assert found[-1] == {"finish": "length", "prompt_tokens": 1, "completion_tokens": 5}
        assert replica.busy_since is None
        replica.close()

    uvloop.run(story())


def test_a_listener_that_goes_stops_the_model_which_then_answers_others(folder: Path) -> None:
    async def story() -> None:
        replica = await Runtimes().connect(folder)
        try:
            await told(replica)
        finally:
            replica.close()  # an open one would keep uvloop from ending

    async def told(replica: Replica) -> None:
        for _ in range(3):
            async with aclosing(replica.generate(asked(), seconds=20)) as pieces:
                assert [(await anext(pieces))["text"] for _ in range(3)] == ["1", "2", "3"]
            # It made text without end: that this is answered at all shows that it stopped.
            answer = await replica.infer(read_json(b'{"instances": [[1.5]]}'), None)
            assert values(answer[0]) == [1.5]
            while replica.busy_since is not None:  # the word that it stopped may come behind the answer
                await asyncio.sleep(0.01)

    uvloop.run(asyncio.wait_for(story(), 60))


def test_a_request_that_comes_meanwhile_waits_its_turn(folder: Path) -> None:
    async def story() -> None:
        replica = await Runtimes().connect(folder)
        async with aclosing(replica.generate(asked(most=2000), seconds=20)) as pieces:
            await anext(pieces)
            answer = asyncio.ensure_future(replica.infer(read_json(b'{"instances": [[2.5]]}'), None))
            last = [piece async for piece in pieces][-1]
        assert last["completion_tokens"] == 2000
        assert values((await answer)[0]) == [2.5]
        replica.close()

    uvloop.run(asyncio.wait_for(story(), 60))


def test_refusals_failures_and_deaths_are_told_apart(folder: Path) -> None:
    async def story() -> None:
        replica = await Runtimes().connect(folder)
        with pytest.raises(Invalid):
            await anext(replica.generate(asked("bad"), seconds=20))
        pieces = replica.generate(asked("broken"), seconds=20)
        assert await anext(pieces) == {"text": "a"}
        with pytest.raises(Internal):
            await anext(pieces)
        endless = replica.generate(asked(), seconds=20)
        await anext(endless)
        replica.close()
        with pytest.raises(Broken):
            [piece async for piece in endless]

    uvloop.run(asyncio.wait_for(story(), 60))
