"""``responses``: OpenAI's newer way to ask a language model. Nothing is kept between two requests."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from stratal.ai.endpoints.serving import Serving
from stratal.gateway.gone import unless_gone
from stratal.gateway.openai import errors, tools, wire
from stratal.identity.model import Principal
from stratal.kernel.clock import Clock
from stratal.kernel.errors import StratalError

_UNOFFERED = ("previous_response_id", "conversation", "background", "prompt")


class Responses:
    def __init__(self, serving: Serving, clock: Clock) -> None:
        self._serving = serving
        self._clock = clock

    async def create(self, who: Principal, request: Request) -> Response:
        body = await wire.json_object(request)
        name = wire.model_name(body)
        asked = wire.generation(_as_chat(body), chat=True)
        request_id = request.scope["state"]["request_id"]
        pieces = self._serving.generate(who, who.project_id, name, asked, request_id=request_id)
        answer = _Answer(body, name, f"resp_{request_id}", self._clock() // 1000)
        if body.get("stream"):
            first = await unless_gone(
                request, anext(pieces)
            )  # what goes wrong before the first piece is told with its own status
            return StreamingResponse(
                _stream(answer, first, pieces), 200, {"Cache-Control": "no-store"}, "text/event-stream"
            )
        for piece in await unless_gone(request, wire.all_of(pieces)):
            answer.take(piece)
        headers = {"X-Stratal-Prediction-Id": str(answer.end.get("prediction_id", ""))}
        return Response(orjson.dumps(answer.whole()), 200, headers, "application/json")


class _Answer:
    def __init__(self, body: Mapping[str, Any], name: str, response_id: str, now: int) -> None:
        self._head = {
            "id": response_id,
            "object": "response",
            "created_at": now,
            "model": name,
            "error": None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "metadata": body.get("metadata") or {},
            "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.get("temperature", 1.0),
            "text": body.get("text") or {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": body.get("tools") or [],
            "top_p": body.get("top_p", 1.0),
        }
        self.item_id = f"msg_{response_id.removeprefix('resp_')}"
        self.texts: list[str] = []
        self.end: dict[str, Any] = {}

    def take(self, piece: Mapping[str, Any]) -> None:
        if "finish" in piece:
            self.end = dict(piece)
        elif piece["text"]:
            self.texts.append(str(piece["text"]))

    def part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": "".join(self.texts), "annotations": [], "logprobs": []}

    def item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.item_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def begun(self) -> dict[str, Any]:
        return {
            **self._head,
            "status": "in_progress",
            "incomplete_details": None,
            "output": [],
            "usage": None,
        }

    def calls(self) -> list[dict[str, Any]]:
        """What the model called, each an item of the answer."""
        made = tools.told_calls(self.end.get("calls", ()), self.item_id.removeprefix("msg_"))
        return [
            {
                "id": "fc_" + one["id"].removeprefix("call_"),
                "type": "function_call",
                "status": "completed",
                "call_id": one["id"],
                **one["function"],
            }
            for one in made
        ]

    def output(self, status: str) -> list[dict[str, Any]]:
        """The items: the message, unless there is nothing but calls, and the calls."""
        calls = self.calls()
        return [*([self.item(status, [self.part()])] if self.texts or not calls else []), *calls]

    def whole(self) -> dict[str, Any]:
        cut = self.end.get("finish") == "length"
        status = "incomplete" if cut else "completed"
        used = wire.usage(self.end)
        return {
            **self._head,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self.output(status),
            "usage": {
                "input_tokens": used["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": used["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": used["total_tokens"],
            },
        }


def _as_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same as chat/completions asks it. Raises `Invalid` for what is not offered."""
    for unoffered in _UNOFFERED:
        if body.get(unoffered):
            raise wire.bad(f"{unoffered} is not offered here.", unoffered)
    given = body.get("input")
    messages: list[Any] = []
    if isinstance(body.get("instructions"), str) and body["instructions"]:
        messages.append({"role": "system", "content": body["instructions"]})
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
    elif isinstance(given, list) and all(isinstance(one, dict) for one in given):
        messages += [message for one in given if (message := _message(one)) is not None]
    else:
        raise wire.bad("input must be a text or a list of messages.", "input")
    asked: dict[str, Any] = {
        "messages": messages,
        "max_completion_tokens": body.get("max_output_tokens"),
        "temperature": body.get("temperature"),
        "top_p": body.get("top_p"),
        "parallel_tool_calls": body.get("parallel_tool_calls"),
    }
    form = (body.get("text") or {}).get("format") if isinstance(body.get("text"), dict) else None
    if isinstance(form, dict) and form.get("type", "text") != "text":
        asked["response_format"] = {**form, "json_schema": form}
    listed = body.get("tools")
    if listed:
        if not isinstance(listed, list):
            raise wire.bad("tools must be a list.", "tools")
        asked["tools"] = [{**one, "function": one} if isinstance(one, dict) else one for one in listed]
        choice = body.get("tool_choice")
        asked["tool_choice"] = {**choice, "function": choice} if isinstance(choice, dict) else choice
    return asked


def _message(one: Mapping[str, Any]) -> dict[str, Any] | None:
    """An item of the input as a chat's message; None for what a model thought, which is not given back to it."""
    match one.get("type", "message"):
        case "message":
            return {"role": one.get("role"), "content": one.get("content")}
        case "function_call":
            call = {
                "id": one.get("call_id"),
                "function": {"name": one.get("name"), "arguments": one.get("arguments")},
            }
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        case "function_call_output":
            return {"role": "tool", "tool_call_id": one.get("call_id"), "content": one.get("output")}
        case "reasoning":
            return None
    raise wire.bad("input holds messages of text, calls of functions and their results only here.", "input")


async def _stream(
    answer: _Answer, first: Mapping[str, Any], pieces: AsyncGenerator[Mapping[str, Any], None]
) -> AsyncGenerator[bytes, None]:
    """Numbered events. When the client goes, the generator is closed and the model stops."""
    number = -1

    def event(kind: str, **values: Any) -> bytes:
        nonlocal number
        number += 1
        data = orjson.dumps({"type": kind, "sequence_number": number, **values})
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"

    at = {"item_id": answer.item_id, "output_index": 0, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    speaks = False

    def begun() -> list[bytes]:
        return [
            event("response.output_item.added", output_index=0, item=answer.item("in_progress", [])),
            event("response.content_part.added", **at, part=empty),
        ]

    try:
        yield event("response.created", response=answer.begun())
        yield event("response.in_progress", response=answer.begun())
        piece: Mapping[str, Any] | None = first
        while piece is not None:
            answer.take(piece)
            if "finish" not in piece and piece["text"]:
                if not speaks:
                    speaks = True
                    for one in begun():
                        yield one
                yield event("response.output_text.delta", **at, delta=piece["text"], logprobs=[])
            piece = await anext(pieces, None)
        whole = answer.whole()
        items = whole["output"]
        if items[0]["type"] == "message":
            for one in [] if speaks else begun():
                yield one
            yield event("response.output_text.done", **at, text="".join(answer.texts), logprobs=[])
            yield event("response.content_part.done", **at, part=answer.part())
            yield event("response.output_item.done", output_index=0, item=items[0])
        for place, item in enumerate(items):
            if item["type"] != "function_call":
                continue
            where = {"item_id": item["id"], "output_index": place}
            opened = {**item, "status": "in_progress", "arguments": ""}
            yield event("response.output_item.added", output_index=place, item=opened)
            yield event("response.function_call_arguments.delta", **where, delta=item["arguments"])
            yield event(
                "response.function_call_arguments.done",
                **where,
                name=item["name"],
                arguments=item["arguments"],
            )
            yield event("response.output_item.done", output_index=place, item=item)
        yield event(f"response.{whole['status']}", response=whole)
    except StratalError as error:
        said = errors.body(error)["error"]
        assert isinstance(said, dict)
        yield event("error", code=said["code"], message=said["message"], param=said["param"])
    finally:
        await pieces.aclose()
