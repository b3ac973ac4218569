"""Pictures drawn from words (``images/generations``). When the client hangs up, the model stops at its next step."""

import re
import secrets
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from stratal.ai.endpoints.serving import Makes, Served, Serving
from stratal.gateway.gone import unless_gone
from stratal.gateway.openai import wire
from stratal.identity.model import Principal
from stratal.kernel.clock import Clock
from stratal.kernel.errors import Invalid

DEFAULT = "image"
"""The endpoint that is asked when a client names none, or one of the public models."""
_PUBLIC = ("dall-e", "gpt-image", "chatgpt-image")
_MOST = 10
_LONGEST = 32_000
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})\Z", re.ASCII)


class Images:
    def __init__(self, serving: Serving, clock: Clock) -> None:
        self._serving = serving
        self._clock = clock

    async def draw(self, who: Principal, request: Request) -> Response:
        """PNG files in base64. One picture more has the seed that follows, whatever is drawn with it."""
        body = await wire.json_object(request, 1 << 20)
        name = body.get("model") or DEFAULT
        if not isinstance(name, str):
            raise wire.bad("model must name an endpoint of the project.", "model")
        served = [one for one in self._serving.served(who, who.project_id) if draws(one)]
        if name.startswith(_PUBLIC) and name not in {one.name for one in served}:
            name = DEFAULT
        if not served:
            raise Invalid(
                f"The model {name[:100]!r} draws no pictures: no endpoint of this project does.",
                hint="Deploy a pipeline of diffusers (stratal models deploy draw, or one of a hub: docs/openai.md).",
                reason="needs_model",
                param="model",
            )
        if not draws(self._serving.describe(who, who.project_id, name)):
            raise wire.bad(
                f"The model of endpoint {name!r} draws no pictures; {served[0].name!r} does.", "model"
            )
        asked = drawing(body)
        pieces = self._serving.generate(
            who,
            who.project_id,
            name,
            asked,
            request_id=request.scope["state"]["request_id"],
            makes=Makes.PICTURES,
        )
        end = (await unless_gone(request, wire.all_of(pieces)))[-1]
        told = {
            "created": self._clock() // 1000,
            "data": [{"b64_json": image} for image in end.get("images", ())],
            "output_format": "png",
            "seed": end.get("seed"),
        }
        headers = {"X-Stratal-Prediction-Id": str(end.get("prediction_id", ""))}
        return Response(orjson.dumps(told), 200, headers, "application/json")


def draws(served: Served) -> bool:
    return bool((served.interface or {}).get(Makes.PICTURES))


def drawing(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a model that draws is asked. Raises `Invalid`, for what is not known here too."""
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > _LONGEST:
        raise wire.bad(f"prompt must be a text of 1 to {_LONGEST} characters.", "prompt")
    if body.get("response_format") not in (None, "b64_json"):
        raise wire.bad(
            "Pictures are given in the answer: response_format must be b64_json.", "response_format"
        )
    if body.get("output_format") not in (None, "png"):
        raise wire.bad("Pictures are PNG files: output_format must be png.", "output_format")
    if body.get("background") not in (None, "auto", "opaque"):
        raise wire.bad("Pictures have no transparent background here.", "background")
    if body.get("stream") or body.get("partial_images"):
        raise wire.bad("Pictures come when they are done: leave stream and partial_images out.", "stream")
    asked: dict[str, Any] = {"prompt": prompt, "count": int(_number(body, "n", 1, 1, _MOST, whole=True))}
    asked["seed"] = int(_number(body, "seed", secrets.randbelow(1 << 32), 0, (1 << 63) - 1, whole=True))
    size = body.get("size")
    if size not in (None, "auto"):
        sides = _SIZE.match(size) if isinstance(size, str) else None
        if sides is None:
            raise wire.bad("size must be like 512x512, or auto.", "size")
        asked |= {"width": int(sides[1]), "height": int(sides[2])}
    if body.get("steps") is not None:
        asked["steps"] = int(_number(body, "steps", 1, 1, 200, whole=True))
    if body.get("guidance") is not None:
        asked["guidance"] = _number(body, "guidance", 0, 0, 100)
    if (negative := body.get("negative")) is not None:
        if not isinstance(negative, str) or len(negative) > _LONGEST:
            raise wire.bad(f"negative must be a text of at most {_LONGEST} characters.", "negative")
        asked["negative"] = negative
    return asked


def _number(
    body: Mapping[str, Any], name: str, otherwise: float, least: float, most: float, *, whole: bool = False
) -> float:
    return wire.number(name, otherwise if body.get(name) is None else body[name], least, most, whole=whole)
