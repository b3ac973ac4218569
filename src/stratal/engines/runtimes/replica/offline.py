"""Keeps Hugging Face's libraries from asking a hub for what is there: all that a replica loads lies in its folder."""

from __future__ import annotations

import os
import sys


def stay_offline() -> None:
    """Before or after they were imported, as they were where this process is a fork that has them loaded."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
