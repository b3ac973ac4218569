"""Sizes and times as people write them. Standard library only."""

import re

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_TIME = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([smhd]?)", re.IGNORECASE)
_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def size(text: int | str) -> int:
    """``512MiB``, ``512M`` (of 1,024 each, with and without an i) or a number of bytes. Raises `ValueError`."""
    found = _SIZE.fullmatch(str(text).strip())
    if found is None:
        raise ValueError(f"{text!r} is not a size like 512MiB or 4GiB.")
    return int(float(found[1]) * _BYTES[found[2].lower()])


def seconds(text: float | str) -> float:
    """``30m``, or a number of seconds. Raises `ValueError`."""
    found = _TIME.fullmatch(str(text).strip())
    if found is None:
        raise ValueError(f"{text!r} is not a time like 90s, 30m, 2h or 1d.")
    return float(found[1]) * _SECONDS[found[2].lower()]
