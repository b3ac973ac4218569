"""The programs that jobs fine-tune with: small heads on frozen encoders, and low-rank adapters in a transformer."""

from pathlib import Path

REQUIREMENTS = "numpy==2.4.6\nsafetensors==0.8.0\nscikit-learn==1.9.1\ntokenizers==0.23.3\n"
"""What it needs, and what its model needs too: the endpoint of a model that a job made runs in that job's environment."""
LORA_SERVED = "numpy==2.4.6\nsafetensors==0.8.0\nsentencepiece==0.2.3\ntorch==2.13.0\ntransformers==5.24.0\n"
"""What a model with merged adapters is served with, where its base does not say."""
LORA_REQUIREMENTS = LORA_SERVED + "accelerate==1.15.0\npeft==0.21.2\nscikit-learn==1.9.1\n"

_GIVEN = "from stratal.engines.finetuning import train"


def program() -> str:
    """The text that fits heads: ``python -c TEXT WISH`` (`stratal.ai.finetuning.service.Wish` as JSON)."""
    return Path(__file__).with_name("train.py").read_text()


def lora_program() -> str:
    """The text that trains adapters, called likewise. What it shares with the other is put in front as its `train`."""
    text = Path(__file__).with_name("lora.py").read_text().splitlines(keepends=True)
    shared = f"import types\n\ntrain = types.ModuleType('train')\nexec({program()!r}, train.__dict__)\n"
    return shared + "".join(line for line in text if not line.startswith(_GIVEN))
