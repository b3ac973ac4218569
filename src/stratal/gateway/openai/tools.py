"""Tools that a model may call, and the schema that its answer is to have: read, checked, and calls told back."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from stratal.gateway.openai.errors import bad

MAX_TOOLS = 128
MAX_SCHEMA = 64 << 10
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CHOICES = ("auto", "none", "required")


def asked_tools(body: Mapping[str, Any]) -> dict[str, Any]:
    """`tools`, `tool_choice` and `parallel` of a chat, {} where none are offered. Raises `Invalid`.

    `tool_choice` is ``auto``, ``none``, ``required``, or ``=NAME`` for one of them.
    """
    listed = body.get("tools")
    if not listed:
        if body.get("tool_choice") not in (None, "none", "auto"):
            raise bad("tool_choice needs tools.", "tool_choice")
        return {}
    if not isinstance(listed, list) or len(listed) > MAX_TOOLS:
        raise bad(f"tools must be a list of at most {MAX_TOOLS}.", "tools")
    told = [_tool(one) for one in listed]
    names = [one["function"]["name"] for one in told]
    if len(set(names)) != len(names):
        raise bad("Two tools have the same name.", "tools")
    parallel = body.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise bad("parallel_tool_calls is true or false.", "parallel_tool_calls")
    return {"tools": told, "tool_choice": _choice(body, names), "parallel": parallel is not False}


def _tool(one: Any) -> dict[str, Any]:
    said = one.get("function") if isinstance(one, dict) and one.get("type") == "function" else None
    if not isinstance(said, dict):
        raise bad("Only tools of the type function are called here.", "tools")
    name, about = said.get("name"), said.get("description")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise bad("A tool's name has 1 to 64 letters, digits, - and _.", "tools")
    parameters = said.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    _check_schema(parameters, f"The parameters of {name!r}", "tools")
    described = {
        "name": name,
        "description": about if isinstance(about, str) else "",
        "parameters": parameters,
    }
    return {"type": "function", "function": described}


def _choice(body: Mapping[str, Any], names: Sequence[str]) -> str:
    choice = body.get("tool_choice") or "auto"
    if choice in _CHOICES and isinstance(choice, str):
        return choice
    named = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = named.get("name") if isinstance(named, dict) else None
    if name not in names:
        raise bad("tool_choice is auto, none, required or one of the tools.", "tool_choice")
    return f"={name}"


def asked_schema(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema that the answer must have; None: any text. Raises `Invalid`."""
    form = body.get("response_format")
    if form is None:
        return None
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise bad("response_format is text, json_object or json_schema.", "response_format")
    named = form.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    _check_schema(schema, "The schema", "response_format")
    return dict(schema or {})


def _check_schema(schema: Any, what: str, param: str) -> None:
    if not isinstance(schema, dict):
        raise bad(f"{what} must be a JSON schema, an object.", param)
    try:
        size = len(orjson.dumps(schema))
    except orjson.JSONEncodeError:
        raise bad(f"{what} cannot be written as JSON.", param) from None
    if size > MAX_SCHEMA:
        raise bad(f"{what} may have {MAX_SCHEMA >> 10} KiB.", param)


def calls_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The calls in an assistant's message, their arguments as templates want them. Raises `Invalid`."""
    listed = message.get("tool_calls")
    if not listed:
        return []
    if not isinstance(listed, list) or len(listed) > MAX_TOOLS:
        raise bad("tool_calls must be a list.", "messages")
    found = []
    for one in listed:
        said = one.get("function") if isinstance(one, dict) else None
        if not isinstance(said, dict) or not isinstance(said.get("name"), str):
            raise bad("A tool's call names its function.", "messages")
        arguments = said.get("arguments") or "{}"
        try:
            read = orjson.loads(arguments) if isinstance(arguments, str) else arguments
        except orjson.JSONDecodeError:
            raise bad("A tool's call has arguments that are not JSON.", "messages") from None
        function = {"name": said["name"], "arguments": read}
        found.append({"id": str(one.get("id") or ""), "type": "function", "function": function})
    return found


def told_calls(calls: Sequence[Mapping[str, Any]], request_id: str) -> list[dict[str, Any]]:
    """What the model called, as clients read it: each with an id, its arguments as JSON text."""
    return [
        {
            "id": f"call_{request_id}_{number}",
            "type": "function",
            "function": {"name": str(one["name"]), "arguments": str(one["arguments"])},
        }
        for number, one in enumerate(calls)
    ]
