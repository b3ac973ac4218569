"""``responses``: OpenAI's newer way to ask a language model. Nothing is kept between two requests."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from stratal.ai.endpoints.serving import Serving
from stratal.gateway.openai import errors, wire
from stratal.identity.model import Principal
from stratal.kernel.clock import Clock
from stratal.kernel.errors import StratalError

_UNOFFERED = ("previous_response_id", "conversation", "background", "tools", "reasoning", "prompt", "include")


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
            first = await anext(pieces)  # what goes wrong before the first piece is told with its own status
            return StreamingResponse(
                _stream(answer, first, pieces), 200, {"Cache-Control": "no-store"}, "text/event-stream"
            )
        async for piece in pieces:
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
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.get("temperature", 1.0),
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": body.get("top_p", 1.0),
        }
        self.item_id = f"msg_{response_id.removeprefix('resp_')}"
        self.texts: list[str] = []
        self.end: dict[str, Any] = {}

    def take(self, piece: Mapping[str, Any]) -> None:
        if "finish" in piece:
            self.end = dict(piece)
        else:
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

    def whole(self) -> dict[str, Any]:
        cut = self.end.get("finish") == "length"
        status = "incomplete" if cut else "completed"
        used = wire.usage(self.end)
        return {
            **self._head,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self.item(status, [self.part()])],
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
    form = (body.get("text") or {}).get("format") if isinstance(body.get("text"), dict) else None
    if isinstance(form, dict) and form.get("type", "text") != "text":
        raise wire.bad("text.format is not offered here: answers are plain text.", "text")
    given = body.get("input")
    messages: list[Any] = []
    if isinstance(body.get("instructions"), str) and body["instructions"]:
        messages.append({"role": "system", "content": body["instructions"]})
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
    elif isinstance(given, list) and all(isinstance(one, dict) for one in given):
        if any(one.get("type", "message") != "message" for one in given):
            raise wire.bad("input holds messages of text only here.", "input")
        messages += [{"role": one.get("role"), "content": one.get("content")} for one in given]
    else:
        raise wire.bad("input must be a text or a list of messages.", "input")
    return {
        "messages": messages,
        "max_completion_tokens": body.get("max_output_tokens"),
        "temperature": body.get("temperature"),
        "top_p": body.get("top_p"),
    }


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
    try:
        yield event("response.created", response=answer.begun())
        yield event("response.in_progress", response=answer.begun())
        yield event("response.output_item.added", output_index=0, item=answer.item("in_progress", []))
        yield event("response.content_part.added", **at, part=empty)
        piece: Mapping[str, Any] | None = first
        while piece is not None:
            answer.take(piece)
            if "finish" not in piece and piece["text"]:
                yield event("response.output_text.delta", **at, delta=piece["text"], logprobs=[])
            piece = await anext(pieces, None)
        whole = answer.whole()
        yield event("response.output_text.done", **at, text="".join(answer.texts), logprobs=[])
        yield event("response.content_part.done", **at, part=answer.part())
        yield event("response.output_item.done", output_index=0, item=whole["output"][0])
        yield event(f"response.{whole['status']}", response=whole)
    except StratalError as error:
        said = errors.body(error)["error"]
        assert isinstance(said, dict)
        yield event("error", code=said["code"], message=said["message"], param=said["param"])
    finally:
        await pieces.aclose()
