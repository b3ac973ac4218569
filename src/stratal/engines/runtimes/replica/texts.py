"""Texts that are being written: in each turn one piece of each, so that several go on side by side."""

from __future__ import annotations

import json

from . import frames
from .batches import failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .model import Model


class Texts:
    """`model` has ``generate(asked)``, or it writes nothing: an iterator of ``{"text"}``, at last ``{"finish", …}``."""

    def __init__(self, model: Model) -> None:
        self._generate = getattr(model, "generate", None)
        self._writing: dict[tuple[Any, int], Iterator[dict[str, Any]]] = {}
        self._refused: list[tuple[Any, bytes]] = []

    @property
    def waiting(self) -> bool:
        return bool(self._writing or self._refused)

    def add(self, connection: Any, request: int, body: memoryview) -> None:
        if self._generate is None:
            error = ValueError("it does not write text")
            self._refused.append((connection, failed(request, error)))
            return
        try:
            self._writing[connection, request] = iter(self._generate(json.loads(bytes(body))))
        except Exception as error:
            self._refused.append((connection, failed(request, error)))

    def cancel(self, connection: Any, request: int) -> None:
        """End a text now; one that has ended already is fine."""
        if self._writing.pop((connection, request), None) is not None:
            end = json.dumps({"finish": "cancelled"}).encode()
            self._refused.append((connection, frames.pack(request, frames.END, end)))

    def forget(self, connection: Any) -> None:
        """Nobody reads there any more."""
        for key in [key for key in self._writing if key[0] is connection]:
            del self._writing[key]
        self._refused = [one for one in self._refused if one[0] is not connection]

    def go_on(self) -> list[tuple[Any, bytes]]:
        """One piece of each: (connection, frame)."""
        made, self._refused = self._refused, []
        for (connection, request), pieces in list(self._writing.items()):
            try:
                piece = next(pieces)
            except Exception as error:
                del self._writing[connection, request]
                made.append((connection, failed(request, error)))
                continue
            ended = "finish" in piece
            if ended:
                del self._writing[connection, request]
            kind = frames.END if ended else frames.PIECE
            made.append((connection, frames.pack(request, kind, json.dumps(piece).encode())))
        return made
