"""What every model that writes text is to a replica, whatever runs it. Parts of it are `calling`'s."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from . import calling
from .arrays import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray


class Writer(ABC):
    rowwise = False

    def arrange(
        self,
        inputs: Sequence[tuple[str, NDArray[Any]]],
        columns: Sequence[str] | None,
        *,
        strict: bool,
    ) -> NDArray[Any]:
        if len(inputs) != 1 or inputs[0][0] not in {"text", "input-0"}:
            raise Invalid("The model takes one input, 'text'.")
        return inputs[0][1].ravel()

    def predict(self, features: NDArray[Any], wanted: Sequence[str] | None) -> list[tuple[str, NDArray[Any]]]:
        """The most likely continuation of each text, of at most 64 tokens."""
        if any(name != "text" for name in wanted or ()):
            raise Invalid("There is one output, 'text'.")
        found = np.empty(len(features), object)
        for number, text in enumerate(features.tolist()):
            pieces = self.generate({"prompt": text, "max_tokens": 64, "temperature": 0})
            found[number] = "".join(piece.get("text", "") for piece in pieces)
        return [("text", found)]

    def generate(self, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """`asked`: ``messages`` or ``prompt``, and ``max_tokens``, ``temperature``, ``top_p``, ``seed``, ``stop``,
        ``schema``, ``tools``, ``tool_choice`` (``=NAME`` for one of them) and ``parallel``."""
        teller = calling.Teller(asked)
        for piece in self._written(asked):
            if "finish" not in piece:
                yield {"text": teller.take(piece["text"])}
                continue
            rest, calls = teller.end()
            if rest:
                yield {"text": rest}
            yield {**piece, "finish": "tool_calls", "calls": calls} if calls else piece

    @abstractmethod
    def _written(self, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """``{"text": …}`` pieces as the runtime makes them, then one with ``finish`` and the counts of tokens."""
