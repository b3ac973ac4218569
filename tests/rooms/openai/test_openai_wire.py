"""OpenAI's shapes: what is taken, what is refused with the parameter's name, and numbers as bytes."""

import base64
import json
import struct
from typing import Any

import pytest

from stratal.ai.endpoints.tensors import Tensor
from stratal.gateway.openai import tools, wire
from stratal.gateway.openai.errors import body
from stratal.gateway.openai.images import drawing
from stratal.kernel.errors import Busy, Invalid

pytestmark = pytest.mark.fast

HELLO = [{"role": "user", "content": "hello"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": CITY}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
BROKEN = {"name": "weather", "arguments": "{"}
FORM = {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY}}
BIG = {"type": "object", "description": "x" * 70_000}


def test_parameters_that_a_model_knows_reach_it() -> None:
    asked = wire.generation(
        {
            "messages": [
                {
                    "role": "developer",
                    "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "kind"}],
                }
            ],
            "max_completion_tokens": 5,
            "temperature": None,
            "stop": "x",
            "seed": -3,
        },
        chat=True,
    )
    assert asked == {
        "messages": [{"role": "system", "content": "be kind"}],
        "max_tokens": 5,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 3,
        "stop": ["x"],
    }
    assert wire.generation({"prompt": ["a"]}, chat=False)["prompt"] == "a"


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": HELLO, "n": 2}, "n"),
        ({"messages": HELLO, "tools": [{}]}, "tools"),
        ({"messages": HELLO, "tools": [TOOL, TOOL]}, "tools"),
        ({"messages": HELLO, "tools": [{"type": "web_search"}]}, "tools"),
        ({"messages": HELLO, "tools": [TOOL], "tool_choice": "other"}, "tool_choice"),
        ({"messages": HELLO, "tool_choice": "required"}, "tool_choice"),
        ({"messages": HELLO, "tools": [TOOL], "parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"messages": HELLO, "response_format": {"type": "xml"}}, "response_format"),
        ({"messages": HELLO, "response_format": {"type": "json_schema"}}, "response_format"),
        ({"messages": HELLO, "response_format": {**FORM, "json_schema": {"schema": []}}}, "response_format"),
        ({"messages": HELLO, "response_format": {**FORM, "json_schema": {"schema": BIG}}}, "response_format"),
        (
            {"messages": HELLO, "tools": [TOOL], "tool_choice": "required", "response_format": FORM},
            "response_format",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL | {"function": {}}]}]}, "messages"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [CALL | {"function": BROKEN}]}]},
            "messages",
        ),
        ({"messages": HELLO, "temperature": 3}, "temperature"),
        ({"messages": HELLO, "temperature": float("nan")}, "temperature"),
        ({"messages": HELLO, "top_p": "1"}, "top_p"),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        ({"messages": HELLO, "max_tokens": True}, "max_tokens"),
        ({"messages": HELLO, "stop": [1]}, "stop"),
    ],
)
def test_what_is_not_offered_or_makes_no_sense_is_refused_by_name(given: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as refused:
        wire.generation(given, chat=True)
    assert body(refused.value)["error"]["param"] == param  # type: ignore[index]


@pytest.mark.parametrize("given", [None, [], [1, 2], [["a"]], {"a": 1}, ["x"] * 2049])
def test_inputs_of_embeddings_are_texts(given: Any) -> None:
    with pytest.raises(Invalid):
        wire.text_inputs({"input": given})


def test_vectors_are_told_as_numbers_or_as_their_bytes() -> None:
    data = struct.pack("<4f", 1.5, -2.0, 0.0, 3.25)
    vectors = Tensor("embedding", "FP32", (2, 2), data)
    plain = json.loads(wire.embeddings("m", vectors, [3, 4], as_base64=False))
    assert [one["embedding"] for one in plain["data"]] == [[1.5, -2.0], [0.0, 3.25]]
    assert plain["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    packed = json.loads(wire.embeddings("m", vectors, [3, 4], as_base64=True))
    assert base64.b64decode(packed["data"][1]["embedding"]) == data[8:]


def test_errors_are_of_the_kind_that_clients_tell_apart() -> None:
    told = body(Busy("Too much at once."))["error"]
    assert (told["type"], told["code"]) == ("rate_limit_error", "busy")  # type: ignore[index]


def test_tools_and_schemas_reach_the_model_and_calls_come_back_with_ids() -> None:
    told = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sunny"}]},
    ]
    named = {"type": "function", "function": {"name": "weather"}}
    asked = wire.generation({"messages": told, "tools": [TOOL], "tool_choice": named}, chat=True)
    assert asked["tools"] == [TOOL]
    assert (asked["tool_choice"], asked["parallel"]) == ("=weather", True)
    read = {**CALL, "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    assert asked["messages"][1:] == [
        {"role": "assistant", "content": "", "tool_calls": [read]},
        {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
    ]
    assert wire.generation({"messages": HELLO, "response_format": FORM}, chat=True)["schema"] == CITY
    as_object = wire.generation({"messages": HELLO, "response_format": {"type": "json_object"}}, chat=True)
    assert as_object["schema"] == {"type": "object"}
    calls = tools.told_calls([{"name": "weather", "arguments": '{"city":"Rome"}'}], "r1")
    one = wire.choice(True, "", "tool_calls", streamed=False, calls=calls)
    assert one["message"]["content"] is None
    assert one["message"]["tool_calls"] == [
        {
            "id": "call_r1_0",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
        }
    ]


def test_a_picture_is_asked_with_what_the_model_knows() -> None:
    said = {
        "prompt": "a fox",
        "n": 2,
        "size": "64x32",
        "seed": 7,
        "steps": 4,
        "guidance": 0,
        "negative": "blur",
    }
    ignored = {
        "quality": "high",
        "style": "vivid",
        "user": "me",
        "moderation": "auto",
        "response_format": "b64_json",
    }
    assert drawing({**said, **ignored}) == {
        "prompt": "a fox", "count": 2, "width": 64, "height": 32, "seed": 7, "steps": 4, "guidance": 0.0, "negative": "blur"
    }  # fmt: skip
    plain = drawing({"prompt": "a fox", "size": "auto", "n": None})
    assert (plain.pop("seed") >= 0, plain) == (True, {"prompt": "a fox", "count": 1})


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["x"]}, "prompt"),
        ({"n": 11}, "n"),
        ({"n": 1.5}, "n"),
        ({"size": "big"}, "size"),
        ({"size": "0x64"}, "size"),
        ({"seed": -1}, "seed"),
        ({"steps": 0}, "steps"),
        ({"guidance": "much"}, "guidance"),
        ({"negative": 1}, "negative"),
        ({"response_format": "url"}, "response_format"),
        ({"output_format": "webp"}, "output_format"),
        ({"background": "transparent"}, "background"),
        ({"stream": True}, "stream"),
        ({"partial_images": 2}, "stream"),
    ],
)
def test_what_no_picture_can_be_drawn_by_is_refused_by_name(given: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as refused:
        drawing({"prompt": "x", **given})
    assert refused.value.details["param"] == param
