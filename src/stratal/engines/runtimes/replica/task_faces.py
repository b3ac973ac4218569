"""Faces by OpenCV's classical cascade: frontal, upright faces, no neural network."""

from __future__ import annotations

import json

import cv2

from .pictures import read_picture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_NEIGHBOURS = 8
_SMALLEST = 24


def load(_read: Callable[[str], bytes], _options: dict[str, Any]) -> Callable[[list[bytes]], dict[str, Any]]:
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    if cascade.empty():
        raise ValueError("OpenCV cannot read its own cascade")

    def answer(pictures: list[bytes]) -> dict[str, Any]:
        found = []
        for data in pictures:
            grey = cv2.equalizeHist(cv2.cvtColor(read_picture(data), cv2.COLOR_BGR2GRAY))
            boxes = cascade.detectMultiScale(
                grey, scaleFactor=1.1, minNeighbors=_NEIGHBOURS, minSize=(_SMALLEST, _SMALLEST)
            )
            found.append([dict(zip(("x", "y", "width", "height"), map(int, box))) for box in boxes])  # noqa: B905
        return {"count": [len(boxes) for boxes in found], "faces": [json.dumps(boxes) for boxes in found]}

    return answer
