"""Sounds: speech written down (``audio/transcriptions``), and text spoken (``audio/speech``)."""

import base64
import binascii
import io
import wave
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from stratal.ai.endpoints.scoring import Inputs
from stratal.ai.endpoints.serving import Served, Serving
from stratal.ai.endpoints.tensors import Tensor, nested, pack
from stratal.gateway.bodies import read_body
from stratal.gateway.openai import wire
from stratal.identity.model import Principal
from stratal.kernel.errors import Internal, Invalid

MAX_SOUND = 25 << 20
_FORMATS = ("json", "text", "verbose_json")
_SPOKEN = {"wav": "audio/wav", "pcm": "audio/pcm"}
_PUBLIC_VOICES = frozenset(
    {
        "alloy",
        "ash",
        "ballad",
        "cedar",
        "coral",
        "echo",
        "fable",
        "marin",
        "nova",
        "onyx",
        "sage",
        "shimmer",
        "verse",
    }
)


class Audio:
    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def transcribe(self, who: Principal, request: Request) -> Response:
        """What was said, of a WAV file. No times are told: `verbose_json` has the whole as its text."""
        form = await read_form(request)
        name, sound = _asked(form)
        served = self._serving.describe(who, who.project_id, name)
        if not hears(served):
            raise wire.bad(f"The model of endpoint {name!r} does not listen to sounds.", "model")
        shape = str(form.get("response_format") or "json")
        if shape not in _FORMATS:
            raise wire.bad(
                f"response_format must be one of {', '.join(_FORMATS)}: no times are told.", "response_format"
            )
        if form.getlist("timestamp_granularities[]") or form.getlist("timestamp_granularities"):
            raise wire.bad("No times are told here.", "timestamp_granularities")
        if str(form.get("stream") or "").lower() in {"true", "1"}:
            raise wire.bad("A sound is answered in one piece: leave stream out.", "stream")
        takes = {port.get("name") for port in (served.interface or {}).get("beside") or []}
        language = str(form.get("language") or "")
        beside = {"language": language} if language and "language" in takes else {}
        text, prediction = await self._heard(who, request, name, sound, **beside)
        headers = {"X-Stratal-Prediction-Id": prediction}
        if shape == "text":
            return PlainTextResponse(text + "\n", headers=headers)
        seconds = _seconds(sound)
        if shape == "verbose_json":
            said = {"task": "transcribe", "language": str(form.get("language") or ""), "duration": seconds}
            return _json({**said, "text": text, "segments": []}, headers)
        return _json({"text": text, "usage": {"type": "duration", "seconds": seconds}}, headers)

    async def translate(self, who: Principal, request: Request) -> Response:
        """What was said, in English, by a model that translates speech; others write down the language that was spoken."""
        form = await read_form(request)
        name, sound = _asked(form)
        served = self._serving.describe(who, who.project_id, name)
        if not (served.interface or {}).get("translates"):
            raise wire.bad(
                f"The model of endpoint {name!r} does not translate speech; one of Whisper's kind does "
                "(stratal models deploy whisper-base, fetched from a hub).",
                "model",
            )
        shape = str(form.get("response_format") or "json")
        if shape not in ("json", "text"):
            raise wire.bad("response_format must be json or text: no times are told.", "response_format")
        text, prediction = await self._heard(who, request, name, sound, task="translate")
        headers = {"X-Stratal-Prediction-Id": prediction}
        return (
            PlainTextResponse(text + "\n", headers=headers)
            if shape == "text"
            else _json({"text": text}, headers)
        )

    async def _heard(
        self, who: Principal, request: Request, name: str, sound: bytes, **beside: str
    ) -> tuple[str, str]:
        tensors = [Tensor("audio", "BYTES", (1,), len(sound).to_bytes(4, "little") + sound)]
        tensors += [Tensor(key, "BYTES", (1,), pack("BYTES", [value])) for key, value in beside.items()]
        answer = await self._serving.infer(
            who, who.project_id, name, Inputs(tensors), ["text"],
            request_id=request.scope["state"]["request_id"],
        )  # fmt: skip
        return str(nested(answer.outputs[0])[0]), answer.prediction_id

    async def say(self, who: Principal, request: Request) -> Response:
        """Speech as a WAV file, or its bare samples (``pcm``). A public voice's name is the model's own voice here."""
        body = await wire.json_object(request, 1 << 20)
        name = wire.model_name(body)
        served = self._serving.describe(who, who.project_id, name)
        if not speaks(served):
            raise wire.bad(f"The model of endpoint {name!r} does not speak.", "model")
        text = body.get("input")
        if not isinstance(text, str) or not text.strip():
            raise wire.bad("input must be a text.", "input")
        shape = body.get("response_format") or "wav"
        if shape not in _SPOKEN:
            raise wire.bad(
                "Speech is given as wav or pcm; no encoder for others comes with the platform.",
                "response_format",
            )
        tensors = [Tensor("text", "BYTES", (1,), pack("BYTES", [text]))]
        takes = {port.get("name") for port in (served.interface or {}).get("beside") or []}
        voice = body.get("voice")
        if "voice" in takes and isinstance(voice, str) and voice not in _PUBLIC_VOICES:
            tensors.append(Tensor("voice", "BYTES", (1,), pack("BYTES", [voice])))
        speed = body.get("speed", 1.0)
        if not isinstance(speed, int | float) or isinstance(speed, bool):
            raise wire.bad("speed must be a number.", "speed")
        if "speed" in takes:
            tensors.append(Tensor("speed", "FP64", (1,), pack("FP64", [float(speed)])))
        answer = await self._serving.infer(
            who, who.project_id, name, Inputs(tensors), ["audio"],
            request_id=request.scope["state"]["request_id"],
        )  # fmt: skip
        try:
            sound = base64.b64decode(str(nested(answer.outputs[0])[0]), validate=True)
        except binascii.Error:
            raise Internal("What the model gave is no sound.", reason="model_failed") from None
        if shape == "pcm":
            sound = _samples(sound)
        headers = {"X-Stratal-Prediction-Id": answer.prediction_id}
        return Response(sound, 200, headers, _SPOKEN[shape])


def hears(served: Served) -> bool:
    return _has(served, "inputs", "audio") and _has(served, "outputs", "text")


def speaks(served: Served) -> bool:
    return _has(served, "inputs", "text") and _has(served, "outputs", "audio")


def _has(served: Served, side: str, name: str) -> bool:
    return any(port.get("name") == name for port in (served.interface or {}).get(side) or [])


async def read_form(request: Request, limit: int = MAX_SOUND) -> FormData:
    """A multipart form of at most `limit` bytes. Raises `Invalid`, `TooLarge`."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Invalid("The request is not a multipart form.", reason="bad_form")
    body = await read_body(request.scope, request.receive, limit + (1 << 16))
    return await parse_form(request.headers, body)


async def parse_form(headers: Headers, body: bytes) -> FormData:
    async def once() -> AsyncIterator[bytes]:
        yield body

    try:
        parser = MultiPartParser(headers, once(), max_files=4, max_fields=64, max_part_size=1 << 20)  # type: ignore[arg-type]
        return await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Invalid(f"The form cannot be read: {error}.", reason="bad_form") from None


def _asked(form: FormData) -> tuple[str, bytes]:
    name, file = form.get("model"), form.get("file")
    if not isinstance(name, str) or not name:
        raise wire.bad("model must name an endpoint of the project.", "model")
    if not isinstance(file, UploadFile):
        raise wire.bad("file must be a sound, a WAV file.", "file")
    sound = file.file.read()
    if sound[:4] != b"RIFF" or sound[8:12] != b"WAVE":
        raise wire.bad("The sound must be a WAV file, 16-bit PCM: convert it, for example by ffmpeg.", "file")
    return name, sound


def _seconds(sound: bytes) -> float:
    try:
        with wave.open(io.BytesIO(sound)) as file:
            return float(round(file.getnframes() / file.getframerate(), 3))
    except (wave.Error, EOFError, ZeroDivisionError):
        return 0.0


def _samples(sound: bytes) -> bytes:
    with wave.open(io.BytesIO(sound)) as file:
        return bytes(file.readframes(file.getnframes()))


def _json(value: Mapping[str, Any], headers: dict[str, str]) -> Response:
    return Response(orjson.dumps(value), 200, headers, "application/json")
