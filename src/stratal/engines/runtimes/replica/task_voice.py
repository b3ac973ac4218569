"""Where somebody speaks, by Silero's small network in ONNX Runtime: one probability for each 32 ms.

Speech begins where the probability reaches `_ON` and ends where it stays below `_OFF` for a while; pieces that
are too short to be a word are left out.
"""

from __future__ import annotations

import json

import numpy as np

from .task_commands import RATE, read_wave

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

WINDOW = 512
_CONTEXT = 64
_ON, _OFF = 0.5, 0.35
_SILENCE = 0.1  # seconds
_SHORTEST = 0.25
_PADDING = 0.03


def load(read: Callable[[str], bytes], _options: dict[str, Any]) -> Callable[[list[bytes]], dict[str, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        read("silero_vad.onnx"), options, providers=["CPUExecutionProvider"]
    )

    def answer(sounds: list[bytes]) -> dict[str, Any]:
        segments, shares = [], []
        for data in sounds:
            samples = np.frombuffer(read_wave(data), "<i2").astype("f4") / 32768
            found = spoken(_probabilities(session, samples), len(samples) / RATE)
            segments.append(json.dumps([{"start": start, "end": end} for start, end in found]))
            length = len(samples) / RATE
            shares.append(sum(end - start for start, end in found) / length if length else 0.0)
        return {"segments": segments, "share": shares}

    return answer


def _probabilities(session: Any, samples: NDArray[Any]) -> list[float]:
    state = np.zeros((2, 1, 128), "f4")
    rate = np.array(RATE, "i8")
    before = np.zeros(_CONTEXT, "f4")
    found = []
    for start in range(0, len(samples), WINDOW):
        window = samples[start : start + WINDOW]
        if len(window) < WINDOW:
            window = np.concatenate([window, np.zeros(WINDOW - len(window), "f4")])
        given = np.concatenate([before, window])[None]
        out, state = session.run(None, {"input": given, "state": state, "sr": rate})
        before = window[-_CONTEXT:]
        found.append(float(out[0, 0]))
    return found


def spoken(probabilities: list[float], seconds: float) -> list[tuple[float, float]]:
    """The stretches with speech, as (start, end) in seconds."""
    step = WINDOW / RATE
    found: list[tuple[float, float]] = []
    begun: float | None = None
    quiet: float | None = None
    for number, probability in enumerate([*probabilities, *[0.0] * 8]):
        at = number * step
        if probability >= _ON:
            begun = at if begun is None else begun
            quiet = None
        elif begun is not None and (probability < _OFF or quiet is not None):
            quiet = at if quiet is None else quiet
            if at + step - quiet >= _SILENCE:
                if quiet - begun >= _SHORTEST:
                    found.append(
                        (round(max(0.0, begun - _PADDING), 3), round(min(seconds, quiet + _PADDING), 3))
                    )
                begun = quiet = None
    return found
