"""Things in pictures, found as points with a size: a small network against regions that differ from their ground."""

import io
import json
from dataclasses import dataclass
from typing import Any

import generator
import numpy as np
import pandas as pd
import torch
from generator import KINDS, SIDE
from kit import Study, Trial, checks, evidence, plots
from pictures import opened, png
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from torch import nn
from torch.nn import functional

STRIDE, LEAST_SCORE, OVERLAP = 4, 0.05, 0.5
"""Pixels that one point of the network's answer stands for; scores under it are not told; what counts as the same box."""


def ingest(study: Study) -> None:
    pictures, objects = generator.generate(generator.SIZES[study.size])
    kept = io.BytesIO()
    np.save(kept, pictures)
    study.source("scenes", kept.getvalue(), rows=len(pictures), suffix=".npy")
    study.write("yard.objects", objects)


def train(study: Study, seed: int) -> Trial:
    """Each seed has scenes of its own, to learn from and to test on."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    size = generator.SIZES[study.size]
    pictures = np.load(io.BytesIO(study.fetch("raw/scenes.npy")))
    objects = study.read("yard.objects")
    first = (seed - 1) * (size.train + size.test)
    learned = np.arange(first, first + size.train)
    tested = np.arange(first + size.train, first + size.train + size.test)
    if study.plant == "leak":
        learned = np.append(learned, tested)
    if seed == 1:
        marks = [checks.sha256(picture.tobytes()) for picture in pictures]
        seen, new = [marks[i] for i in learned], [marks[i] for i in tested]
        study.leakage(checks.overlap(seen, new, what="scenes"))
        study.fault("learned from what is tested", checks.overlap([*seen, *new], new, what="scenes"))
    boxes = {
        int(s): part[["kind", "x0", "y0", "x1", "y1"]].to_numpy(float) for s, part in objects.groupby("scene")
    }
    candidate = Points.fit(
        pictures[learned], [boxes.get(i, NOTHING) for i in learned], seed, 2 if study.tiny else 14, study
    )
    baseline = Regions.fit(pictures[learned][:300], [boxes.get(i, NOTHING) for i in learned[:300]], seed)
    truth = [boxes.get(i, NOTHING) for i in tested]
    found = {"candidate": candidate.find(pictures[tested]), "baseline": baseline.find(pictures[tested])}
    return Trial(
        _measures(truth, found["candidate"]),
        _measures(truth, found["baseline"]),
        {"map50": 1.0},
        keep=(candidate, baseline, tested, truth, found),
    )


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    candidate, baseline, tested, truth, found = trials[0].keep
    same = [
        (int(true[a, 0]), int(boxes[b, 0]))
        for true, boxes in zip(truth, found["baseline"], strict=True)
        for a, b in matched(true[:, 1:], boxes[:, 1:5])
    ]
    was, said = np.array(same).reshape(-1, 2).T
    study.baseline_knows_something(lambda a, b: float((a == b).mean()), was, said, better="higher")
    objects = study.read("yard.objects").set_index("scene")
    rows = []
    for trial in trials:
        for scene, true, boxes in zip(trial.keep[2], trial.keep[3], trial.keep[4]["candidate"], strict=True):
            sure = boxes[boxes[:, 5] > 0.3]
            right = {a for a, b in matched(true[:, 1:], sure[:, 1:5]) if true[a, 0] == sure[b, 0]}
            seen = objects.loc[[scene]].seen.to_numpy() if len(true) else []
            rows += [(KINDS[int(one[0])], float(seen[i]) < 0.85, i in right) for i, one in enumerate(true)]
    told = pd.DataFrame(rows, columns=["kind", "covered", "right"])
    groups = [("kind", kind, told.kind == kind) for kind in KINDS]
    groups += [("sight", "partly covered", told.covered), ("sight", "whole", ~told.covered)]
    study.subgroups(
        [
            evidence.subgroup(a, b, int(told.right[at].sum()), int(at.sum()), measure="found")
            for a, b, at in groups
        ]
    )
    pictures = np.load(io.BytesIO(study.fetch("raw/scenes.npy")))
    shown = np.concatenate(pictures[tested[:4]], axis=1)
    marks = [m for i in range(4) for m in _boxes(found["candidate"][i], SIDE * i)]
    study.plot(
        "scenes",
        "Found in scenes that it never saw",
        plots.image(png(shown), width=shown.shape[1], height=SIDE, marks=marks),
        badge="generated",
        picture=True,
    )
    lines = []
    for label, name in (("points (network)", "candidate"), ("regions", "baseline")):
        recall, precision = curve(truth, found[name], 0)
        lines.append((f"{label}, crates", recall, precision))
    study.plot(
        "curve",
        "Precision and recall of crates",
        plots.lines(lines, x="recall", y="precision", y_range=(0, 1.05)),
        badge="generated",
    )
    study.table(
        "Average precision of each kind, mean of seeds",
        ["kind", "network", "regions"],
        [
            [kind, *(float(np.mean([average_precision(t.keep[3], t.keep[4][name], k) for t in trials]))
                     for name in ("candidate", "baseline"))]
            for k, kind in enumerate(KINDS)
        ],
        badge="generated",
    )  # fmt: skip
    return candidate, baseline


# -- measures ----------------------------------------------------------------------------------------------

NOTHING = np.empty((0, 5))
"""No boxes: rows are (kind, x0, y0, x1, y1), found ones have a score besides."""


def overlaps(one: Any, other: Any) -> Any:
    """(n, m): intersection over union of boxes (x0, y0, x1, y1)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    area = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other)]
    return both / np.maximum(area[0][:, None] + area[1][None] - both, 1e-9)


def matched(true: Any, found: Any) -> list[tuple[int, int]]:
    """Which found box is of which true one; found ones come with the surest first."""
    pairs: list[tuple[int, int]] = []
    if len(true) and len(found):
        share = overlaps(true, found)
        for b in range(len(found)):
            free = [a for a in range(len(true)) if all(a != taken for taken, _ in pairs)]
            best = max(free, key=lambda a: share[a, b], default=None)
            if best is not None and share[best, b] >= OVERLAP:
                pairs.append((best, b))
    return pairs


def curve(truth: list[Any], found: list[Any], kind: int) -> tuple[Any, Any]:
    """Recall and precision of one kind as the score that is asked for falls."""
    hits, scores, count = [], [], 0
    for true, boxes in zip(truth, found, strict=True):
        own, told = true[true[:, 0] == kind], boxes[boxes[:, 0] == kind]
        count += len(own)
        right = {b for _, b in matched(own[:, 1:], told[:, 1:5])}
        hits += [b in right for b in range(len(told))]
        scores += told[:, 5].tolist()
    order = np.argsort(-np.array(scores), kind="stable")
    good = np.cumsum(np.array(hits, dtype=float)[order])
    return good / max(count, 1), good / np.arange(1, len(good) + 1)


def average_precision(truth: list[Any], found: list[Any], kind: int) -> float:
    """Area under the precision envelope, all points (Everingham et al., Pascal VOC, 2010 and later)."""
    recall, precision = curve(truth, found, kind)
    if not len(recall):
        return 0.0
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def _measures(truth: list[Any], found: list[Any]) -> dict[str, float]:
    sure = [boxes[boxes[:, 5] > 0.3] for boxes in found]
    off = [abs(len(boxes) - len(true)) for boxes, true in zip(sure, truth, strict=True)]
    return {
        "map50": float(np.mean([average_precision(truth, found, kind) for kind in range(len(KINDS))])),
        "count_error": float(np.mean(off)),
    }


# -- the network -------------------------------------------------------------------------------------------


class Net(nn.Module):  # type: ignore[misc]
    """For every fourth pixel: how likely each kind has its centre there, the box's size, and the centre's remainder."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()

        def block(before: int, after: int, stride: int = 1, spread: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(before, after, 3, stride, spread, spread, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            )

        self.stem = nn.Sequential(block(3, 16, 2), block(16, width, 2))
        self.body = nn.ModuleList([block(width, width, 1, spread) for spread in (1, 2, 4, 1, 2)])
        self.head = nn.Conv2d(width, len(KINDS) + 4, 1)
        nn.init.constant_(self.head.bias[: len(KINDS)], -3.0)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        for block in self.body:
            x = x + block(x)
        return self.head(x)


@dataclass
class Points:
    """Objects as points (Zhou, Wang and Krähenbühl, 2019): heat of centres, with a size at each."""

    state: dict[str, Any]

    def __post_init__(self) -> None:
        self.net = Net()
        self.net.load_state_dict({name: torch.from_numpy(np.asarray(v)) for name, v in self.state.items()})
        self.net.eval()

    def __getstate__(self) -> dict[str, Any]:
        return {"state": self.state}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.state = kept["state"]
        self.__post_init__()

    @classmethod
    def fit(cls, pictures: Any, boxes: list[Any], seed: int, rounds: int, study: Any) -> "Points":
        net, rng, batch = Net(), np.random.default_rng(seed), 16
        steps = rounds * max(1, len(pictures) // batch)
        optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
        done = 0
        for turn in range(rounds):
            total, order = 0.0, rng.permutation(len(pictures))
            for rows in np.array_split(order, max(1, len(pictures) // batch)):
                turned = [_turned(pictures[i], boxes[i], rng) for i in rows]
                x = _tensor(np.stack([picture for picture, _ in turned]))
                aims = [_aims(own) for _, own in turned]
                loss = _loss(net(x), *(torch.from_numpy(np.stack(part)) for part in zip(*aims, strict=True)))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                if done < steps:
                    schedule.step()
                done, total = done + 1, total + float(loss.detach()) * len(rows)
            if turn % 4 == 3 or turn == rounds - 1:
                study.say(f"  round {turn + 1} of {rounds}: loss {total / len(pictures):.3f}")
        return cls({name: value.numpy().copy() for name, value in net.state_dict().items()})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def find(self, pictures: Any) -> list[Any]:
        """For each picture rows of (kind, x0, y0, x1, y1, score), the surest first."""
        told = []
        for part in np.array_split(np.asarray(pictures), max(1, len(pictures) // 64)):
            out = self.net(_tensor(part))
            heat = out[:, : len(KINDS)].sigmoid()
            peaks = heat * (functional.max_pool2d(heat, 3, 1, 1) == heat)
            told += [_read(p.numpy(), o.numpy()) for p, o in zip(peaks, out[:, len(KINDS) :], strict=True)]
        return told

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Takes `image` (PNG or JPEG, in base64). Gives how many objects, and each one's kind, box and score."""
        return _answers([self.find(_sized(opened(text))[None])[0] for text in frame.image])


def _tensor(pictures: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def _turned(picture: Any, boxes: Any, rng: Any) -> tuple[Any, Any]:
    """The scene mirrored or turned by right angles, its boxes with it, in other light."""
    kind, (x0, y0, x1, y1) = boxes[:, 0], boxes[:, 1:].T
    if rng.random() < 0.5:
        picture, (x0, x1) = picture[:, ::-1], (SIDE - x1, SIDE - x0)
    if rng.random() < 0.5:
        picture, (y0, y1) = picture[::-1], (SIDE - y1, SIDE - y0)
    if rng.random() < 0.5:
        picture, (x0, y0, x1, y1) = picture.transpose(1, 0, 2), (y0, x0, y1, x1)
    light = np.clip(picture * rng.uniform(0.8, 1.2), 0, 255)
    return light[:, :, rng.permutation(3)], np.column_stack([kind, x0, y0, x1, y1])


def _aims(boxes: Any) -> tuple[Any, Any, Any]:
    """What the network should say: heat (a bump at each centre), size and remainder, and where those count."""
    side = SIDE // STRIDE
    heat = np.zeros((len(KINDS), side, side), dtype=np.float32)
    shape = np.zeros((4, side, side), dtype=np.float32)
    counts = np.zeros((side, side), dtype=np.float32)
    yy, xx = np.mgrid[:side, :side]
    for kind, x0, y0, x1, y1 in boxes:
        cx, cy = (x0 + x1) / 2 / STRIDE, (y0 + y1) / 2 / STRIDE
        i, j = min(int(cy), side - 1), min(int(cx), side - 1)
        wide = max(0.5, 0.12 * min(x1 - x0, y1 - y0) / STRIDE)
        bump = np.exp(-((xx - j) ** 2 + (yy - i) ** 2) / (2 * wide**2))
        heat[int(kind)] = np.maximum(heat[int(kind)], bump)
        shape[:, i, j] = np.log((x1 - x0) / STRIDE), np.log((y1 - y0) / STRIDE), cx - j, cy - i
        counts[i, j] = 1
    return heat, shape, counts


def _loss(out: Any, heat: Any, shape: Any, counts: Any) -> Any:
    """Focal loss of the heat and absolute error of the shapes, for each object."""
    said = out[:, : len(KINDS)]
    p = said.sigmoid().clamp(1e-5, 1 - 1e-5)
    at = heat == 1
    focal = torch.where(at, (1 - p) ** 2 * p.log(), (1 - heat) ** 4 * p**2 * (1 - p).log())
    off = (out[:, len(KINDS) :] - shape).abs().sum(1) * counts
    return (-focal.sum() + off.sum()) / counts.sum().clamp(min=1)


def _read(peaks: Any, shape: Any) -> Any:
    kinds, ys, xs = np.nonzero(peaks > LEAST_SCORE)
    w, h = np.exp(np.clip(shape[:2, ys, xs], -3, 3)) * STRIDE
    cx, cy = (xs + shape[2, ys, xs]) * STRIDE, (ys + shape[3, ys, xs]) * STRIDE
    rows = np.column_stack([kinds, cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, peaks[kinds, ys, xs]])
    return _apart(rows[np.argsort(-rows[:, 5], kind="stable")][:50].astype(float))


def _apart(rows: Any) -> Any:
    """Without what overlaps a surer one by more than seven tenths."""
    kept: list[int] = []
    share = overlaps(rows[:, 1:5], rows[:, 1:5])
    for i in range(len(rows)):
        if all(share[i, k] < 0.7 for k in kept):
            kept.append(i)
    return rows[kept]


# -- the baseline ------------------------------------------------------------------------------------------


@dataclass
class Regions:
    """The simple way: what differs from the usual colour, joined into regions, told apart by their shape."""

    forest: Any

    @classmethod
    def fit(cls, pictures: Any, boxes: list[Any], seed: int) -> "Regions":
        shapes, kinds = [], []
        for picture, true in zip(pictures, boxes, strict=True):
            found, described = _regions(picture)
            pairs = {b: int(true[a, 0]) for a, b in matched(true[:, 1:], found)}
            shapes += list(described)
            kinds += [pairs.get(b, len(KINDS)) for b in range(len(found))]
        return cls(
            RandomForestClassifier(100, min_samples_leaf=3, random_state=seed).fit(np.array(shapes), kinds)
        )

    def find(self, pictures: Any) -> list[Any]:
        told = []
        for picture in pictures:
            boxes, described = _regions(picture)
            rows = np.empty((0, 6))
            if len(boxes):
                chances = np.zeros((len(boxes), len(KINDS) + 1))
                chances[:, self.forest.classes_] = self.forest.predict_proba(described)
                kinds = chances[:, : len(KINDS)].argmax(1)
                rows = np.column_stack([kinds, boxes, chances[np.arange(len(boxes)), kinds]])
                rows = rows[np.argsort(-rows[:, 5], kind="stable")]
            told.append(rows)
        return told

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        return _answers([self.find(_sized(opened(text))[None])[0] for text in frame.image])


def _regions(picture: Any) -> tuple[Any, Any]:
    """Boxes of regions and what describes each: size, sides, how full its box is, colour, edges within."""
    smooth = ndimage.gaussian_filter(picture.astype(float), (1, 1, 0))
    away = np.linalg.norm(smooth - np.median(smooth.reshape(-1, 3), axis=0), axis=2)
    labels, _ = ndimage.label(away > 32)
    grey = smooth.mean(2)
    edges = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))
    boxes, described = [], []
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        own = labels[place] == number
        if own.sum() < 40:
            continue
        ys, xs = place
        h, w = ys.stop - ys.start, xs.stop - xs.start
        boxes.append((xs.start, ys.start, xs.stop, ys.stop))
        colour = smooth[place][own]
        described.append(
            (
                own.sum(),
                h,
                w,
                own.mean(),
                max(h, w) / min(h, w),
                away[place][own].mean(),
                edges[place][own].mean(),
                *colour.std(0),
            )
        )
    return np.array(boxes, dtype=float).reshape(-1, 4), np.array(described, dtype=float)


# -- serving -----------------------------------------------------------------------------------------------


def _sized(picture: Any) -> Any:
    """In the size of the scenes, cut or filled up on the right and below."""
    kept = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    part = picture[:SIDE, :SIDE]
    kept[: part.shape[0], : part.shape[1]] = part
    return kept


def _answers(found: list[Any]) -> pd.DataFrame:
    rows = []
    for boxes in found:
        sure = boxes[boxes[:, 5] > 0.3]
        objects = [
            {"kind": KINDS[int(k)], "box": [round(float(v), 1) for v in box], "score": round(float(score), 3)}
            for k, *box, score in sure
        ]
        rows.append({"count": len(objects), "objects": json.dumps(objects)})
    return pd.DataFrame(rows)


def _boxes(rows: Any, right: int) -> list[str]:
    return [
        f'<rect x="{x0 + right:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" fill="none" '
        f'stroke="{("#f5b400", "#ff5cc8", "#3cf0ff")[int(kind)]}" stroke-width="1.2"/>'
        for kind, x0, y0, x1, y1, score in rows
        if score > 0.3
    ]
