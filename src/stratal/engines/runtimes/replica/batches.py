"""Requests that wait, answered together where the model looks at each row alone.

Each request is read and arranged by itself, so what does not fit is refused to its sender only. Requests
whose features have the same form and that want the same outputs are one call of the model; its answer is
cut into theirs. When that call fails, each is asked alone: one request's bad row is not another's error.
"""

from __future__ import annotations

import json
import time
import traceback
from collections import deque

import numpy as np

from . import frames
from .arrays import Invalid, from_array, to_array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from .model import Features, Model

MOST_ROWS = 1024
"""So many rows are one call; a request with more is a call of its own."""
_MESSAGE = 1_000


class Asked:
    """One request: where its answer goes, and what it says; `features` once it was read."""

    __slots__ = ("body", "connection", "features", "form", "params", "request", "rows", "wanted")

    def __init__(self, connection: Any, request: int, body: memoryview) -> None:
        self.connection = connection
        self.request = request
        self.body = body
        self.features: Features | None = None
        self.form: object = None
        """What requests that are asked together have in common; None: it is asked alone."""
        self.rows = 0
        self.wanted: list[str] | None = None
        self.params: dict[str, Any] = {}

    def read(self, model: Model) -> None:
        """Raises `Invalid`, and `ValueError` and its like for a frame that is none."""
        header, data = frames.split_tensors(self.body)
        asked = json.loads(header)
        pieces = frames.cut(data, [tensor[3] for tensor in asked["inputs"]])
        arrays = [
            (name, to_array(datatype, tuple(shape), piece))
            for (name, datatype, shape, _), piece in zip(asked["inputs"], pieces)  # noqa: B905 - py3.9
        ]
        self.wanted = asked["outputs"]
        self.params = asked.get("params") or {}
        if self.params:
            _check(self.params, model.interface.get("params") or [])
        self.features = features = model.arrange(arrays, asked["columns"], strict=bool(asked["strict"]))
        if model.rowwise:
            self.rows, form = _form(features)
            wanted = None if self.wanted is None else tuple(self.wanted)
            self.form = None if form is None or self.params else (form, wanted)


class Batches:
    def __init__(self, model: Model) -> None:
        self._model = model
        self._waiting: deque[Asked] = deque()

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def add(self, asked: Asked) -> None:
        self._waiting.append(asked)

    def answer(self) -> list[tuple[Any, bytes]]:
        """Answer what came first, and what can be answered together with it: (connection, frame) of each."""
        answers: list[tuple[Any, bytes]] = []
        together: list[Asked] = []
        rows = 0
        while self._waiting:
            asked = self._waiting[0]
            if asked.features is None:
                try:
                    asked.read(self._model)
                except Exception as error:
                    self._waiting.popleft()
                    answers.append((asked.connection, failed(asked.request, error)))
                    continue
            if together and (
                asked.form is None or asked.form != together[0].form or rows + asked.rows > MOST_ROWS
            ):
                break
            together.append(self._waiting.popleft())
            rows += asked.rows
            if asked.form is None:
                break
        answers.extend(self._ask(together))
        return answers

    def _ask(self, together: list[Asked]) -> Iterator[tuple[Any, bytes]]:
        if len(together) > 1:
            try:
                yield from self._ask_together(together)
                return
            except Exception:  # noqa: S110 - whose fault it is shows when each is asked alone
                pass
        for asked in together:
            yield asked.connection, self._ask_alone(asked)

    def _ask_together(self, together: list[Asked]) -> list[tuple[Any, bytes]]:
        started = time.perf_counter()
        features: list[Any] = [asked.features for asked in together]
        outputs = self._model.predict(_joined(features), together[0].wanted)
        rows = sum(asked.rows for asked in together)
        for _, array in outputs:
            if array.shape[:1] != (rows,):
                self._model.rowwise = False
                raise ValueError("the model does not answer row by row")
        spent = (time.perf_counter() - started) * 1000 / len(together)
        answers, at = [], 0
        for asked in together:
            mine = [(name, array[at : at + asked.rows]) for name, array in outputs]
            at += asked.rows
            answers.append((asked.connection, _packed(asked.request, mine, spent, len(together))))
        return answers

    def _ask_alone(self, asked: Asked) -> bytes:
        started = time.perf_counter()
        try:
            assert asked.features is not None
            if asked.params:
                outputs = self._model.predict(asked.features, asked.wanted, asked.params)
            else:
                outputs = self._model.predict(asked.features, asked.wanted)
            return _packed(asked.request, outputs, (time.perf_counter() - started) * 1000, 1)
        except Exception as error:
            return failed(asked.request, error)


def _check(params: dict[str, Any], taken: list[dict[str, Any]]) -> None:
    """Raises `Invalid` for params that the model's signature does not declare."""
    names = [param["name"] for param in taken]
    unknown = [name for name in params if name not in names]
    if unknown:
        said = f"the params {', '.join(names)}" if names else "no params"
        raise Invalid(f"There is no param {unknown[0][:60]!r}: this model takes {said}.")


def _form(features: Features) -> tuple[int, object]:
    """How many rows, and the form that others must have to be joined with them; None: they cannot be."""
    if isinstance(features, dict):
        rows = {len(column) for column in features.values()}
        if len(rows) != 1 or 0 in rows:
            return 0, None
        return rows.pop(), tuple((name, a.dtype.str, a.shape[1:]) for name, a in features.items())
    if features.ndim == 0 or not len(features):
        return 0, None
    return len(features), (features.dtype.str, features.shape[1:])


def _joined(features: list[Any]) -> Features:
    if isinstance(features[0], dict):
        return {name: np.concatenate([table[name] for table in features]) for name in features[0]}
    return np.concatenate(features)


def _packed(request: int, outputs: list[tuple[str, NDArray[Any]]], ms: float, together: int) -> bytes:
    """The answer's frame; `together`: how many requests the model was asked at once."""
    listed, buffers = [], []
    for name, array in outputs:
        datatype, shape, raw = from_array(array)
        listed.append([name, datatype, shape, len(raw)])
        buffers.append(raw)
    header = json.dumps({"outputs": listed, "ms": round(ms, 3), "together": together}).encode()
    return frames.pack_tensors(request, frames.ANSWER, header, buffers)


def failed(request: int, error: Exception) -> bytes:
    if isinstance(error, Invalid):
        return _error(request, "invalid", str(error)[:_MESSAGE])
    if isinstance(error, (ValueError, TypeError, KeyError)):
        # Estimators say so when rows are not to their taste (NaN, unknown categories, text for numbers).
        return _error(request, "invalid", "The model refused the input: " + one_line(error))
    traceback.print_exception(type(error), error, error.__traceback__)
    return _error(request, "failed", "The model failed: " + one_line(error))


def _error(request: int, code: str, message: str) -> bytes:
    return frames.pack(request, frames.ERROR, json.dumps({"code": code, "message": message}).encode())


def one_line(error: BaseException) -> str:
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:_MESSAGE]
