"""OpenAI's shapes, read and written."""

import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import orjson
from starlette.requests import Request

from stratal.ai.endpoints.scoring import parse_json
from stratal.ai.endpoints.tensors import Tensor, nested, pack
from stratal.gateway.bodies import read_body
from stratal.gateway.openai import tools
from stratal.gateway.openai.errors import bad as bad
from stratal.kernel.errors import Invalid

MAX_BODY = 32 << 20
MAX_INPUTS = 2048
MAX_STOPS = 16


async def all_of(pieces: AsyncGenerator[Mapping[str, Any], None]) -> list[Mapping[str, Any]]:
    """All that a model writes. When this is cancelled, so is the writing."""
    async with aclosing(pieces):
        return [piece async for piece in pieces]


async def json_object(request: Request, limit: int = MAX_BODY) -> dict[str, Any]:
    """The request's body. Raises `Invalid` for what is no JSON object, `TooLarge`."""
    body = parse_json(await read_body(request.scope, request.receive, limit))
    if not isinstance(body, dict):
        raise Invalid("The request is not a JSON object.", reason="invalid_json")
    return body


def model_name(body: Mapping[str, Any]) -> str:
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise bad("model must name an endpoint of the project.", "model")
    return name


def text_inputs(body: Mapping[str, Any]) -> list[str]:
    """The texts of an embeddings request. Raises `Invalid`."""
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise bad("input must be a text or a list of texts (token numbers are not taken).", "input")
    if len(texts) > MAX_INPUTS:
        raise bad(f"input has {len(texts)} texts; at most {MAX_INPUTS} at once.", "input")
    return texts


def texts_tensor(name: str, texts: Sequence[str]) -> Tensor:
    try:
        return Tensor(name, "BYTES", (len(texts),), pack("BYTES", texts))
    except UnicodeEncodeError:
        raise bad("input is not valid Unicode.", "input") from None


def embeddings(model: str, vectors: Tensor, tokens: Sequence[int], *, as_base64: bool) -> bytes:
    """The answer to an embeddings request; `vectors` is [texts, numbers] of FP32."""
    count, width = vectors.shape
    rows: list[Any]
    if as_base64:
        data = memoryview(vectors.data)
        rows = [base64.b64encode(data[i * width * 4 : (i + 1) * width * 4]).decode() for i in range(count)]
    else:
        rows = nested(vectors)
    return orjson.dumps(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)],
            "model": model,
            "usage": {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)},
        }
    )


def generation(body: Mapping[str, Any], *, chat: bool) -> dict[str, Any]:
    """What a language model is asked: the parameters that it knows, checked. Raises `Invalid` for those it does not."""
    for unoffered in (
        *("functions", "function_call", "logprobs", "top_logprobs", "audio", "best_of", "suffix"),
        *("logit_bias", "modalities", "prediction", "web_search_options", "echo"),
        *("presence_penalty", "frequency_penalty"),
        *(() if chat else ("tools", "response_format")),
    ):
        if body.get(unoffered) and body[unoffered] != ["text"]:
            raise bad(f"{unoffered} is not offered here.", unoffered)
    if body.get("n", 1) not in (1, None):
        raise bad("One answer is made a request: n must be 1.", "n")
    asked: dict[str, Any] = {"messages": _messages(body)} if chat else {"prompt": _prompt(body)}
    if chat:
        asked |= tools.asked_tools(body)
        if (schema := tools.asked_schema(body)) is not None:
            if asked.get("tool_choice") not in (None, "none", "auto"):
                raise bad("An answer is a tool's call or of a schema, not both.", "response_format")
            asked["schema"] = schema
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    asked["max_tokens"] = None if most is None else number("max_tokens", most, 1, 1 << 20, whole=True)
    asked["temperature"] = number("temperature", _or(body.get("temperature"), 1.0), 0, 2)
    asked["top_p"] = number("top_p", _or(body.get("top_p"), 1.0), 0, 1)
    seed = body.get("seed")
    asked["seed"] = None if seed is None else abs(int(number("seed", seed, -(2**63), 2**63, whole=True)))
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if (
        not isinstance(stops, list)
        or len(stops) > MAX_STOPS
        or not all(isinstance(one, str) for one in stops)
    ):
        raise bad(f"stop must be a text or a list of at most {MAX_STOPS} texts.", "stop")
    asked["stop"] = stops
    return asked


def _or(value: Any, default: float) -> Any:
    return default if value is None else value


def number(name: str, value: Any, least: float, most: float, *, whole: bool = False) -> float:
    """The value, a number from `least` to `most`. Raises `Invalid`, which names it."""
    right = isinstance(value, int) if whole else isinstance(value, int | float)
    if not right or isinstance(value, bool) or not least <= value <= most:
        raise bad(f"{name} must be a {'whole ' * whole}number from {least} to {most}.", name)
    return float(value) if not whole else int(value)


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = body.get("messages")
    if not isinstance(listed, list) or not listed:
        raise bad("messages must be a list with at least one message.", "messages")
    return [_message(one) for one in listed]


def _message(one: Any) -> dict[str, Any]:
    role, content = (one.get("role"), one.get("content")) if isinstance(one, dict) else (None, None)
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise bad("Messages hold text only here.", "messages")
        content = "".join(str(part) for part in parts)
    calls = tools.calls_of(one) if role == "assistant" else []
    if calls and content is None:
        content = ""
    if role not in {"system", "developer", "user", "assistant", "tool"} or not isinstance(content, str):
        raise bad("A message needs a role (system, user, assistant or tool) and text.", "messages")
    said: dict[str, Any] = {"role": "system" if role == "developer" else role, "content": content}
    if calls:
        said["tool_calls"] = calls
    if role == "tool":
        if not isinstance(one.get("tool_call_id"), str):
            raise bad("A tool's message names the call that it answers: tool_call_id.", "messages")
        said["tool_call_id"] = one["tool_call_id"]
    return said


def _prompt(body: Mapping[str, Any]) -> str:
    prompt = body.get("prompt", "")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise bad("prompt must be one text.", "prompt")
    return prompt


def choice(
    chat: bool,
    text: str | None,
    finish: str | None,
    *,
    streamed: bool,
    first: bool = False,
    calls: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """One choice of an answer, or of a piece of it; `calls` as `tools.told_calls` makes them."""
    if not chat:
        return {"index": 0, "text": text or "", "logprobs": None, "finish_reason": finish}
    said: dict[str, Any] = {} if text is None else {"content": text}
    if not streamed or first:
        said["role"] = "assistant"
    if calls:
        said["tool_calls"] = [{"index": n, **one} for n, one in enumerate(calls)] if streamed else calls
    if not streamed:
        said["refusal"] = None
        if calls and not text:
            said["content"] = None
    return {"index": 0, "delta" if streamed else "message": said, "logprobs": None, "finish_reason": finish}


def usage(end: Mapping[str, Any]) -> dict[str, int]:
    prompt, made = int(end.get("prompt_tokens", 0)), int(end.get("completion_tokens", 0))
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
