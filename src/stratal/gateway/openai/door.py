"""The door's addresses."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from stratal.ai.endpoints.scoring import Inputs
from stratal.ai.endpoints.serving import Served, Serving
from stratal.ai.endpoints.tensors import nested
from stratal.gateway.bodies import beside
from stratal.gateway.credentials import Authenticator
from stratal.gateway.door import principal
from stratal.gateway.gone import unless_gone
from stratal.gateway.openai import errors, tools, wire
from stratal.gateway.openai.audio import Audio, hears, speaks
from stratal.gateway.openai.batches import Batches
from stratal.gateway.openai.files import Files
from stratal.gateway.openai.finetuning import FineTuning
from stratal.gateway.openai.images import Images, draws
from stratal.gateway.openai.moderations import Moderations, classes_of
from stratal.gateway.openai.responses import Responses
from stratal.identity.model import Principal
from stratal.kernel.clock import Clock
from stratal.kernel.errors import Invalid, NotFound, StratalError, Unsupported

_ROOT = b"/v1/"
_UNOFFERED = (
    *("audio", "fine_tuning", "assistants"),
    *("threads", "vector_stores", "uploads", "realtime", "evals", "conversations", "containers"),
)


class OpenAIDoor:
    name = "openai"

    def __init__(
        self,
        authenticate: Authenticator,
        serving: Serving,
        files: Files,
        batches: Batches,
        tuning: FineTuning,
        clock: Clock,
    ) -> None:
        self._tuning = tuning
        self._authenticate = authenticate
        self._serving = serving
        self._clock = clock
        self._files = files
        self._batches = batches
        self._responses = Responses(serving, clock)
        self._audio = Audio(serving)
        self._images = Images(serving, clock)
        self._moderations = Moderations(serving)

    def matches(self, scope: Scope) -> bool:
        return bool(scope["raw_path"].startswith(_ROOT))

    async def authenticate(self, request: Request) -> Principal | None:
        return await self._authenticate(request)

    def error(self, error: StratalError, scope: Scope) -> Response:
        return errors.answer(error, empty=scope["method"] == "HEAD")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        who = principal(request.scope)
        match request.method, _segments(request.scope["raw_path"]):
            case "GET", ["models"]:
                served = [one for one in self._serving.served(who, who.project_id) if _does(one)]
                return _json({"object": "list", "data": [_model(one, who) for one in served]})
            case "GET", ["models", name]:
                return _json(_model(self._serving.describe(who, who.project_id, name), who))
            case "POST", ["embeddings"]:
                return await self._embeddings(who, request)
            case "POST", ["chat", "completions"]:
                return await self._completion(who, request, chat=True)
            case "POST", ["completions"]:
                return await self._completion(who, request, chat=False)
            case "POST", ["audio", "transcriptions"]:
                return await self._audio.transcribe(who, request)
            case "POST", ["audio", "translations"]:
                return await self._audio.translate(who, request)
            case "POST", ["audio", "speech"]:
                return await self._audio.say(who, request)
            case "POST", ["moderations"]:
                return await self._moderations.classify(who, request)
            case "POST", ["responses"]:
                return await self._responses.create(who, request)
            case "POST", ["images", "generations"]:
                return await self._images.draw(who, request)
            case "POST", ["images", ("edits" | "variations") as what]:
                raise Unsupported(
                    f"/v1/images/{what} is not offered here: pictures are drawn from words alone.",
                    hint="See docs/openai.md for what is.",
                )
            case method, ["files", *rest]:
                return await self._of_files(who, request, method, rest)
            case method, ["batches", *rest]:
                return await self._of_batches(who, request, method, rest)
            case method, ["fine_tuning", "jobs", *rest]:
                return await self._of_tuning(who, request, method, rest)
            case _, [first, *_] if first in _UNOFFERED:
                raise Unsupported(
                    f"/v1/{first} is not offered here.",
                    hint="See docs/openai.md for what is.",
                )
        raise _nothing(request)

    async def _of_files(self, who: Principal, request: Request, method: str, rest: list[str]) -> Response:
        match method, rest:
            case "POST", []:
                return await self._files.create(who, request)
            case "GET", []:
                return await self._files.list(who, request)
            case "GET", [file_id]:
                return await self._files.retrieve(who, file_id)
            case "GET", [file_id, "content"]:
                return await self._files.content(who, file_id)
            case "DELETE", [file_id]:
                return await self._files.delete(who, file_id)
        raise _nothing(request)

    async def _of_tuning(self, who: Principal, request: Request, method: str, rest: list[str]) -> Response:
        match method, rest:
            case "POST", []:
                return await self._tuning.create(who, request)
            case "GET", []:
                return await self._tuning.list(who)
            case "GET", [job_id]:
                return await self._tuning.retrieve(who, job_id)
            case "GET", [job_id, "events"]:
                return await self._tuning.events(who, job_id)
            case "POST", [job_id, "cancel"]:
                return await self._tuning.cancel(who, job_id)
        raise _nothing(request)

    async def _of_batches(self, who: Principal, request: Request, method: str, rest: list[str]) -> Response:
        match method, rest:
            case "POST", []:
                return await self._batches.create(who, request)
            case "GET", []:
                return await self._batches.list(who, request)
            case "GET", [batch_id]:
                return await self._batches.retrieve(who, batch_id)
            case "POST", [batch_id, "cancel"]:
                return await self._batches.cancel(who, batch_id)
        raise _nothing(request)

    # -- embeddings ----------------------------------------------------------------------------

    async def _embeddings(self, who: Principal, request: Request) -> Response:
        body = await wire.json_object(request)
        name = wire.model_name(body)
        served = self._serving.describe(who, who.project_id, name)
        width = _width(served)
        if width is None:
            raise wire.bad(f"The model of endpoint {name!r} makes no embeddings.", "model")
        if body.get("dimensions") not in (None, width):
            raise wire.bad(f"The model's embeddings have {width} numbers; they are not cut.", "dimensions")
        form = body.get("encoding_format", "float")
        if form not in ("float", "base64"):
            raise wire.bad("encoding_format must be float or base64.", "encoding_format")
        tensor = wire.texts_tensor("text", wire.text_inputs(body))
        answer = await self._serving.infer(
            who,
            who.project_id,
            name,
            Inputs([tensor]),
            ["embedding", "tokens"],
            request_id=request.scope["state"]["request_id"],
        )
        by_name = {output.name: output for output in answer.outputs}
        vectors, tokens = by_name["embedding"], nested(by_name["tokens"])
        content = await beside(
            len(vectors.data), wire.embeddings, name, vectors, tokens, as_base64=form == "base64"
        )
        headers = {"X-Stratal-Prediction-Id": answer.prediction_id}
        return Response(content, 200, headers, "application/json")

    # -- text ----------------------------------------------------------------------------------

    async def _completion(self, who: Principal, request: Request, *, chat: bool) -> Response:
        body = await wire.json_object(request)
        name = wire.model_name(body)
        asked = wire.generation(body, chat=chat)
        request_id = request.scope["state"]["request_id"]
        pieces = self._serving.generate(who, who.project_id, name, asked, request_id=request_id)
        head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{request_id}",
            "object": "chat.completion" if chat else "text_completion",
            "created": self._clock() // 1000,
            "model": name,
        }
        if body.get("stream"):
            first = await unless_gone(
                request, anext(pieces)
            )  # what goes wrong before the first piece is told with its own status
            options = body.get("stream_options")
            counted = isinstance(options, dict) and options.get("include_usage") is True
            if chat:
                head["object"] = "chat.completion.chunk"
            stream = _stream(head, first, pieces, chat=chat, counted=counted, request_id=request_id)
            return StreamingResponse(stream, 200, {"Cache-Control": "no-store"}, "text/event-stream")
        texts, end = [], {}
        for piece in await unless_gone(request, wire.all_of(pieces)):
            if "finish" in piece:
                end = dict(piece)
            else:
                texts.append(piece["text"])
        calls = tools.told_calls(end.get("calls", ()), request_id)
        one = wire.choice(chat, "".join(texts), end.get("finish"), streamed=False, calls=calls)
        headers = {"X-Stratal-Prediction-Id": str(end.get("prediction_id", ""))}
        return _json({**head, "choices": [one], "usage": wire.usage(end)}, headers)


async def _stream(
    head: Mapping[str, Any],
    first: Mapping[str, Any],
    pieces: AsyncGenerator[Mapping[str, Any], None],
    *,
    chat: bool,
    counted: bool,
    request_id: str,
) -> AsyncGenerator[bytes, None]:
    """Server-sent events, one a piece. When the client goes, the generator is closed and the model stops."""
    piece: Mapping[str, Any] | None = first
    opening = True
    try:
        while piece is not None:
            if "finish" in piece:
                if calls := tools.told_calls(piece.get("calls", ()), request_id):
                    called = wire.choice(chat, None, None, streamed=True, first=opening, calls=calls)
                    yield _event({**head, "choices": [called]})
                end = wire.choice(chat, None, piece["finish"], streamed=True)
                yield _event({**head, "choices": [end]})
                if counted:
                    yield _event({**head, "choices": [], "usage": wire.usage(piece)})
            elif piece["text"] or opening:
                said = wire.choice(chat, piece["text"], None, streamed=True, first=opening)
                opening = False
                yield _event({**head, "choices": [said]})
            piece = await anext(pieces, None)
        yield b"data: [DONE]\n\n"
    except StratalError as error:
        yield _event(errors.body(error))
    finally:
        await pieces.aclose()


def _nothing(request: Request) -> NotFound:
    return NotFound(f"There is no {request.method} {request.url.path[:200]} here.", reason="no_such_route")


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _segments(raw_path: bytes) -> list[str]:
    try:
        return [unquote_to_bytes(part).decode() for part in raw_path[len(_ROOT) :].rstrip(b"/").split(b"/")]
    except UnicodeDecodeError as error:
        raise Invalid("The path is not UTF-8.", reason="bad_path") from error


def _width(served: Served) -> int | None:
    """How many numbers its embeddings have; None for a model that makes none."""
    for output in (served.interface or {}).get("outputs", []):
        if output.get("name") == "embedding" and len(output.get("shape", [])) == 2:
            return int(output["shape"][1])
    return None


def _does(served: Served) -> bool:
    generates = bool((served.interface or {}).get("generates"))
    answers = _width(served) is not None or hears(served) or speaks(served) or bool(classes_of(served))
    return generates or draws(served) or answers


def _model(served: Served, who: Principal) -> dict[str, Any]:
    return {"id": served.name, "object": "model", "created": 0, "owned_by": who.project}


def _json(value: Mapping[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), 200, headers, "application/json")
