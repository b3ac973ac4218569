"""Text in pictures by RapidOCR: PP-OCR's detector and recogniser in ONNX Runtime, the weights that the wheel brings."""

from __future__ import annotations

import json
import logging

from rapidocr import RapidOCR

from .pictures import read_picture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def load(_read: Callable[[str], bytes], _options: dict[str, Any]) -> Callable[[list[bytes]], dict[str, Any]]:
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    engine = RapidOCR()

    def answer(pictures: list[bytes]) -> dict[str, Any]:
        lines = [_lines(engine(read_picture(data))) for data in pictures]
        texts = ["\n".join(line["text"] for line in one) for one in lines]
        return {"text": texts, "lines": [json.dumps(one, ensure_ascii=False) for one in lines]}

    return answer


def _lines(found: Any) -> list[dict[str, Any]]:
    """Each line with its four corners in pixels, from the top left clockwise, and how sure it is (0 to 1)."""
    if found.boxes is None or found.txts is None:
        return []
    return [
        {"text": text, "score": round(float(score), 4), "box": [[round(float(v), 1) for v in p] for p in box]}
        for text, score, box in zip(found.txts, found.scores, found.boxes)  # noqa: B905
    ]
