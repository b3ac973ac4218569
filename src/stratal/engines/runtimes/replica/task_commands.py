"""Short spoken English phrases by PocketSphinx and the model that its wheel brings. It is no dictation."""

from __future__ import annotations

import io
import wave

import numpy as np

from .arrays import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

RATE = 16_000
MAX_SECONDS = 60


def load(_read: Callable[[str], bytes], _options: dict[str, Any]) -> Callable[[list[bytes]], dict[str, Any]]:
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=RATE, loglevel="FATAL")

    def answer(sounds: list[bytes]) -> dict[str, Any]:
        return {"text": [_text(decoder, read_wave(data)) for data in sounds]}

    return answer


def _text(decoder: Any, samples: bytes) -> str:
    decoder.start_utt()
    decoder.process_raw(samples, full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return found.hypstr if found is not None else ""


def read_wave(data: bytes) -> bytes:
    """16-bit samples at 16 kHz of a WAV file, one channel. Raises `Invalid` for other files and for long ones."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            frames = file.getnframes()
            if width != 2 or not 4_000 <= rate <= 192_000 or not 1 <= channels <= 8:
                raise Invalid("The sound must be 16-bit PCM in a WAV file.")
            if frames > MAX_SECONDS * rate:
                raise Invalid(
                    f"The sound lasts {frames / rate:.0f} s; at most {MAX_SECONDS} s are listened to."
                )
            raw = file.readframes(frames)
    except (wave.Error, EOFError):
        raise Invalid("The sound is not a WAV file.") from None
    samples = (
        np.frombuffer(raw[: len(raw) // (2 * channels) * 2 * channels], "<i2").reshape(-1, channels).mean(1)
    )
    if rate != RATE and len(samples):
        moments = np.arange(int(len(samples) * RATE / rate)) * (rate / RATE)
        samples = np.interp(moments, np.arange(len(samples)), samples)
    return np.asarray(samples, "<i2").tobytes()
