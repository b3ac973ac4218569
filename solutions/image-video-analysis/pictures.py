"""Pictures as they come in requests, and as they are shown."""

import base64
import binascii
import io
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

MOST_PIXELS, MOST_FRAMES = 4_000_000, 200


def opened(text: str) -> list[Any]:
    """The grey frames of a picture file in base64. Raises `ValueError` when it is none or too large."""
    try:
        picture = Image.open(
            io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG", "JPEG", "GIF"]
        )
    except (binascii.Error, OSError) as error:
        raise ValueError("`image` is no PNG, JPEG or GIF file in base64.") from error
    if picture.width * picture.height > MOST_PIXELS or getattr(picture, "n_frames", 1) > MOST_FRAMES:
        raise ValueError(f"`image` has more than {MOST_PIXELS:,} pixels or {MOST_FRAMES} frames.")
    return [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(picture)]


def png(pixels: Any) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(kept, "PNG", optimize=True)
    return kept.getvalue()
