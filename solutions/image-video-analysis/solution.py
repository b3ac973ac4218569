"""Cells in pictures and video, found, counted and followed: a model of motion against the nearest neighbour."""

import io
import itertools
import json
from dataclasses import dataclass
from typing import Any

import generator
import numpy as np
import pandas as pd
from kit import Study, Trial, checks, evidence, plots
from pictures import opened, png
from scipy import ndimage, optimize
from skimage import data, feature, filters, segmentation

RADIUS, COIN_RADIUS, COINS = 5.0, 22.0, 24
"""Pixels that a cell's and a coin's radius has, about; and how many coins lie in the picture."""
TONE, MIXED, BESIDE, GROWN = 12.0, 80.0, 0.3, 0.3
"""By how much the tone (0 to 255) of one and the same thing differs from frame to frame, about; by how much more, and by
which part of its radius the middle of what shows is off, when it is almost hidden; and the usual growth of its area's
logarithm, when it touches another. Chosen on other videos of the generator than the source's."""
NEAR = 6.0
"""A place found within this many pixels of the true one is of that cell."""


def ingest(study: Study) -> None:
    frames, truth = generator.generate(generator.SIZES[study.size])
    kept = io.BytesIO()
    np.save(kept, frames)
    study.source("video", kept.getvalue(), rows=len(frames), suffix=".npy")
    study.write("lab.truth", truth)
    study.source("coins", np.ascontiguousarray(data.coins()).tobytes(), rows=1, suffix=".raw")


def transform(study: Study) -> None:
    """Every place that either way of finding gives, in every frame."""
    videos = np.load(io.BytesIO(study.fetch("raw/video.npy")))
    rows = []
    for video, frames in enumerate(videos):
        for frame, picture in enumerate(frames):
            for method, find in (("candidate", separated), ("baseline", thresholded)):
                rows += [(video, frame, method, *place) for place in places(find(picture, RADIUS), picture)]
    columns = ["video", "frame", "method", "x", "y", "tone", "area"]
    study.write("lab.found", pd.DataFrame(rows, columns=columns).round(3))


def train(study: Study, seed: int) -> Trial:
    """Each seed has videos of its own: the way of following is chosen on half of them and tested on the rest."""
    size = generator.SIZES[study.size]
    truth, found = study.read("lab.truth"), study.read("lab.found")
    own = range((seed - 1) * size.videos, seed * size.videos)
    chosen_on, tested = list(own[: size.videos // 2]), list(own[size.videos // 2 :])
    if study.plant == "leak":
        chosen_on += tested
    if seed == 1:
        study.leakage(checks.overlap(chosen_on, tested, what="videos"))
        study.fault("chosen on what is tested", checks.overlap([*chosen_on, *tested], tested, what="videos"))
    clips = {video: Clip.of(video, truth, found) for video in sorted({*chosen_on, *tested})}
    grid = [Motion(*terms) for terms in itertools.product((4.0, 5.0), (12, 20), (0.15, 0.3))]
    rule = max(grid, key=lambda one: identity([clips[v].measured("candidate", one) for v in chosen_on]))
    measured = {
        "candidate": [clips[v].measured("candidate", rule) for v in tested],
        "baseline": [clips[v].measured("baseline", NEAREST) for v in tested],
        "oracle": [clips[v].known() for v in tested],
    }
    return Trial(
        {"idf1": identity(measured["candidate"]), "count_error": _miscounted(clips, tested, "candidate")},
        {"idf1": identity(measured["baseline"]), "count_error": _miscounted(clips, tested, "baseline")},
        {"idf1": identity(measured["oracle"])},
        keep=(rule, [clips[v] for v in tested]),
    )


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    rules = [t.keep[0] for t in trials]
    rule = max(set(rules), key=rules.count)
    clips = [clip for t in trials for clip in t.keep[1]]
    cells, tracks = (
        np.concatenate(a) for a in zip(*(c.pairs("baseline", NEAREST) for c in clips), strict=True)
    )
    study.baseline_knows_something(agreement, cells, tracks, better="higher")
    coins = data.coins()
    counted = {find: places(find(coins, COIN_RADIUS), coins) for find in (separated, thresholded)}
    study.number("coins", float(len(counted[separated])))
    study.number("coins_simple", float(len(counted[thresholded])))
    study.subgroups(_kept(clips, rule))
    study.plot(
        "coins",
        f"{len(counted[separated])} coins found; there are {COINS}",
        plots.image(
            png(coins),
            width=coins.shape[1],
            height=coins.shape[0],
            marks=_rings(counted[separated], COIN_RADIUS),
        ),
        badge="real",
        caption="Coins from Pompeii, a sample of scikit-image.",
    )
    videos = np.load(io.BytesIO(study.fetch("raw/video.npy")))
    clip = clips[0]
    study.plot(
        "paths",
        "Followed through a video, past a bar that hides them",
        plots.image(
            png(videos[clip.video, -1]),
            width=generator.WIDTH,
            height=generator.HEIGHT,
            marks=_paths(clip, rule),
        ),
        badge="generated",
        picture=True,
    )
    roles = (
        ("nearest neighbour", "baseline"),
        ("motion and assignment", "candidate"),
        ("knows who is who", "oracle"),
    )
    bars = [
        (label, float(np.mean([getattr(t, role)["idf1"] for t in trials])), None, None)
        for label, role in roles
    ]
    study.plot("idf1", "Identities kept (IDF1)", plots.bars(bars, x="1 is perfect"), badge="generated")
    study.table(
        "Rule of following, chosen by each seed",
        ["seed", "gate", "frames waited", "agility", "IDF1"],
        [[i, r.gate, r.patience, r.agility, t.candidate["idf1"]]
         for i, (r, t) in enumerate(zip(rules, trials, strict=True), 1)],
        badge="generated",
    )  # fmt: skip
    return Follower(rule, simple=False), Follower(NEAREST, simple=True)


# -- finding -----------------------------------------------------------------------------------------------


def separated(picture: Any, radius: float) -> Any:
    """Labels of bright things: their ground taken away, what touches cut apart along its narrows."""
    smooth = ndimage.gaussian_filter(np.asarray(picture, dtype=float), radius / 4)
    side = int(4 * radius) | 1
    ground = ndimage.gaussian_filter(ndimage.grey_opening(smooth, size=(side, side)), radius)
    above = smooth - ground
    mask = ndimage.binary_fill_holes(above > 0.8 * filters.threshold_otsu(above))
    inward = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), radius / 5)
    peaks = feature.peak_local_max(
        inward, min_distance=max(2, round(0.7 * radius)), threshold_abs=0.35 * radius,
        labels=mask.astype(int), exclude_border=False,
    )  # fmt: skip
    markers = np.zeros(mask.shape, dtype=int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return segmentation.watershed(-inward, markers, mask=mask)


def thresholded(picture: Any, radius: float) -> Any:
    """Labels by one threshold for the whole picture."""
    smooth = ndimage.gaussian_filter(np.asarray(picture, dtype=float), radius / 4)
    return ndimage.label(smooth > filters.threshold_otsu(smooth))[0]


def places(labels: Any, picture: Any) -> list[tuple[float, float, float, float]]:
    """(x, y, tone, area) of each label; specks of less than a sixth of the usual area are left out."""
    areas = np.bincount(labels.ravel())
    if len(areas) < 2:
        return []
    usual = float(np.median(areas[1:][areas[1:] > 4])) if (areas[1:] > 4).any() else 0.0
    kept = [label for label in range(1, len(areas)) if areas[label] > max(4.0, usual / 6)]
    if not kept:
        return []
    centres = ndimage.center_of_mass(labels > 0, labels, kept)
    tones = ndimage.median(picture, labels, kept)
    return [
        (float(x), float(y), float(tone), float(areas[i]))
        for i, (y, x), tone in zip(kept, centres, tones, strict=True)
    ]


# -- following ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Motion:
    """How to follow: how many deviations off (in place and tone) is too far, frames to wait, how quickly things turn."""

    gate: float
    patience: int
    agility: float
    nearest: bool = False


NEAREST = Motion(10.0, 1, 0.0, nearest=True)
"""The simple way: the nearest place of the last frame, within ten pixels."""


class Track:
    """Position and speed with their uncertainty (a Kalman filter, the same for both axes), the usual tone and area."""

    def __init__(self, number: int, found: Any) -> None:
        self.number, self.at, self.speed, self.missed = number, np.array(found[:2]), np.zeros(2), 0
        self.spread, self.tone, self.area = np.diag([4.0, 4.0]), float(found[2]), float(found[3])
        self.doubt = 15.0**2

    def ahead(self, agility: float) -> None:
        self.at = self.at + self.speed
        step = np.array([[1.0, 1.0], [0.0, 1.0]])
        noise = agility**2 * np.array([[0.25, 0.5], [0.5, 1.0]])
        self.spread = step @ self.spread @ step.T + noise

    def off(self, found: Any) -> tuple[Any, Any, Any]:
        """How many deviations off each place (n, 4) is, and the variances of its position and of its tone.

        Of a thing that is partly hidden, what shows is smaller, beside its middle, and mixed with what hides it.
        """
        hidden = 1 - np.minimum(found[:, 3] / self.area, 1)
        place = 1.0 + (BESIDE * hidden) ** 2 * self.area / np.pi
        tone = TONE**2 + (MIXED * hidden) ** 2
        away = ((found[:, :2] - self.at) ** 2).sum(1) / (self.spread[0, 0] + place)
        other = (found[:, 2] - self.tone) ** 2 / (self.doubt + tone)
        grown = np.log(np.maximum(found[:, 3] / self.area, 1)) / GROWN
        return np.sqrt(away + other + grown**2), place, tone

    def seen(self, found: Any, place: float, tone: float) -> None:
        gain = self.spread[:, 0] / (self.spread[0, 0] + place)
        off = found[:2] - self.at
        self.at, self.speed = self.at + gain[0] * off, self.speed + gain[1] * off
        self.spread = self.spread - np.outer(gain, self.spread[0])
        share = self.doubt / (self.doubt + tone)
        self.tone += share * (float(found[2]) - self.tone)
        self.doubt = max((1 - share) * self.doubt, 3.0**2)
        self.area += (0.3 if found[3] > self.area else 0.05) * (float(found[3]) - self.area)
        self.missed = 0


def follow(frames: list[Any], rule: Motion) -> list[Any]:
    """For each frame's places (n, 4: x, y, tone, area) the numbers of their tracks."""
    tracks: list[Track] = []
    told, count = [], 0
    for found in frames:
        for track in tracks:
            if not rule.nearest:
                track.ahead(rule.agility)
        numbers = np.full(len(found), -1)
        for t, f, *doubts in _paired(tracks, found, rule):
            numbers[f] = tracks[t].number
            if rule.nearest:
                tracks[t].at, tracks[t].missed = found[f][:2], 0
            else:
                tracks[t].seen(found[f], *doubts)
        held = set(numbers.tolist())
        for track in tracks:
            track.missed += track.number not in held
        tracks = [track for track in tracks if track.missed <= rule.patience]
        for f in np.flatnonzero(numbers < 0):
            tracks.append(Track(count, found[f]))
            numbers[f], count = count, count + 1
        told.append(numbers)
    return told


def _paired(tracks: list[Track], found: Any, rule: Motion) -> list[tuple[Any, ...]]:
    """(track, place) by number; of a rule with motion also the variances of the place's position and tone."""
    if not tracks or not len(found):
        return []
    found = np.asarray(found)
    if rule.nearest:
        away = np.linalg.norm(np.array([t.at for t in tracks])[:, None] - found[None, :, :2], axis=2)
        return list(_greedy(away, rule.gate))
    cost, place, tone = (np.array(a) for a in zip(*(t.off(found) for t in tracks), strict=True))
    rows, columns = optimize.linear_sum_assignment(np.minimum(cost, 3 * rule.gate))
    return [
        (int(t), int(f), float(place[t, f]), float(tone[t, f]))
        for t, f in zip(rows, columns, strict=True)
        if cost[t, f] <= rule.gate
    ]


def _greedy(away: Any, gate: float) -> list[tuple[int, int]]:
    pairs, taken_t, taken_f = [], set(), set()
    for index in np.argsort(away, axis=None):
        t, f = divmod(int(index), away.shape[1])
        if away[t, f] > gate:
            break
        if t not in taken_t and f not in taken_f:
            pairs.append((t, f))
            taken_t.add(t)
            taken_f.add(f)
    return pairs


# -- measuring ---------------------------------------------------------------------------------------------


@dataclass
class Clip:
    """One video: who is where in each frame, and what either way found there."""

    video: int
    cells: list[Any]
    at: list[Any]
    hidden: list[Any]
    found: dict[str, list[Any]]

    @classmethod
    def of(cls, video: int, truth: pd.DataFrame, found: pd.DataFrame) -> "Clip":
        own = truth[truth.video == video]
        seen = own[own.seen >= generator.SEEN]
        unseen = own[own.seen < generator.SEEN]
        frames = range(int(own.frame.max()) + 1)

        def each(rows: pd.DataFrame, columns: Any) -> list[Any]:
            by = {frame: part[columns].to_numpy() for frame, part in rows.groupby("frame")}
            empty = rows[columns].to_numpy()[:0]
            return [by.get(frame, empty) for frame in frames]

        here = found[found.video == video]
        return cls(
            video,
            each(seen, "cell"),
            each(seen, ["x", "y"]),
            each(unseen, ["x", "y"]),
            {m: each(here[here.method == m], ["x", "y", "tone", "area"]) for m in ("candidate", "baseline")},
        )

    def matches(self, method: str) -> list[list[tuple[int, int]]]:
        """For each frame, which true cell (by row) each found place is of, one to one."""
        told = []
        for at, found in zip(self.at, self.found[method], strict=True):
            pairs = []
            if len(at) and len(found):
                away = np.linalg.norm(at[:, None] - found[None, :, :2], axis=2)
                rows, columns = optimize.linear_sum_assignment(np.minimum(away, 5 * NEAR))
                pairs = [(int(a), int(b)) for a, b in zip(rows, columns, strict=True) if away[a, b] <= NEAR]
            told.append(pairs)
        return told

    def pairs(self, method: str, rule: Motion) -> tuple[Any, Any]:
        """The true cell and the track of every place that is of a cell; numbers are the video's own."""
        tracks = follow(self.found[method], rule)
        both = [
            (self.video * 1000 + int(self.cells[f][a]), self.video * 1000 + int(tracks[f][b]))
            for f, pairs in enumerate(self.matches(method))
            for a, b in pairs
        ]
        cells, followed = np.array(both).reshape(-1, 2).T
        return cells, followed

    def measured(self, method: str, rule: Motion) -> tuple[int, int, int]:
        """(places whose track is their cell's, true places, found places) under the best naming of tracks."""
        cells, tracks = self.pairs(method, rule)
        return _named(cells, tracks), sum(map(len, self.cells)), self._counted(method)

    def known(self) -> tuple[int, int, int]:
        """As `measured`, of the candidate's places linked by who knows which cell each is of."""
        right = sum(map(len, self.matches("candidate")))
        return right, sum(map(len, self.cells)), right

    def _counted(self, method: str) -> int:
        """Found places, without those of cells that are there but almost hidden: they count neither way."""
        count = 0
        for matched, found, hidden in zip(self.matches(method), self.found[method], self.hidden, strict=True):
            own = {b for _, b in matched}
            near = (
                (np.linalg.norm(found[:, None, :2] - hidden[None], axis=2) <= NEAR).any(1)
                if len(found) and len(hidden)
                else np.zeros(len(found), dtype=bool)
            )
            count += sum(b in own or not near[b] for b in range(len(found)))
        return count


def identity(measured: list[tuple[int, int, int]]) -> float:
    """IDF1 (Ristani et al., ECCV 2016 workshops): places with the right identity, over the mean of true and found."""
    right, true, found = np.sum(measured, axis=0)
    return float(2 * right / max(true + found, 1))


def agreement(cells: Any, tracks: Any) -> float:
    """Share of places whose track is that of their cell, under the best one-to-one naming."""
    return _named(cells, tracks) / max(len(cells), 1)


def _named(cells: Any, tracks: Any) -> int:
    if not len(cells):
        return 0
    _, a = np.unique(cells, return_inverse=True)
    _, b = np.unique(tracks, return_inverse=True)
    table = np.zeros((a.max() + 1, b.max() + 1), dtype=int)
    np.add.at(table, (a, b), 1)
    rows, columns = optimize.linear_sum_assignment(-table)
    return int(table[rows, columns].sum())


def _miscounted(clips: dict[int, Clip], videos: list[int], method: str) -> float:
    """How many cells too many or too few are counted in a frame, on average."""
    off = [
        abs(len(found) - len(cells))
        for video in videos
        for found, cells in zip(clips[video].found[method], clips[video].cells, strict=True)
    ]
    return float(np.mean(off))


def _kept(clips: list[Clip], rule: Motion) -> list[Any]:
    """Of cells seen in ten frames or more, how many one track follows for four fifths of the way."""
    rows = []
    for clip in clips:
        cells, tracks = clip.pairs("candidate", rule)
        for cell in np.unique(cells):
            own = tracks[cells == cell]
            frames = [f for f, names in enumerate(clip.cells) if cell % 1000 in names]
            if len(frames) >= 10:
                whole = max(np.unique(own, return_counts=True)[1]) >= 0.8 * len(frames)
                rows.append((len(frames) < frames[-1] - frames[0] + 1, whole))
    found = pd.DataFrame(rows, columns=["hidden", "whole"])
    return [
        evidence.subgroup("cells", label, int(part.whole.sum()), len(part), measure="followed whole")
        for label, part in (
            ("hidden for a while", found[found.hidden]),
            ("always in sight", found[~found.hidden]),
        )
    ]


# -- showing and serving -----------------------------------------------------------------------------------


def _rings(found: Any, radius: float) -> list[str]:
    return [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius * 0.8:.1f}" fill="none" stroke="#f5b400" stroke-width="2"/>'
        for x, y, *_ in found
    ]


def _paths(clip: Clip, rule: Motion) -> list[str]:
    paths: dict[int, list[str]] = {}
    for found, numbers in zip(clip.found["candidate"], follow(clip.found["candidate"], rule), strict=True):
        for (x, y, *_), number in zip(found, numbers, strict=True):
            paths.setdefault(int(number), []).append(f"{x:.1f},{y:.1f}")
    return [
        f'<polyline points="{" ".join(points)}" fill="none" '
        f'stroke="{plots.COLOURS[i % len(plots.COLOURS)]}" stroke-width="1.2"/>'
        for i, points in enumerate(paths.values())
        if len(points) > 2
    ]


@dataclass
class Follower:
    """Takes `image` (PNG, JPEG or animated GIF, in base64) and `radius`, about how many pixels a thing's radius has."""

    rule: Motion
    simple: bool

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame([self._one(*row) for row in zip(frame.image, frame.radius, strict=True)])

    def _one(self, image: str, radius: Any) -> dict[str, Any]:
        size = float(np.clip(float(radius), 2.0, 200.0))
        find = thresholded if self.simple else separated
        found = [places(find(shot, size), shot) for shot in opened(image)]
        scale = RADIUS / size
        told = follow(
            [np.array(one).reshape(-1, 4) * [scale, scale, 1, scale**2] for one in found], self.rule
        )
        tracks: dict[int, list[Any]] = {}
        for moment, (one, numbers) in enumerate(zip(found, told, strict=True)):
            for (x, y, *_), number in zip(one, numbers, strict=True):
                tracks.setdefault(int(number), []).append([moment, round(x, 1), round(y, 1)])
        return {
            "frames": len(found),
            "count": len(found[0]),
            "followed": len(tracks),
            "paths": json.dumps(list(tracks.values())),
        }
