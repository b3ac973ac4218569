"""Tools as a language model sees them and calls them: told in its prompt, and read from what it wrote.

Models call in one of a few ways that their chat templates teach: JSON between ``<tool_call>`` and its end, or JSON alone,
with ``name`` and ``arguments`` (or ``parameters``). What is said here is the first, which models that know none follow best.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OPENING, CLOSING = "<tool_call>", "</tool_call>"
_BARE = ("{", "[", "[TOOL_CALLS]")


def offered(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The tools that may be called."""
    return list(asked.get("tools") or ()) if asked.get("tool_choice") != "none" else []


def forced(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The tools of which one must be called; none where the model may just as well write."""
    choice = str(asked.get("tool_choice") or "")
    tools = offered(asked)
    if choice.startswith("="):
        return [one for one in tools if one["function"]["name"] == choice[1:]]
    return tools if choice == "required" else []


def call_schema(tools: list[dict[str, Any]]) -> dict[str, Any]:
    """The JSON schema of a call of one of the tools."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": one["function"]["name"]},
                "arguments": one["function"]["parameters"],
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for one in tools
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def described(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages for a model whose chat template knows no tools: they are told, and their results, in plain words."""
    plain = []
    for message in messages:
        text = str(message.get("content") or "")
        for one in message.get("tool_calls") or ():
            said = json.dumps(
                {"name": one["function"]["name"], "arguments": one["function"]["arguments"]},
                ensure_ascii=False,
            )
            text += f"\n{OPENING}{said}{CLOSING}"
        if message["role"] == "tool":
            plain.append({"role": "user", "content": f"<tool_response>{text}</tool_response>"})
        else:
            plain.append({"role": message["role"], "content": text.strip()})
    if not tools:
        return plain
    listed = "\n".join(json.dumps(one["function"], ensure_ascii=False) for one in tools)
    rule = (
        f"You may call these functions:\n{listed}\n"
        f'To call one, write {OPENING}{{"name": …, "arguments": {{…}}}}{CLOSING} and nothing else.'
    )
    if plain and plain[0]["role"] == "system":
        first = {"role": "system", "content": f"{plain[0]['content']}\n\n{rule}"}
        return [first, *plain[1:]]
    return [{"role": "system", "content": rule}, *plain]


class Teller:
    """What of a text is told as it comes: nothing that is a call, or may still become one."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._tools = offered(asked)
        self._forced = bool(forced(asked))
        self._silent = asked.get("schema") is not None and not self._forced
        self._parallel = bool(asked.get("parallel", True))
        self._text = ""
        self._told = 0

    def take(self, piece: str) -> str:
        """What can be told now that `piece` was written."""
        self._text += piece
        if self._forced or (self._tools and not self._silent and _may_be_call(self._text)):
            return ""
        return self._rest(len(self._text))

    def end(self) -> tuple[str, list[dict[str, str]]]:
        """What is still to be told, and the calls."""
        if self._tools and not self._silent:
            before, calls = split(self._text, self._tools)
            if calls:
                return self._rest(len(before)), calls if self._parallel else calls[:1]
        return self._rest(len(self._text)), []

    def _rest(self, end: int) -> str:
        piece, self._told = self._text[self._told : end], max(self._told, end)
        return piece


def _may_be_call(text: str) -> bool:
    """May the text, or its end, be the beginning of a call?"""
    bare = text.lstrip()
    if bare.startswith(_BARE[:2]) or _BARE[2].startswith(bare):  # space alone, too
        return True
    return OPENING in text or any(text.endswith(OPENING[:size]) for size in range(1, len(OPENING)))


def split(text: str, tools: list[dict[str, Any]]) -> tuple[str, list[dict[str, str]]]:
    """(what stands before them, the calls) of a whole text; what is no call of one of the tools is text."""
    names = {one["function"]["name"] for one in tools}
    if OPENING in text:
        before, *parts = text.split(OPENING)
        calls = [call for part in parts for call in _read(part.partition(CLOSING)[0], names)]
        return (before, calls) if calls else (text, [])
    bare = text.strip().removeprefix(_BARE[2]).strip()
    calls = _read(bare, names) if bare.startswith(_BARE[:2]) else []
    return ("", calls) if calls else (text, [])


def _read(text: str, names: set[str]) -> list[dict[str, str]]:
    try:
        told = json.loads(text)
    except ValueError:
        return []
    found = []
    for one in told if isinstance(told, list) else [told]:
        if not isinstance(one, dict) or one.get("name") not in names:
            return []
        arguments = one.get("arguments", one.get("parameters", {}))
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                return []
        found.append({"name": str(one["name"]), "arguments": json.dumps(arguments, ensure_ascii=False)})
    return found
