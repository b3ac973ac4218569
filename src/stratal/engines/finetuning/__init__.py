"""The program that a job fine-tunes with: small heads on frozen encoders, on the CPU."""

from pathlib import Path

REQUIREMENTS = "numpy==2.4.6\nsafetensors==0.8.0\nscikit-learn==1.9.1\ntokenizers==0.23.3\n"
"""What it needs, and what its model needs too: the endpoint of a model that a job made runs in that job's environment."""


def program() -> str:
    """Its text: ``python -c TEXT WISH`` (`stratal.ai.finetuning.service.Wish` as JSON)."""
    return Path(__file__).with_name("train.py").read_text()
