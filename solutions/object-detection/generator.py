"""Generated scenes of a yard seen from above: crates, barrels and carts on cluttered ground, with their true boxes.

Three kinds of things of many colours, sizes and turns lie on a textured ground among clutter that is none of
them (planks, puddles, shadows); they may partly cover each other. An object counts when at least two fifths of
it can be seen. The oracle is the set of true boxes, with which every measure is 1.

Fixed before any model of its data.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

SEED = 20250901
SIDE = 96
KINDS = ("crate", "barrel", "cart")
SEEN = 0.4


@dataclass(frozen=True)
class Size:
    train: int
    test: int
    seeds: int


SIZES = {"tiny": Size(40, 16, 2), "default": Size(900, 120, 3), "full": Size(4000, 400, 3)}


def generate(size: Size, seed: int = SEED) -> tuple[Any, pd.DataFrame]:
    """(scenes, SIDE, SIDE, 3) in 0..255; one row per object that can be seen: (scene, object, kind, box, seen)."""
    pictures, rows = [], []
    for scene in range((size.train + size.test) * size.seeds):
        picture, found = draw(np.random.default_rng([seed, scene]))
        pictures.append(picture)
        rows += [(scene, number, *one) for number, one in enumerate(found)]
    columns = ["scene", "object", "kind", "x0", "y0", "x1", "y1", "seen"]
    return np.stack(pictures), pd.DataFrame(rows, columns=columns).round({"seen": 3})


def draw(rng: Any) -> tuple[Any, list[tuple[int, float, float, float, float, float]]]:
    yy, xx = np.mgrid[:SIDE, :SIDE].astype(float)
    ground = rng.uniform(70, 150, 3)
    picture = np.broadcast_to(ground, (SIDE, SIDE, 3)).copy()
    for _ in range(3):
        a, b = rng.uniform(-0.25, 0.25, 2)
        picture += (rng.uniform(2, 9) * np.sin(a * xx + b * yy + rng.uniform(0, 6.3)))[..., None]
    for _ in range(int(rng.integers(2, 6))):
        _clutter(picture, xx, yy, rng)
    owner = np.full((SIDE, SIDE), -1)
    shapes = []
    for number in range(int(rng.integers(2, 7))):
        kind = int(rng.integers(0, 3))
        mask = _thing(picture, xx, yy, kind, rng)
        shapes.append((kind, mask))
        owner[mask] = number
    picture = picture * rng.uniform(0.75, 1.2) + rng.normal(0, 7, picture.shape)
    found = []
    for number, (kind, mask) in enumerate(shapes):
        left = owner == number
        if mask.sum() and left.sum() / mask.sum() >= SEEN:
            ys, xs = np.nonzero(mask)
            box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
            found.append((kind, *box, float(left.sum() / mask.sum())))
    return np.clip(np.round(picture), 0, 255).astype(np.uint8), found


def _turned(xx: Any, yy: Any, rng: Any) -> tuple[Any, Any]:
    cx, cy = rng.uniform(10, SIDE - 10, 2)
    angle = rng.uniform(0, np.pi)
    u = (xx - cx) * np.cos(angle) + (yy - cy) * np.sin(angle)
    v = -(xx - cx) * np.sin(angle) + (yy - cy) * np.cos(angle)
    return u, v


def _clutter(picture: Any, xx: Any, yy: Any, rng: Any) -> None:
    """Planks, puddles and shadows."""
    u, v = _turned(xx, yy, rng)
    if rng.random() < 0.5:
        mask = (abs(u) < rng.uniform(12, 30)) & (abs(v) < rng.uniform(1, 2.5))
        picture[mask] += rng.uniform(-45, 45)
    else:
        mask = (u / rng.uniform(6, 16)) ** 2 + (v / rng.uniform(4, 9)) ** 2 < 1
        picture[mask] *= rng.uniform(0.65, 0.9)


def _thing(picture: Any, xx: Any, yy: Any, kind: int, rng: Any) -> Any:
    u, v = _turned(xx, yy, rng)
    colour = rng.uniform(30, 225, 3)
    if kind == 0:  # a crate: a box with two boards across
        w, h = rng.uniform(6, 11), rng.uniform(6, 11)
        mask = (abs(u) < w) & (abs(v) < h)
        picture[mask] = colour
        picture[mask & ((abs(u - v) < 1.3) | (abs(u + v) < 1.3))] = colour * 0.5
        picture[mask & ((abs(u) > w - 1.5) | (abs(v) > h - 1.5))] = colour * 0.65
    elif kind == 1:  # a barrel: a disc with a ring
        r = rng.uniform(5, 9)
        away = np.hypot(u, v)
        mask = away < r
        picture[mask] = colour
        picture[mask & (abs(away - 0.65 * r) < 1.0)] = colour * 0.5
    else:  # a cart: a long bed with wheels
        w, h = rng.uniform(10, 16), rng.uniform(4, 6)
        wheels = (abs(abs(u) - 0.7 * w) < 2.5) & (abs(abs(v) - h) < 1.8)
        bed = (abs(u) < w) & (abs(v) < h)
        mask = bed | wheels
        picture[bed] = colour
        picture[wheels] = 25
    return mask
