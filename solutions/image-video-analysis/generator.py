"""Generated video of bright cells that drift, cross, leave, enter, and pass behind a dark bar; so it is known who is where.

Every pixel comes from what is drawn: a bright background that falls off to one side, cells as soft discs over
it (later ones cover earlier ones), a bar that hides them, and the noise of a camera. The truth has a row per
cell and frame with the share of it that can be seen. The oracle links a method's own detections by that truth.

Fixed before any model of its data.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

SEED = 20250901
HEIGHT, WIDTH = 96, 128
SEEN = 0.3
"""A cell counts as there when at least this share of it can be seen."""


@dataclass(frozen=True)
class Size:
    videos: int
    """Videos of each seed; the first half is for choosing, the second for testing."""
    seeds: int
    frames: int


SIZES = {"tiny": Size(4, 2, 16), "default": Size(8, 5, 40), "full": Size(24, 5, 80)}


def generate(size: Size, seed: int = SEED) -> tuple[Any, pd.DataFrame]:
    """(videos, frames, HEIGHT, WIDTH) in 0..255, and one row per video, frame and cell that is in the picture."""
    made = [video(size.frames, seed + 1000 * number) for number in range(size.videos * size.seeds)]
    frames = np.stack([frames for frames, _ in made])
    truth = pd.concat([rows.assign(video=number) for number, (_, rows) in enumerate(made)], ignore_index=True)
    return frames, truth[["video", "frame", "cell", "x", "y", "radius", "seen"]]


def video(frames: int, seed: int) -> tuple[Any, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    cells = [_Cell.born(rng, number, anywhere=True) for number in range(int(rng.integers(6, 10)))]
    bar = int(rng.integers(45, 80))
    slope = rng.uniform(-0.25, 0.25, 2)
    yy, xx = np.mgrid[:HEIGHT, :WIDTH]
    background = 45 + slope[0] * (xx - WIDTH / 2) + slope[1] * (yy - HEIGHT / 2)
    shots, rows, born = [], [], len(cells)
    for moment in range(frames):
        if rng.random() < 0.08 and len(cells) < 12:
            cells.append(_Cell.born(rng, born, anywhere=False))
            born += 1
        picture, owner = background.copy(), np.full((HEIGHT, WIDTH), -1)
        discs = []
        for index, cell in enumerate(cells):
            away = np.hypot(xx - cell.x, yy - cell.y)
            disc = 1 / (1 + np.exp((away - cell.radius) / 0.6))
            picture = picture * (1 - disc) + cell.brightness * disc
            owner[away <= cell.radius] = index
            discs.append(away <= cell.radius)
        picture[:, bar : bar + 9] = 30
        owner[:, bar : bar + 9] = -1
        shots.append(np.clip(np.round(picture + rng.normal(0, 11, picture.shape)), 0, 255).astype(np.uint8))
        for index, cell in enumerate(cells):
            whole = np.pi * cell.radius**2
            if discs[index].any():
                seen = float((owner == index).sum() / whole)
                rows.append((moment, cell.number, cell.x, cell.y, cell.radius, seen))
        for cell in cells:
            cell.move(rng)
        cells = [c for c in cells if -8 < c.x < WIDTH + 8 and -8 < c.y < HEIGHT + 8]
    table = pd.DataFrame(rows, columns=["frame", "cell", "x", "y", "radius", "seen"])
    return np.stack(shots), table.round({"x": 3, "y": 3, "radius": 3, "seen": 3})


@dataclass
class _Cell:
    number: int
    x: float
    y: float
    vx: float
    vy: float
    radius: float
    brightness: float

    @classmethod
    def born(cls, rng: Any, number: int, *, anywhere: bool) -> "_Cell":
        """In the picture, or at its left or right edge on the way in."""
        angle, pace = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 2.6)
        vx, vy = pace * np.cos(angle), 0.6 * pace * np.sin(angle)
        if anywhere:
            x = rng.uniform(6, WIDTH - 6)
        else:
            x = -5.0 if vx > 0 else WIDTH + 5.0
            vx = np.copysign(max(abs(vx), 0.8), vx)
        return cls(
            number, x, rng.uniform(8, HEIGHT - 8), vx, vy, rng.uniform(3.5, 6.5), rng.uniform(105, 200)
        )

    def move(self, rng: Any) -> None:
        self.x += self.vx
        self.y += self.vy
        self.vx += rng.normal(0, 0.12)
        self.vy += rng.normal(0, 0.12)
        if self.y < 4 or self.y > HEIGHT - 4:
            self.vy = np.copysign(self.vy, HEIGHT / 2 - self.y)
