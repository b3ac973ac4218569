"""Bodies that are described in OpenAPI and read within a limit, where FastAPI would read without end."""

from collections.abc import AsyncIterator
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError

from stratal.kernel.errors import Invalid, TooLarge

M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """A body in which an unknown field is a mistake that is told."""

    model_config = ConfigDict(extra="forbid")


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a body that is read by `read_model`, for OpenAPI."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def read_model(request: Request, model: type[M], limit: int) -> M:
    """The body as a `model`, never reading more than `limit` bytes of it. Raises `Invalid`, `TooLarge`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise TooLarge(f"The request's body is larger than {limit // 2**20} MiB.")
    try:
        return model.model_validate_json(bytes(body))
    except ValidationError as error:
        problems = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise Invalid("The request is not valid: " + "; ".join(problems[:5])) from error


async def chunks_of(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes."""
    async for chunk in request.stream():
        if chunk:
            yield chunk
