"""The server's end of a replica's socket, against the real program and against replicas that misbehave."""

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import uvloop
from sklearn.linear_model import LogisticRegression

from platform_server import wait_until
from stratal.ai.endpoints.runtime import Broken, CannotLoad
from stratal.ai.endpoints.scoring import read_json
from stratal.ai.endpoints.tensors import values
from stratal.engines.runtimes.adapter import Runtimes
from stratal.engines.runtimes.replica import frames
from stratal.kernel.errors import Internal, Invalid

ROW = read_json(b'{"instances": [[1, 2]]}')
HELLO = frames.pack(
    0,
    frames.HELLO,
    json.dumps({"interface": {}, "files": {"f": "0"}, "libraries": {}, "seconds": 1}).encode(),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Deeper than the 107 bytes that a socket's address can hold."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    return deep


Misbehaving = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def against(folder: Path, replica: Misbehaving, story: Callable[[], Awaitable[None]]) -> None:
    """Run `story` while `replica` listens in the folder."""

    async def main() -> None:
        descriptor = os.open(folder, os.O_PATH)
        path = f"/proc/self/fd/{descriptor}/replica.sock"
        async with await asyncio.start_unix_server(replica, path):
            async with asyncio.timeout(20):
                await story()
        os.close(descriptor)

    uvloop.run(main())


def says(*parts: bytes) -> Misbehaving:
    async def replica(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        writer.close()

    return replica


@pytest.mark.parametrize(
    "greeting",
    [
        b"",
        b"\0" * 100,
        b"GET / HTTP/1.1\r\n\r\n",
        HELLO[:-5],
        frames.pack(0, frames.HELLO, b"[]"),
        frames.pack(0, frames.HELLO, b'{"interface": 5, "files": {}, "libraries": {}, "seconds": 1}'),
        frames.pack(0, frames.HELLO, b'{"interface": {}}'),
        frames.pack(0, frames.HELLO, b" " * (5 << 20)),
    ],
)
def test_a_greeting_that_is_none_is_a_broken_replica(folder: Path, greeting: bytes) -> None:
    async def story() -> None:
        with pytest.raises(Broken):
            await Runtimes().connect(folder)

    against(folder, says(greeting), story)


def test_what_cannot_be_loaded_is_told(folder: Path) -> None:
    async def story() -> None:
        with pytest.raises(CannotLoad, match="no such library"):
            await Runtimes().connect(folder)

    against(folder, says(frames.pack(0, frames.FAILED, b'{"message": "no such library"}')), story)


def answering(reply: Callable[[int], bytes]) -> Misbehaving:
    async def replica(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO)
        splitter = frames.Splitter()
        while data := await reader.read(1 << 16):
            for request, _, _ in splitter.feed(data):
                writer.write(reply(request))
        writer.close()

    return replica


def tensors(request: int, *listed: object, data: bytes = b"") -> bytes:
    header = json.dumps({"outputs": listed}).encode()
    return frames.pack_tensors(request, frames.ANSWER, header, [data])


@pytest.mark.parametrize(
    "reply",
    [
        lambda n: frames.pack(n, frames.ANSWER, b""),
        lambda n: frames.pack(n, frames.ANSWER, b"\xff\xff\xff\xff"),
        lambda n: tensors(n, ["predict", "FP64", [2], 8], data=b"\0" * 8),
        lambda n: tensors(n, ["predict", "FP64", [1], 80], data=b"\0" * 8),
        lambda n: tensors(n, ["predict", "FP99", [1], 8], data=b"\0" * 8),
        lambda n: tensors(n, ["predict", "BYTES", [1], 8], data=b"\xff" * 8),
        lambda n: tensors(n, 5),
        lambda n: tensors(n, ["predict", "FP64", ["x"], 0]),
    ],
)
def test_an_answer_that_is_none_is_the_models_failure(folder: Path, reply: Callable[[int], bytes]) -> None:
    async def story() -> None:
        replica = await Runtimes().connect(folder)
        with pytest.raises(Internal):
            await replica.infer(ROW, None)
        replica.close()

    against(folder, answering(reply), story)


def test_answers_find_their_requests_in_any_order_and_strays_are_dropped(folder: Path) -> None:
    held: list[int] = []

    def reply(request: int) -> bytes:
        held.append(request)
        if len(held) < 3:
            return tensors(9_999)
        answers = [tensors(n, ["predict", "INT64", [1], 8], data=n.to_bytes(8, "little")) for n in held[::-1]]
        return b"".join(answers)

    async def story() -> None:
        replica = await Runtimes().connect(folder)
        found = await asyncio.gather(*(replica.infer(ROW, None) for _ in range(3)))
        assert [values(outputs[0]) for outputs in found] == [[1], [2], [3]]
        assert replica.in_flight == 0
        replica.close()

    against(folder, answering(reply), story)


def test_a_replica_that_goes_away_breaks_every_request(folder: Path) -> None:
    async def replica(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO)
        await reader.read(100)
        writer.close()

    async def story() -> None:
        link = await Runtimes().connect(folder)
        ends = await asyncio.gather(*(link.infer(ROW, None) for _ in range(5)), return_exceptions=True)
        assert {type(end) for end in ends} == {Broken}
        assert link.closed
        with pytest.raises(Broken):
            await link.infer(ROW, None)

    against(folder, replica, story)


# -- the real program ------------------------------------------------------------------------------


@pytest.fixture
def program(folder: Path, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    model = tmp_path / "model"
    model.mkdir()
    fitted = LogisticRegression().fit(np.array([[0.0, 0], [1, 1]]), [0, 1])
    (model / "model.pkl").write_bytes(pickle.dumps(fitted))
    runtime = Runtimes()
    plan = runtime.plan(
        {"sklearn": {"pickled_model": "model.pkl", "serialization_format": "pickle"}}, None, ["model.pkl"]
    )
    command = runtime.command(plan, Path(sys.executable), model, folder)
    for name, content in command.files.items():
        (folder / name).write_bytes(content)
    process = subprocess.Popen(command.argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/")
    yield process
    process.kill()
    process.communicate()


async def connected(folder: Path):  # type: ignore[no-untyped-def]
    async with asyncio.timeout(60):
        while True:
            try:
                return await Runtimes().connect(folder)
            except OSError:
                await asyncio.sleep(0.02)


def test_the_program_serves_several_connections_and_drains(
    program: "subprocess.Popen[bytes]", folder: Path
) -> None:
    async def story() -> None:
        first, second = await connected(folder), await connected(folder)
        assert first.greeting.loaded.keys() == {"model.pkl"}
        assert first.greeting.interface["classes"] == [0, 1]
        many = [first.infer(ROW, ["predict"]) for _ in range(20)]
        many += [second.infer(ROW, None) for _ in range(20)]
        answers = asyncio.gather(*many)
        await asyncio.sleep(0)  # all are sent
        program.send_signal(signal.SIGTERM)
        found = await answers
        assert [len(outputs) for outputs in found] == [1] * 20 + [2] * 20
        await asyncio.gather(first.wait_closed(), second.wait_closed())

    uvloop.run(story())
    wait_until(lambda: program.poll() is not None)
    assert program.returncode == 0


def test_the_program_outlives_who_asked_and_refuses_what_does_not_fit(
    program: "subprocess.Popen[bytes]", folder: Path
) -> None:
    async def asked_and_gone() -> None:
        replica = await connected(folder)
        asyncio.ensure_future(replica.infer(ROW, None)).add_done_callback(lambda f: f.exception())
        await asyncio.sleep(0)
        replica.close()
        await replica.wait_closed()

    async def story() -> None:
        replica = await connected(folder)
        with pytest.raises(Invalid, match=r"takes one tensor of shape \[-1, 2\]"):
            await replica.infer(read_json(b'{"instances": [[1, 2, 3]]}'), None)
        with pytest.raises(Invalid, match="NaN"):
            await replica.infer(read_json(b'{"instances": [[1, null]]}'), None)
        assert values((await replica.infer(ROW, ["predict"]))[0]) == [1]
        replica.close()

    uvloop.run(asked_and_gone())
    uvloop.run(story())


@pytest.fixture(scope="module")
def graph() -> bytes:
    """Two inputs by name, of several types, and their sum."""
    from onnx import TensorProto, helper

    takes = [
        helper.make_tensor_value_info("a", TensorProto.FLOAT, [None, 2]),
        helper.make_tensor_value_info("b", TensorProto.FLOAT, [None, 2]),
    ]
    gives = [helper.make_tensor_value_info("c", TensorProto.FLOAT, [None, 2])]
    made = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "sums", takes, gives)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def test_an_onnx_graph_is_asked_by_its_inputs_names(graph: bytes, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(graph)
    runtime = Runtimes()
    plan = runtime.plan({"onnx": {"data": "model.onnx"}, "python_function": {}}, None, ["model.onnx"])
    command = runtime.command(plan, Path(sys.executable), tmp_path, folder)
    (folder / "plan.json").write_bytes(command.files["plan.json"])
    process = subprocess.Popen(command.argv, stdout=subprocess.DEVNULL)

    async def story() -> None:
        replica = await connected(folder)
        assert [i["name"] for i in replica.greeting.interface["inputs"]] == ["a", "b"]
        assert replica.greeting.interface["answers"] == "c"
        asked = read_json(b'{"inputs": {"a": [[1, 2], [3, 4]], "b": [[5, 6], [7, 8.5]]}}')
        assert values((await replica.infer(asked, None))[0]) == [6, 8, 10, 12.5]
        with pytest.raises(Invalid, match="'b' FP32"):
            await replica.infer(read_json(b'{"inputs": {"a": [[1, 2]], "c": [[1, 2]]}}'), None)
        with pytest.raises(Invalid, match="shape"):
            await replica.infer(read_json(b'{"inputs": {"a": [[1]], "b": [[1, 2]]}}'), None)
        replica.close()

    try:
        uvloop.run(story())
    finally:
        process.kill()
        process.wait()


def test_a_model_that_is_none_ends_the_program_with_the_reason(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"no pickle")
    runtime = Runtimes()
    plan = runtime.plan({"sklearn": {"pickled_model": "model.pkl"}}, None, ["model.pkl"])
    command = runtime.command(plan, Path(sys.executable), tmp_path, folder)
    (folder / "plan.json").write_bytes(command.files["plan.json"])
    with subprocess.Popen(command.argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:

        async def story() -> None:
            with pytest.raises(CannotLoad, match="UnpicklingError"):
                await connected(folder)

        uvloop.run(story())
        process.communicate()
        assert process.returncode == 1


@pytest.mark.parametrize(
    ("flavors", "files", "said"),
    [
        ({}, [], "names no flavors"),
        ({"keras": {}}, ["m"], "keras"),
        ({"sklearn": {"pickled_model": "m"}}, ["other"], "not among its stored files"),
        ({"sklearn": {"pickled_model": "m", "serialization_format": "dill"}}, ["m"], "dill"),
        ({"sklearn": {"pickled_model": "m", "code": "code"}}, ["m"], "code folder"),
    ],
)
def test_what_no_runtime_serves_is_said_before_anything_starts(flavors, files, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Invalid, match=said):
        Runtimes().plan(flavors, None, files)
