"""Drawn faces of people who do not exist: each has features of its own, each picture its own light, turn and mood.

Ellipses and strokes on a grey picture: head, hair, eyes, brows, nose, mouth, sometimes glasses. What is a person's
(proportions, tones) stays; what is a moment's (light from one side, place, turn, smile, open eyes, noise, blur)
changes. The oracle knows who is drawn.

Fixed before any model of its data. Real faces differ in ways that this does not: figures on it say that the parts work.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

SEED = 20250901
SIDE = 64
TRAITS = 16


@dataclass(frozen=True)
class Size:
    people: int
    """People of each seed: half to learn from, a quarter to set the threshold by, a quarter to test."""
    pictures: int
    seeds: int


SIZES = {"tiny": Size(48, 6, 2), "default": Size(240, 8, 3), "full": Size(800, 12, 3)}


def generate(size: Size, seed: int = SEED) -> tuple[Any, Any]:
    """(pictures, SIDE, SIDE) in 0..255, and whose each is."""
    shots, whose = [], []
    for person in range(size.people * size.seeds):
        rng = np.random.default_rng([seed, person])
        traits = rng.uniform(-1, 1, TRAITS)
        for _ in range(size.pictures):
            shots.append(draw(traits, rng))
            whose.append(person)
    return np.stack(shots), np.array(whose)


def draw(t: Any, rng: Any) -> Any:
    """One picture of the person with traits `t`, each from -1 to 1."""
    yy, xx = np.mgrid[:SIDE, :SIDE].astype(float)
    cx, cy = SIDE / 2 + rng.normal(0, 1.2), SIDE / 2 + rng.normal(0, 1.2)
    turn, scale = rng.normal(0, 0.06), 1 + rng.normal(0, 0.04)
    u = ((xx - cx) * np.cos(turn) + (yy - cy) * np.sin(turn)) / scale
    v = (-(xx - cx) * np.sin(turn) + (yy - cy) * np.cos(turn)) / scale
    u = u - rng.normal(0, 0.8) * np.cos(v / 30)
    smile, open_eyes = rng.normal(0, 0.5), rng.uniform(0.7, 1.1)
    skin = 150 + 45 * t[0]
    picture = np.full((SIDE, SIDE), rng.uniform(40, 215))
    wide, high = 18 + 3 * t[1], 24 + 3 * t[2]
    picture = _over(picture, _disc(u, v + 3, wide + 2.5, high + 3), 70 + 60 * t[3])
    picture = _over(picture, _disc(u, v, wide, high), skin)
    picture = _over(picture, _disc(u, v + high + 2 + 3 * t[4], wide + 3, 12), 70 + 60 * t[3])
    apart, level = 8 + 1.8 * t[5], -4 + 2 * t[6]
    for side in (-1, 1):
        eye_u, eye_v = u - side * apart, v - level
        picture = _over(picture, _disc(eye_u, eye_v, 4 + 0.9 * t[7], (2.2 + 0.5 * t[8]) * open_eyes), 235)
        picture = _over(picture, _disc(eye_u, eye_v, 1.7, 1.9), 40 + 30 * t[9])
        brow = eye_v + 5.5 + 1.2 * t[10] + side * eye_u * 0.12 * t[11]
        picture = _over(picture, _disc(eye_u, brow, 5, 1.1 + 0.4 * t[12]), 60 + 50 * t[3])
    picture = _over(picture, _disc(u, v - 3 - t[13], 2.2 + 0.8 * t[13], 6), skin - 16)
    mouth = v - 13 - 1.5 * t[14] + smile * (u / 6) ** 2
    picture = _over(picture, _disc(u, mouth, 7 + 2 * t[15], 1.6), skin - 60)
    if rng.random() < 0.12:
        for side in (-1, 1):
            away = np.hypot((u - side * apart) / 6, (v - level) / 5)
            picture = _over(picture, np.exp(-(((away - 1) / 0.12) ** 2)), 30)
    light = rng.normal(0, 0.3, 2)
    picture = picture * (1 + light[0] * (xx - 32) / 64 + light[1] * (yy - 32) / 64) * rng.uniform(0.8, 1.2)
    picture = picture + rng.normal(0, 7, picture.shape)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def _disc(u: Any, v: Any, a: float, b: float) -> Any:
    """An ellipse with soft edges: 1 inside, 0 outside."""
    away = np.hypot(u / a, v / b)
    return 1 / (1 + np.exp(np.clip((away - 1) * min(a, b) / 0.45, -50, 50)))


def _over(picture: Any, mask: Any, tone: float) -> Any:
    return picture * (1 - mask) + tone * mask
