"""Tools as a language model sees them, and its calls as they are read from what it writes."""

import json
from typing import Any

import pytest

from stratal.engines.runtimes.replica.calling import Teller, call_schema, described, forced

pytestmark = pytest.mark.fast

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "", "parameters": CITY}}
    for name in ("weather", "time")
]
ROME = {"name": "weather", "arguments": '{"city": "Rome"}'}


def told(text: str, size: int, **asked: Any) -> tuple[str, str, list[dict[str, str]]]:
    """(told while it was written, told at its end, calls) of a text that comes in pieces of `size` characters."""
    teller = Teller({"tools": TOOLS, "tool_choice": "auto", **asked})
    early = "".join(teller.take(text[at : at + size]) for at in range(0, len(text), size))
    return early, *teller.end()


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>',
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Rome\\"}"}',
        ' {"name": "weather", "parameters": {"city": "Rome"}}',
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}}]',
    ],
)
def test_a_call_in_any_of_the_known_ways_is_read_and_nothing_of_it_told(text: str, size: int) -> None:
    assert told(text, size) == ("", "", [ROME])


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "It is warm.",
        "1 < 2 and <tool or not",
        '{"name": "unknown", "arguments": {}}',
        '{"city": "Rome"}',
        "[1, 2",
        '<tool_call>{"name": "weather", "argu',
        "[TOOL",
    ],
)
def test_what_is_no_call_is_told_whole(text: str, size: int) -> None:
    early, late, calls = told(text, size)
    assert (early + late, calls) == (text, [])


@pytest.mark.parametrize("size", [1, 1000])
def test_what_is_said_before_calls_is_told_and_several_are_one_where_they_must(size: int) -> None:
    call = "<tool_call>" + json.dumps({"name": "weather", "arguments": {"city": "Rome"}}) + "</tool_call>"
    early, late, calls = told(f"Let me see. {call}\n{call}", size)
    assert (early + late, calls) == ("Let me see. ", [ROME, ROME])
    assert told(call + call, size, parallel=False)[2] == [ROME]
    assert told(call, size, tool_choice="none") == (call, "", [])
    assert told('{"city": 1}', 1, schema=CITY) == ('{"city": 1}', "", [])


def test_a_forced_call_is_one_of_the_tools_and_told_to_models_that_know_none() -> None:
    assert forced({"tools": TOOLS, "tool_choice": "=time"}) == TOOLS[1:]
    assert forced({"tools": TOOLS, "tool_choice": "required"}) == TOOLS
    assert forced({"tools": TOOLS, "tool_choice": "auto"}) == []
    both = call_schema(TOOLS)["anyOf"]
    assert [one["properties"]["name"]["const"] for one in both] == ["weather", "time"]
    asked = [
        {"role": "system", "content": "Be kind."},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "time", "arguments": {}}}]},
        {"role": "tool", "content": "noon", "tool_call_id": "1"},
    ]
    first, called, result = described(asked, TOOLS)
    assert first["content"].startswith("Be kind.\n\nYou may call")
    assert '"weather"' in first["content"]
    assert called == {
        "role": "assistant",
        "content": '<tool_call>{"name": "time", "arguments": {}}</tool_call>',
    }
    assert result == {"role": "user", "content": "<tool_response>noon</tool_response>"}
    assert [one["role"] for one in described([{"role": "user", "content": "x"}], TOOLS)] == ["system", "user"]
