"""vLLM's server as a replica's child, with a stand-in for it: asked, stopped, told apart from its failures.

The stand-in (`vllm_stand_in`) speaks the documented HTTP; nothing here measures vLLM.
"""

import asyncio
import json
import os
import signal
import subprocess
import sysconfig
import venv
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import uvloop

from platform_server import wait_until
from stratal.ai.endpoints.runtime import Broken, CannotLoad, Replica
from stratal.engines.runtimes.adapter import Runtimes
from stratal.kernel.errors import Internal, Invalid

STAND_IN = Path(__file__).parent / "vllm_stand_in.py"
FLAVORS = {"transformers": {"architectures": ["LlamaForCausalLM"]}}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has a package vllm with its program, and what this one has."""
    env = tmp_path_factory.mktemp("env")
    venv.create(env, symlinks=True)
    (packages,) = env.glob("lib/python*/site-packages")
    (packages / "more.pth").write_text(sysconfig.get_path("purelib"))
    (packages / "vllm").mkdir()
    (packages / "vllm" / "__init__.py").touch()
    (packages / "vllm-0.0.dist-info").mkdir()
    (packages / "vllm-0.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm\nVersion: 0.0\n"
    )
    program = env / "bin" / "vllm"
    program.write_text(f"#!{env}/bin/python -I\n{STAND_IN.read_text()}")
    program.chmod(0o755)
    return env / "bin" / "python"


class Started:
    def __init__(self, python: Path, root: Path, gpus: str, **files: str) -> None:
        self.folder, model = root / "replica", root / "model"
        self.folder.mkdir()
        model.mkdir()
        (model / "tokenizer_config.json").write_text('{"chat_template": "x"}')
        for name, text in files.items():
            (model / name.replace("_safetensors", ".safetensors")).write_text(text)
        runtime = Runtimes()
        plan = runtime.plan(FLAVORS, None, ["config.json", "model.safetensors"])
        command = runtime.command(plan, python, model, self.folder)
        for name, content in command.files.items():
            (self.folder / name).write_bytes(content)
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": gpus}
        self.process = subprocess.Popen(command.argv, env=env, cwd="/")

    async def connected(self) -> Replica:
        async with asyncio.timeout(60):
            while True:
                try:
                    return await Runtimes().connect(self.folder)
                except OSError:
                    await asyncio.sleep(0.02)

    def notes(self, what: str) -> list[Any]:
        lines = (self.folder / "stand-in.jsonl").read_text().splitlines()
        return [value for kind, value in map(json.loads, lines) if kind == what]

    def ended(self, pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False


@pytest.fixture
def started(python: Path, tmp_path: Path) -> Iterator[Started]:
    made = Started(python, tmp_path, "GPU-1,GPU-2", model_safetensors="w")
    yield made
    made.process.kill()
    made.process.wait()
    for told in made.notes("started"):
        if not made.ended(told["pid"]):
            os.kill(told["pid"], signal.SIGKILL)


async def written(replica: Replica, **asked: Any) -> tuple[str, Mapping[str, Any]]:
    text, end = "", {}
    async for piece in replica.generate({"prompt": "a", "max_tokens": 3, **asked}, seconds=30):
        text, end = text + str(piece.get("text", "")), dict(piece)
    return text, end


def test_texts_are_written_side_by_side_stopped_refused_and_counted_and_its_end_is_the_replicas(
    started: Started,
) -> None:
    async def story() -> None:
        replica = await started.connected()
        assert replica.greeting.interface["context"] == 2048
        assert replica.greeting.libraries["vllm"] == "0.0"
        several = await asyncio.gather(*(written(replica, prompt=letter) for letter in "abcdefgh"))
        assert [text for text, _ in several] == [f"{letter}0 {letter}1 {letter}2 " for letter in "abcdefgh"]
        end = {"finish": "length", "prompt_tokens": 3, "completion_tokens": 3}
        assert all(told == end for _, told in several)
        text, _ = await written(
            replica, prompt=None, messages=[{"role": "user", "content": "q"}], schema={"type": "object"}
        )
        assert text == "q0 q1 q2 "
        async with aclosing(replica.generate({"prompt": "slow", "max_tokens": 10_000}, seconds=30)) as pieces:
            async for piece in pieces:
                if piece.get("text"):
                    break
        with pytest.raises(Invalid, match="maximum context length"):
            await written(replica, prompt="long")
        async with asyncio.timeout(30):
            while started.notes("aborted") != ["slow"]:
                await asyncio.sleep(0.02)
        with pytest.raises(
            (Broken, Internal)
        ):  # whichever comes first: its text's failure, or the replica's end
            await written(replica, prompt="die")
        await replica.wait_closed()

    uvloop.run(story())
    asked = next(one for one in started.notes("asked") if "messages" in one)
    assert asked["response_format"]["json_schema"]["schema"] == {"type": "object"}
    (told,) = started.notes("started")
    assert (told["uds"], told["tensor_parallel_size"], told["load_format"]) == (
        "vllm.sock",
        "2",
        "safetensors",
    )
    assert told["offline"] == "1"
    wait_until(lambda: started.process.poll() is not None)
    assert started.process.returncode == 1


def test_a_replica_that_is_stopped_stops_it(started: Started) -> None:
    async def story() -> None:
        replica = await started.connected()
        await written(replica)
        started.process.send_signal(signal.SIGTERM)
        replica.close()
        await replica.wait_closed()

    uvloop.run(story())
    wait_until(lambda: started.process.poll() is not None)
    assert started.process.returncode == 0
    (told,) = started.notes("started")
    assert started.ended(told["pid"])


@pytest.mark.parametrize(
    ("gpus", "files", "said"),
    [
        ("", {"model_safetensors": "w"}, "deploy it with --gpus 1"),
        ("GPU-1", {}, "no safetensors"),
        ("GPU-1", {"model_safetensors": "w", "unknown": ""}, "exit code 3 before it was ready"),
    ],
)
def test_what_is_missing_is_said(
    python: Path, tmp_path: Path, gpus: str, files: dict[str, str], said: str
) -> None:
    begun = Started(python, tmp_path, gpus, **files)
    try:
        with pytest.raises(CannotLoad, match=said):
            uvloop.run(begun.connected())
        wait_until(lambda: begun.process.poll() is not None)
        assert begun.process.returncode == 1
    finally:
        begun.process.kill()
        begun.process.wait()
