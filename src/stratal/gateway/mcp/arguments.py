"""What a tool takes: described to clients as JSON Schema, and checked before anything is asked."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from stratal.kernel.errors import Invalid

A = TypeVar("A", bound="Arguments")


class Arguments(BaseModel):
    """A tool's arguments; an unknown one is a mistake that is told."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def described(cls) -> dict[str, Any]:
        schema = cls.model_json_schema()
        schema.pop("title", None)
        schema.setdefault("properties", {})
        return schema


def checked(takes: type[A], given: dict[str, Any] | None) -> A:
    """Raises `Invalid` with what is wrong with each argument."""
    try:
        return takes.model_validate(given or {})
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(p) for p in e['loc']) or 'arguments'}: {e['msg']}" for e in error.errors()
        ]
        raise Invalid(
            "The arguments do not fit: " + "; ".join(problems[:5]) + ".",
            hint="The tool's inputSchema says what it takes.",
            reason="bad_arguments",
        ) from error
