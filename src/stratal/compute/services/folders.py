"""The folders of replicas."""

import shutil
from pathlib import Path


def remove(folder: Path) -> None:
    """Remove a replica's folder, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
