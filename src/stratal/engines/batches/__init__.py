"""The program that a job answers a batch of the OpenAI door with."""

from pathlib import Path


def program() -> str:
    """Its text: ``python -c TEXT BATCH INPUT ENDPOINT BUCKET``."""
    return Path(__file__).with_name("answer.py").read_text()
