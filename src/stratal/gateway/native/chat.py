"""``/api/v1/projects/{project}/endpoints/{name}/chat``: talk to a language model, its answer told as it is written."""

from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse
from starlette.types import Scope

from stratal.ai.endpoints.serving import Serving
from stratal.gateway.chain import error_body
from stratal.gateway.gone import unless_gone
from stratal.gateway.native.bodies import Strict, body_of, read_model
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.errors import StratalError

Who = Annotated[Principal, Depends(caller)]
_MAX_BODY = 4 << 20


class Message(Strict):
    role: Literal["system", "user", "assistant"]
    content: str


class ChatBody(Strict):
    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1, le=1 << 20, description="Absent: 256.")
    temperature: float = Field(1.0, ge=0, le=2)


def router(serving: Serving, projects: Projects) -> APIRouter:
    """The route of chats."""
    api = APIRouter(tags=["endpoints"])

    @api.post("/projects/{project}/endpoints/{name}/chat", openapi_extra=body_of(ChatBody))
    async def chat(request: Request, who: Who, project: str, name: str) -> Response:
        """Server-sent events: ``{"text"}`` for each piece, at last ``{"finish", "prompt_tokens", "completion_tokens",
        "prediction_id"}``, or ``{"error"}``. Closing the connection stops the model."""
        place = await projects.get(who, project)
        body = await read_model(request, ChatBody, _MAX_BODY)
        asked = {
            "messages": [message.model_dump() for message in body.messages],
            "max_tokens": body.max_tokens,
            "temperature": body.temperature,
            "top_p": 1.0,
            "seed": None,
            "stop": [],
        }
        request_id = request.scope["state"]["request_id"]
        pieces = serving.generate(who, place.id, name, asked, request_id=request_id)
        first = await unless_gone(
            request, anext(pieces)
        )  # what goes wrong before the first piece is told with its own status
        told = _told(first, pieces, request.scope)
        return StreamingResponse(told, 200, {"Cache-Control": "no-store"}, "text/event-stream")

    return api


async def _told(
    first: Mapping[str, Any], pieces: AsyncGenerator[Mapping[str, Any], None], scope: Scope
) -> AsyncGenerator[bytes, None]:
    piece: Mapping[str, Any] | None = first
    try:
        while piece is not None:
            if "finish" in piece or piece["text"]:
                yield b"data: " + orjson.dumps(piece) + b"\n\n"
            piece = await anext(pieces, None)
    except StratalError as error:
        yield b"data: " + orjson.dumps(error_body(error, scope)) + b"\n\n"
    finally:
        await pieces.aclose()
