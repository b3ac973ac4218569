"""Pictures as they come in requests, and as they are shown."""

import base64
import binascii
import io
from typing import Any

import numpy as np
from PIL import Image

MOST_PIXELS = 4_000_000


def opened(text: str) -> Any:
    """A picture file in base64 as (height, width, 3). Raises `ValueError` when it is none or too large."""
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG", "JPEG"])
    except (binascii.Error, OSError) as error:
        raise ValueError("`image` is no PNG or JPEG file in base64.") from error
    if picture.width * picture.height > MOST_PIXELS:
        raise ValueError(f"`image` has more than {MOST_PIXELS:,} pixels.")
    return np.asarray(picture.convert("RGB"))


def png(pixels: Any) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(kept, "PNG", optimize=True)
    return kept.getvalue()
