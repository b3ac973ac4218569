"""Speech from text by eSpeak NG: rules and formants, clear rather than natural, in many languages.

The library keeps one voice and one callback in the process; a replica answers one request after the other, so
that is enough.
"""

from __future__ import annotations

import base64
import ctypes
import io
import os
import wave

from .arrays import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_CHARACTERS = 5_000
WORDS_A_MINUTE = 165
DEFAULT_VOICE = "en-us"
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples come through the callback, nothing is played
_UTF8 = 1
_RATE = 1


def load(
    _read: Callable[[str], bytes], _options: dict[str, Any]
) -> Callable[[list[tuple[str, str, float]]], dict[str, Any]]:
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(espeakng_loader.get_data_path()), 0)
    if rate <= 0:
        raise ValueError("eSpeak NG cannot read its own data")
    speaker = _Speaker(library)

    def answer(rows: list[tuple[str, str, float]]) -> dict[str, Any]:
        sounds = [speaker.say(text, voice, speed) for text, voice, speed in rows]
        return {"audio": [base64.b64encode(_wave(samples, rate)).decode() for samples in sounds]}

    return answer


class _Speaker:
    def __init__(self, library: Any) -> None:
        self._library = library
        self._parts: list[bytes] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._take)  # the library keeps only its address: it must live as long as we do
        library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count:
            self._parts.append(ctypes.string_at(samples, count * 2))
        return 0

    def say(self, text: str, voice: str, speed: float) -> bytes:
        if len(text) > MAX_CHARACTERS:
            raise Invalid(
                f"The text has {len(text)} characters; at most {MAX_CHARACTERS} are spoken at once."
            )
        if not 0.25 <= speed <= 4:
            raise Invalid("speed must be between 0.25 and 4.")
        name = voice.strip().lower() or DEFAULT_VOICE
        if not name.replace("-", "").isalnum() or self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise Invalid(
                f"There is no voice {voice[:40]!r}; voices are languages, like en-us, en-gb, de or fr."
            )
        self._library.espeak_SetParameter(_RATE, round(WORDS_A_MINUTE * speed), 0)
        self._parts = []
        data = text.replace("\0", " ").encode() + b"\0"
        if self._library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 0, 0, _UTF8, None, None) != 0:
            raise ValueError("eSpeak NG refused the text")
        self._library.espeak_Synchronize()
        return b"".join(self._parts)


def _wave(samples: bytes, rate: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples)
    return out.getvalue()
