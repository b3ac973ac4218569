"""Reading a picture from bytes that anybody may have sent, within limits that are looked at before it is decoded."""

from __future__ import annotations

import struct

import numpy as np

from .arrays import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

MAX_PIXELS = 40_000_000


def read_picture(data: bytes) -> NDArray[Any]:
    """The picture, upright, blue-green-red. Raises `Invalid` for what is none, or larger than 40 megapixels."""
    check_picture(data)
    import cv2

    raw = np.frombuffer(data, np.uint8)
    picture: NDArray[Any] | None = None
    if may_be_transparent(data):
        picture = _on_white(cv2.imdecode(raw, cv2.IMREAD_UNCHANGED))
    if picture is None:
        picture = cv2.imdecode(raw, cv2.IMREAD_COLOR)
    if picture is None:
        raise Invalid("The picture cannot be read: it is damaged or breaks off.")
    return picture


def may_be_transparent(data: bytes) -> bool:
    """Whether a PNG says that it has an alpha channel, or a transparent colour."""
    return data[:4] == b"\x89PNG" and (data[25:26] in (b"\4", b"\6") or b"tRNS" in data[:4096])


def _on_white(picture: NDArray[Any] | None) -> NDArray[Any] | None:
    """A picture with an alpha channel as it looks on white paper: text that is drawn on nothing is most often dark."""
    if picture is None or picture.ndim != 3 or picture.shape[2] != 4:
        return None
    most = np.iinfo(picture.dtype).max
    alpha = picture[:, :, 3:].astype(np.float32) / most
    blended = picture[:, :, :3] * alpha + most * (1 - alpha)
    return (blended * (255 / most)).round().astype(np.uint8)


def check_picture(data: bytes) -> None:
    """Look at the size that it says it has. Raises `Invalid` as `read_picture`."""
    size = _size(data)
    if size is None:
        raise Invalid("The picture is neither PNG nor JPEG.")
    if size[0] * size[1] > MAX_PIXELS or min(size) < 1:
        raise Invalid(
            f"The picture has {size[0]} × {size[1]} pixels; at most {MAX_PIXELS // 1_000_000} million are read."
        )


def _size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a PNG's or JPEG's own header says."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) > 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return None
