"""What comes with the command line to try models on: one sample a task, and sets to measure on, apart from each other."""

import base64
from pathlib import Path
from typing import Any

import click

FILES = frozenset({"ocr", "faces", "transcribe", "voice", "classify-image", "detect"})
"""Tasks whose rows are files."""
_HERE = Path(__file__).parent / "samples"
_MOST = 20 << 20


def load_sets() -> dict[str, Any]:
    import json

    found = json.loads((_HERE / "sets.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def read_sample(name: str) -> str:
    """A file in base64: one that comes with us, else one of the person's."""
    bundled = _HERE / name
    path = bundled if bundled.parent == _HERE and bundled.is_file() else Path(name)
    try:
        if path.stat().st_size > _MOST:
            raise click.UsageError(f"{name} is larger than {_MOST >> 20} MiB.")
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise click.UsageError(f"{name} cannot be read: {error.strerror}.") from None
