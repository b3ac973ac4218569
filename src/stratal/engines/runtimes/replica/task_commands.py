"""Short spoken English phrases by PocketSphinx and the model that its wheel brings. It is no dictation.

Given silence it would make up a word: where its own detector of voices finds none, nothing was said.
"""

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
_STRICT = 3  # of the detector's modes the one least taken in by noise
_FRAME_SECONDS = 0.03


def load(_read: Callable[[str], bytes], _options: dict[str, Any]) -> Callable[[list[bytes]], dict[str, Any]]:
    from pocketsphinx import Decoder, Vad

    decoder = Decoder(samprate=RATE, loglevel="FATAL")
    detector = Vad(mode=_STRICT, sample_rate=RATE, frame_length=_FRAME_SECONDS)

    def answer(sounds: list[bytes]) -> dict[str, Any]:
        samples = [read_wave(data) for data in sounds]
        return {"text": [text_of(decoder, one) if is_spoken(detector, one) else "" for one in samples]}

    return answer


def is_spoken(detector: Any, samples: bytes) -> bool:
    """Whether any frame of it is somebody's voice; what is shorter than a frame is not."""
    size = detector.frame_bytes
    return any(detector.is_speech(samples[at : at + size]) for at in range(0, len(samples) - size + 1, size))


def text_of(decoder: Any, samples: bytes) -> str:
    """What the decoder hears. It is ended whatever happens: left begun, it would refuse every sound that follows."""
    decoder.start_utt()
    try:
        decoder.process_raw(samples, full_utt=True)
    finally:
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
