"""``/api/v1/projects/{project}/endpoints/{name}/chat`` and ``/pictures``: what a model makes piece by piece, told as it is
made."""

import secrets
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse
from starlette.types import Scope

from stratal.ai.endpoints.serving import Makes, Serving
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


class PicturesBody(Strict):
    """What the model has of its own stands for what is absent."""

    prompt: str = Field(min_length=1, max_length=32_000)
    count: int = Field(1, ge=1, le=10)
    negative: str = Field("", max_length=32_000, description="What the picture is not to show.")
    width: int | None = Field(None, ge=1, le=1 << 14, description="In pixels; both sides or neither.")
    height: int | None = Field(None, ge=1, le=1 << 14)
    steps: int | None = Field(None, ge=1, le=200)
    guidance: float | None = Field(None, ge=0, le=100, description="How closely to follow the words.")
    seed: int | None = Field(
        None, ge=0, le=(1 << 63) - 1, description="Each further picture has the one that follows."
    )


def router(serving: Serving, projects: Projects) -> APIRouter:
    """The routes of chats and pictures."""
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
        return await _streamed(request, pieces)

    @api.post("/projects/{project}/endpoints/{name}/pictures", openapi_extra=body_of(PicturesBody))
    async def pictures(request: Request, who: Who, project: str, name: str) -> Response:
        """Server-sent events: ``{"picture", "step"}`` after each step, at last ``{"finish", "images", "seed",
        "prediction_id"}`` with PNG files in base64, or ``{"error"}``. Closing the connection stops the model."""
        place = await projects.get(who, project)
        body = await read_model(request, PicturesBody, _MAX_BODY)
        asked = body.model_dump(exclude_none=True)
        asked.setdefault("seed", secrets.randbelow(1 << 32))
        request_id = request.scope["state"]["request_id"]
        pieces = serving.generate(who, place.id, name, asked, request_id=request_id, makes=Makes.PICTURES)
        return await _streamed(request, pieces)

    return api


async def _streamed(request: Request, pieces: AsyncGenerator[Mapping[str, Any], None]) -> Response:
    """What goes wrong before the first piece is told with its own status."""
    first = await unless_gone(request, anext(pieces))
    told = _told(first, pieces, request.scope)
    return StreamingResponse(told, 200, {"Cache-Control": "no-store"}, "text/event-stream")


async def _told(
    first: Mapping[str, Any], pieces: AsyncGenerator[Mapping[str, Any], None], scope: Scope
) -> AsyncGenerator[bytes, None]:
    piece: Mapping[str, Any] | None = first
    try:
        while piece is not None:
            if piece.get("text") != "":
                yield b"data: " + orjson.dumps(piece) + b"\n\n"
            piece = await anext(pieces, None)
    except StratalError as error:
        yield b"data: " + orjson.dumps(error_body(error, scope)) + b"\n\n"
    finally:
        await pieces.aclose()
