"""MLflow's JSON: protobuf messages by field name, 64-bit integers as numbers, NaN and ±Infinity as strings."""

import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from stratal.identity.model import Principal
from stratal.kernel.errors import Invalid

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Call:
    """One request: who asks, the message's fields, and what stood in the path (decoded)."""

    who: Principal
    fields: "Fields"
    path: Mapping[str, str]
    request: Request

    @property
    def project_id(self) -> str:
        return self.who.project_id


Handler = Callable[[Call], Awaitable[Json | Response]]
Routes = dict[tuple[str, str], Handler]
"""(method, path below ``/api/2.0``) → what answers; ``{name}`` stands for one part of the path."""


class Fields:
    """A message's fields, read with the types they must have. Unknown ones are ignored, null is absent."""

    def __init__(self, values: Mapping[str, Any], where: str = "") -> None:
        self._values = values
        self._where = where

    @staticmethod
    def of_body(body: bytes) -> "Fields":
        """From a JSON object (an empty body is one without fields). Raises `Invalid`."""
        if not body.strip():
            return Fields({})
        try:
            values = _loads(body)
        except (ValueError, RecursionError) as error:
            raise Invalid("The body is not JSON.", reason="malformed_json") from error
        if not isinstance(values, dict):
            raise Invalid("The body is not a JSON object.", reason="malformed_json")
        return Fields(values)

    @staticmethod
    def of_query(query: QueryParams) -> "Fields":
        """From a query string, in which lists are repeated names."""
        values: dict[str, list[str]] = {}
        for name, value in query.multi_items():
            values.setdefault(name, []).append(value)
        return Fields({name: found[0] if len(found) == 1 else found for name, found in values.items()})

    def word(self, name: str) -> str:
        """An enum's value, by name or by number; empty where the field is absent."""
        value = self._get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(name)

    def text(self, name: str, default: str = "") -> str:
        value = self._get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._wrong(name, "a string", value)
        if "\x00" in value:
            raise self._wrong(name, "text without NUL characters", value)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self._wrong(name, "valid Unicode", value) from error
        return value

    def optional(self, name: str) -> str | None:
        """Text, None where the field is absent."""
        return None if self._get(name) is None else self.text(name)

    def required(self, *names: str) -> str:
        """Text that must be there and not be empty, under any of these names. Raises `Invalid`."""
        for name in names:
            value = self.text(name)
            if value:
                return value
        raise Invalid(
            f"Missing value for required parameter '{self._where}{names[0]}'.", reason="missing_value"
        )

    def integer(self, name: str, default: int) -> int:
        found = self.maybe_integer(name)
        return default if found is None else found

    def maybe_integer(self, name: str) -> int | None:
        """A whole number, also written as a string; None where the field is absent."""
        value = self._get(name)
        if value is None:
            return None
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,20}", value):
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            raise self._wrong(name, "a whole number", value)
        if abs(value) > 2**64:
            raise self._wrong(name, "a number of 64 bits", value)
        return int(value)

    def number(self, name: str) -> float:
        """A double that must be there; ``NaN`` and ``Infinity`` come as strings. Raises `Invalid`."""
        value = self._get(name)
        if value is None:
            raise Invalid(
                f"Missing value for required parameter '{self._where}{name}'.", reason="missing_value"
            )
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                raise self._wrong(name, "a number", value) from None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(name, "a number", value)
        try:
            return float(value)
        except OverflowError:
            raise self._wrong(name, "a double", value) from None

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self._get(name)
        if value is None:
            return default
        if isinstance(value, str) and value.lower() in {"true", "false"}:
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def texts(self, name: str) -> list[str]:
        """A list of strings; one that stands alone is a list of it. Empty where the field is absent."""
        value = self._get(name)
        if value is None:
            return []
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) for one in values):
            raise self._wrong(name, "a list of strings", value)
        return list(values)

    def items(self, name: str) -> list["Fields"]:
        """A list of messages; empty where the field is absent."""
        value = self._get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self._wrong(name, "a list of objects", value)
        return [Fields(one, f"{self._where}{name}[{index}].") for index, one in enumerate(value)]

    def message(self, name: str) -> "Fields":
        """A message within this one; without fields where it is absent."""
        value = self._get(name)
        if value is None:
            return Fields({}, f"{self._where}{name}.")
        if not isinstance(value, dict):
            raise self._wrong(name, "an object", value)
        return Fields(value, f"{self._where}{name}.")

    def pairs(self, name: str) -> list[tuple[str, str]]:
        """A list of ``{key, value}``, as tags and params are sent."""
        return [(item.required("key"), item.text("value")) for item in self.items(name)]

    def _get(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        first, *rest = name.split("_")
        return self._values.get(first + "".join(part.capitalize() for part in rest))

    def _wrong(self, name: str, wanted: str, value: object) -> Invalid:
        shown = str(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return Invalid(
            f"Invalid value {shown!r} for parameter '{self._where}{name}': it must be {wanted}.",
            reason="wrong_type",
        )


def number(value: float) -> object:
    """A double as protobuf's JSON writes it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def key_values(values: Mapping[str, str]) -> list[Json]:
    """Tags or params as a list of ``{key, value}``."""
    return [{"key": key, "value": value} for key, value in values.items()]


def with_token(answer: Json, token: str) -> Json:
    """Add the next page's token, where there is a next page."""
    return {**answer, "next_page_token": token} if token else answer


def _loads(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)  # knows NaN and Infinity as bare words, which older clients send
