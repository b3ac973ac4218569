"""A language model in a file (GGUF) with random weights: uploaded, deployed, and asked by real clients.

What it tells is nonsense; how it is told, held to schemas, stopped and counted is not.
"""

import json
import os
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from platform_server import PlatformServer
from stratal.ai.predictions.spool import MAGIC
from tiny_gguf import write_gguf

PREAMBLE = """
import json, os
import openai
client = openai.OpenAI(max_retries=0)
HELLO = [{"role": "user", "content": "hello"}]
PLACE = {"type": "object", "properties": {"city": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 8},
         "days": {"type": "integer", "minimum": 1, "maximum": 9}, "unit": {"enum": ["C", "F"]}},
         "required": ["city", "days", "unit"], "additionalProperties": False}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": PLACE}}

def refused(call, **named):
    try:
        call(**named)
    except openai.APIStatusError as error:
        return [type(error).__name__, error.code, error.param]

def is_place(text):
    told = json.loads(text)
    return (sorted(told) == ["city", "days", "unit"] and told["unit"] in "CF" and 1 <= told["days"] <= 9
            and 0 < len(told["city"]) <= 8)
"""


class Chat:
    """Scripts with the real clients, in one project."""

    def __init__(self, server: PlatformServer, project: str, folder: Path) -> None:
        self.server, self.project, self.folder = server, project, folder
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        self.env = {**kept, **server.env(project), "HOME": str(folder), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def run(self, text: str, preamble: str = PREAMBLE) -> Any:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", preamble + textwrap.dedent(text)],
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def chat(server: PlatformServer, tmp_path_factory: pytest.TempPathFactory) -> Chat:
    """A project with the endpoint ``parrot``, its model uploaded by the Hub's own client."""
    folder = tmp_path_factory.mktemp("chat")
    write_gguf(folder / "parrot-f32.gguf")
    made = Chat(server, server.project(), folder)
    made.run(
        """
        from huggingface_hub import HfApi
        HfApi().create_repo("parrot")
        HfApi().upload_file(path_or_fileobj="parrot-f32.gguf", path_in_repo="parrot-f32.gguf", repo_id="parrot")
        print("null")
        """,
        "",
    )
    server.json("deploy", "models:/parrot/1", "--name", "parrot", "--project", made.project, timeout=900)
    return made


def test_it_streams_counts_stops_and_holds_to_schemas_and_tools(chat: Chat) -> None:
    told = chat.run(
        """
        create = client.chat.completions.create
        ask = dict(model="parrot", messages=HELLO, temperature=0)
        whole = create(**ask, max_tokens=24)
        text = whole.choices[0].message.content
        pieces = list(create(**ask, max_tokens=24, stream=True, stream_options={"include_usage": True}))
        stopped = create(**ask, max_tokens=24, stop=[text[8:10]]).choices[0]
        seeded = [create(model="parrot", messages=HELLO, max_tokens=12, seed=7).choices[0].message.content for _ in "ab"]
        form = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}
        held = [create(model="parrot", messages=HELLO, response_format=form, seed=n).choices[0] for n in range(3)]
        forced = create(**ask, tools=[WEATHER], tool_choice="required").choices[0]
        named = {"type": "function", "function": {"name": "weather"}}
        calls = list(create(**ask, tools=[WEATHER], tool_choice=named, stream=True))
        free = create(**ask, tools=[WEATHER], max_tokens=8).choices[0]
        call = forced.message.tool_calls[0]
        after = create(model="parrot", max_tokens=8, messages=[*HELLO, forced.message,
                       {"role": "tool", "tool_call_id": call.id, "content": "sunny"}], tools=[WEATHER])
        new = client.responses.create(model="parrot", input="hello", temperature=0, text={"format":
            {"type": "json_schema", "name": "place", "schema": PLACE}})
        tool = {"type": "function", **WEATHER["function"], "strict": True}
        called = client.responses.create(model="parrot", input="hello", tools=[tool], tool_choice="required")
        item = called.output[0]
        on = client.responses.create(model="parrot", max_output_tokens=8, tools=[tool], input=[
            {"role": "user", "content": "hello"}, item.model_dump(),
            {"type": "function_call_output", "call_id": item.call_id, "output": "sunny"}])
        with client.responses.stream(model="parrot", input="hello", tools=[tool], tool_choice="required") as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        print(json.dumps({
            "models": [model.id for model in client.models.list()],
            "same": "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == text,
            "pieces": len(pieces) > 10, "usage": [whole.usage.completion_tokens, pieces[-1].usage.completion_tokens],
            "finish": whole.choices[0].finish_reason,
            "stopped": [stopped.finish_reason, stopped.message.content == text[:text.find(text[8:10])]],
            "seeded": seeded[0] == seeded[1],
            "held": [[one.finish_reason, is_place(one.message.content)] for one in held],
            "forced": [forced.finish_reason, forced.message.content, call.function.name, is_place(call.function.arguments)],
            "streamed": [is_place("".join(t.function.arguments for p in calls for t in p.choices[0].delta.tool_calls or [])),
                         calls[-1].choices[0].finish_reason],
            "free": [free.finish_reason, free.message.tool_calls, bool(free.message.content)],
            "after": after.usage.completion_tokens,
            "new": is_place(new.output_text), "called": [item.type, item.name, is_place(item.arguments)],
            "on": on.usage.output_tokens, "kinds": ["response.function_call_arguments.done" in kinds, kinds[-1]],
            "final": is_place(final.output[0].arguments),
            "schema": refused(create, **ask, response_format={"type": "json_schema", "json_schema":
                              {"name": "x", "schema": {"type": "nonsense"}}}),
            "ref": refused(create, **ask, response_format={"type": "json_schema", "json_schema":
                           {"name": "x", "schema": {"$ref": "file:///etc/passwd"}}}),
            "long": refused(create, model="parrot", messages=[{"role": "user", "content": "x" * 20000}]),
            "logprobs": refused(create, **ask, logprobs=True),
            "search": refused(client.responses.create, model="parrot", input="x", tools=[{"type": "web_search"}]),
            "images": refused(client.images.generate, model="parrot", prompt="x"),
        }))
        """
    )
    assert told["models"] == ["parrot"]
    assert (told["same"], told["pieces"], told["usage"], told["finish"]) == (True, True, [24, 24], "length")
    assert (told["stopped"], told["seeded"]) == (["stop", True], True)
    assert told["held"] == [["stop", True]] * 3
    assert told["forced"] == ["tool_calls", None, "weather", True]
    assert told["streamed"] == [True, "tool_calls"]
    assert told["free"] == ["length", None, True]
    assert (told["after"], told["on"]) == (8, 8)
    assert (told["new"], told["called"]) == (True, ["function_call", "weather", True])
    assert (told["kinds"], told["final"]) == ([True, "response.completed"], True)
    assert told["schema"][0] == told["ref"][0] == told["long"][0] == "BadRequestError"
    assert told["logprobs"] == ["BadRequestError", "invalid_value", "logprobs"]
    assert told["search"] == ["BadRequestError", "invalid_value", "tools"]
    assert told["images"] == ["BadRequestError", "needs_model", "model"]


def test_the_command_line_and_the_native_api_chat_as_well(chat: Chat) -> None:
    given = ("--project", chat.project)
    told = chat.server.json("endpoint", "chat", "parrot", "hello", "--max-tokens", "12", *given)
    assert (told["finish"], told["completion_tokens"]) == ("length", 12)
    why = chat.server.json("why", told["prediction_id"], check=False)
    assert {link["kind"]: link["status"] for link in why["chain"]}["model version"] == "verified"
    with chat.server.http() as http:
        path = f"/api/v1/projects/{chat.project}/endpoints/parrot/chat"
        answer = http.post(path, json={"messages": [{"role": "user", "content": "x"}], "max_tokens": 5})
        events = [json.loads(part.removeprefix("data: ")) for part in answer.text.strip().split("\n\n")]
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "".join(one.get("text", "") for one in events)
        assert events[-1]["completion_tokens"] == 5
        for wrong in ({"messages": []}, {"messages": [{"role": "tool", "content": "x"}]}, {"messages": "x"}):
            assert http.post(path, json=wrong).status_code == 400
        long = http.post(path, json={"messages": [{"role": "user", "content": "x" * 20_000}]})
        assert (long.status_code, long.json()["error"]["code"]) == (400, "bad_input")


def test_a_stream_that_the_client_closes_stops_the_model(chat: Chat) -> None:
    """It would write 16,000 tokens, streamed or not; what was written until then is recorded, and others are answered."""
    chat.run(
        """
        for _ in range(3):
            endless = client.chat.completions.create(model="parrot", messages=HELLO, max_tokens=16000, stream=True)
            next(iter(endless))
            endless.close()
        for path in ("chat.completions", "responses"):  # no stream: nobody waits for it any more
            many = {"max_tokens": 16000, "messages": HELLO}
            many = many if path[0] == "c" else {"max_output_tokens": 16000, "input": "hello"}
            create = client.with_options(timeout=0.3)
            for part in path.split("."):
                create = getattr(create, part)
            try:
                create.create(model="parrot", **many)
            except openai.APITimeoutError:
                pass
        client.completions.create(model="parrot", prompt="x", max_tokens=3)
        print("null")
        """
    )
    with chat.server.http() as http:
        path = f"/api/v1/projects/{chat.project}/endpoints/parrot"
        deadline = time.monotonic() + 60
        while http.get(path).json()["in_flight"] and time.monotonic() < deadline:
            time.sleep(0.2)
        assert http.get(path).json()["in_flight"] == 0
    broken_off = [row for row in recorded(chat.server.home) if b'"max_tokens":16000' in row]
    assert 3 <= len(broken_off) <= 5  # what had not begun yet when its client went is not recorded
    assert all(len(row) < 15_000 for row in broken_off)  # a token is a byte at least


def recorded(home: Path) -> Iterator[bytes]:
    """The rows of predictions as they lie in the spool."""
    for path in home.rglob("*"):
        if not path.is_file() or path.stat().st_size < len(MAGIC):
            continue
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                continue
            while len(head := file.read(8)) == 8:
                yield file.read(struct.unpack("<II", head)[0])


@pytest.mark.soak
def test_a_framework_on_it_works_unmodified(chat: Chat) -> None:
    """Pydantic AI: text, a typed answer, and a tool that is called and answered."""
    told = chat.run(
        """
        from typing import Literal
        from pydantic import BaseModel, Field
        from pydantic_ai import Agent, NativeOutput
        from pydantic_ai.models.openai import OpenAIChatModel

        class Place(BaseModel):
            city: str = Field(pattern="^[a-z]+$", max_length=8)
            unit: Literal["C", "F"]

        model = OpenAIChatModel("parrot")
        text = Agent(model).run_sync("hello", model_settings={"max_tokens": 16})
        native = Agent(model, output_type=NativeOutput(Place)).run_sync("Where?")
        by_tool = Agent(model, output_type=Place).run_sync("Where?")
        print(json.dumps({"text": len(text.output) > 0, "tokens": text.usage.output_tokens,
                          "native": native.output.model_dump(), "tool": by_tool.output.model_dump()}))
        """
    )
    assert told["text"]
    assert told["tokens"] == 16
    for place in (told["native"], told["tool"]):
        assert place["unit"] in "CF"
        assert 0 < len(place["city"]) <= 8
