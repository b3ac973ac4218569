"""Programs that turn a registered model into a form of another format, each run by a job in its own environment."""

from pathlib import Path

TO_ONNX_REQUIREMENTS = "skl2onnx>=1.20\nonnxruntime>=1.23\nmlflow>=2.20\n"


def to_onnx_script() -> str:
    """The text of the program that converts a scikit-learn model: ``python -c TEXT models:/NAME/VERSION``."""
    return Path(__file__).with_name("to_onnx.py").read_text()
