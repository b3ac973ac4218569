"""Faces: found and blurred in pictures; and held one against one, on drawn people, for lack of any that agreed."""

import base64
import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import generator
import numpy as np
import pandas as pd
from enrolment import Refused, Register
from kit import Study, Trial, checks, evidence, plots
from pictures import opened, png
from skimage import data
from skimage.feature import hog
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

MOST_WRONG = 0.01
"""The share of strangers that may be taken for the person; the threshold is set by it, on people of no other use."""


def ingest(study: Study) -> None:
    pictures, whose = generator.generate(generator.SIZES[study.size])
    kept = io.BytesIO()
    np.save(kept, pictures)
    study.source("drawn", kept.getvalue(), rows=len(pictures), suffix=".npy")
    study.write("faces.pictures", pd.DataFrame({"picture": np.arange(len(whose)), "person": whose}))
    study.write("faces.people", pd.DataFrame({"picture": np.arange(len(whose)), "person": whose}))
    crops = np.round(data.lfw_subset() * 255).astype(np.uint8)
    study.source("crops", crops.tobytes(), rows=len(crops), suffix=".raw")


def train(study: Study, seed: int) -> Trial:
    """Each seed has people of its own: half to learn from, a quarter to set the threshold by, a quarter to test."""
    size = generator.SIZES[study.size]
    pictures = np.load(io.BytesIO(study.fetch("raw/drawn.npy")))
    whose = study.read("faces.pictures").sort_values("picture").person.to_numpy()
    people = (seed - 1) * size.people + np.random.default_rng(seed).permutation(size.people)
    learned, judged, tested = np.split(people, [size.people // 2, size.people * 3 // 4])
    if study.plant == "leak":
        learned = np.append(learned, tested)
    if seed == 1:
        study.leakage(
            checks.overlap(learned, tested, what="people"),
            checks.overlap(judged, tested, what="people (threshold)"),
        )
        study.fault(
            "learned from people who are tested", checks.overlap([*learned, *tested], tested, what="people")
        )
    rows = {
        name: np.isin(whose, group)
        for name, group in (("learned", learned), ("judged", judged), ("tested", tested))
    }
    candidate = Templates.fit(pictures[rows["learned"]], whose[rows["learned"]])
    candidate.threshold = _threshold(*_pairs(candidate, pictures[rows["judged"]], whose[rows["judged"]]))
    baseline = Pixels(0.0)
    baseline.threshold = _threshold(*_pairs(baseline, pictures[rows["judged"]], whose[rows["judged"]]))
    told = {
        name: _pairs(model, pictures[rows["tested"]], whose[rows["tested"]])
        for name, model in (("candidate", candidate), ("baseline", baseline))
    }
    return Trial(
        _measures(*told["candidate"], candidate.threshold),
        _measures(*told["baseline"], baseline.threshold),
        {"tar": 1.0, "auc": 1.0},
        keep=(candidate, baseline, told),
    )


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    study.labels_are_the_sources()
    candidate, baseline, told = trials[0].keep
    study.baseline_knows_something(roc_auc_score, *told["baseline"], better="higher")
    study.leakage(*_register(candidate))
    crops = np.round(data.lfw_subset() * 255).astype(np.uint8)
    faces = [bool(len(found(_framed(crop)))) for crop in crops]
    for name, part in (("found", faces[:100]), ("mistaken", faces[100:])):
        share, low, high = evidence.proportion(sum(part), len(part))
        study.number(name, share, low=low, high=high)
    astronaut = data.astronaut()
    boxes = found(cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY))
    study.number("in_photograph", float(len(boxes)))
    blurred = hidden(astronaut, boxes)
    study.plot(
        "blurred",
        "Found and blurred",
        plots.image(png(cv2.resize(blurred, (256, 256))), width=256, height=256),
        caption="Eileen Collins, a photograph by NASA in the public domain, sample of scikit-image.",
    )
    truth = np.concatenate([t.keep[2]["candidate"][0] for t in trials])
    scores = np.concatenate([t.keep[2]["candidate"][1] for t in trials])
    study.plot(
        "scores",
        "How alike two pictures are said to be",
        plots.lines(
            [_density("the same person", scores[truth == 1]), _density("two people", scores[truth == 0])],
            x="alike", y="share of pairs",
        ),
        badge="generated",
        picture=True,
    )  # fmt: skip
    return candidate, baseline


def _density(label: str, values: Any) -> tuple[str, Any, Any]:
    count, edges = np.histogram(values, bins=40, range=(-1, 1))
    return label, (edges[:-1] + edges[1:]) / 2, count / max(count.sum(), 1)


def _register(model: Any) -> list[Any]:
    """The register in use, in a folder of its own: what it must refuse and what must be gone."""
    rng = np.random.default_rng(0)
    traits = rng.uniform(-1, 1, (2, generator.TRAITS))
    one, other = (model.vectors(generator.draw(t, rng)[None])[0] for t in traits)
    with tempfile.TemporaryDirectory() as folder:
        register = Register.opened(Path(folder), "a passphrase for this run only")
        refused = _refused(lambda: register.enrol("Ada", one, ""))
        register.enrol("Ada", one, "I agree to be verified at the door.")
        kept = b"".join(path.read_bytes() for path in Path(folder).iterdir())
        names = " ".join(path.name for path in Path(folder).iterdir())
        closer = register.verify("Ada", one) > register.verify("Ada", other)
        stranger = _refused(lambda: register.verify("Grace", one))
        wrong = _refused(lambda: Register.opened(Path(folder), "another passphrase than that"))
        secret = b"Ada" not in kept and b"agree" not in kept and "Ada" not in names
        gone = register.forget("Ada") and len(list(Path(folder).glob("*.face"))) == 0
    told = (
        ("no enrolment without consent", refused, "an enrolment without words of consent is refused"),
        (
            "templates are unreadable without the key",
            secret and wrong,
            "no name, consent or template is legible; another passphrase is refused",
        ),
        (
            "one against one",
            closer and stranger,
            "asked about one named person; who is not enrolled is refused",
        ),
        ("forgotten", gone, "nothing is left of who was forgotten"),
    )
    return [
        {"name": name, "passed": bool(held), "said": said if held else f"does not hold: {said}"}
        for name, held, said in told
    ]


def _refused(what: Any) -> bool:
    try:
        what()
    except Refused:
        return True
    return False


# -- verifying ---------------------------------------------------------------------------------------------


def _pairs(model: Any, pictures: Any, whose: Any) -> tuple[Any, Any]:
    """Every two pictures of one person and some of two: whether they are one person's, and how alike they are said to be."""
    vectors = model.vectors(pictures)
    a, b = np.triu_indices(len(whose), 1)
    same = whose[a] == whose[b]
    others = np.flatnonzero(~same)
    most = min(len(others), 20 * int(same.sum()))
    keep = np.concatenate(
        [np.flatnonzero(same), np.random.default_rng(0).choice(others, most, replace=False)]
    )
    return same[keep].astype(int), np.einsum("ij,ij->i", vectors[a[keep]], vectors[b[keep]])


def _threshold(truth: Any, scores: Any) -> float:
    return float(np.quantile(scores[truth == 0], 1 - MOST_WRONG))


def _measures(truth: Any, scores: Any, threshold: float) -> dict[str, float]:
    return {
        "tar": float((scores[truth == 1] >= threshold).mean()),
        "far": float((scores[truth == 0] >= threshold).mean()),
        "auc": float(roc_auc_score(truth, scores)),
    }


class Verifier:
    threshold: float

    def vectors(self, pictures: Any) -> Any:
        """(pictures, n): of length 1; alike is their product."""
        raise NotImplementedError

    def template(self, text: str) -> Any:
        """The vector of the face in a picture file in base64; of the whole picture when none is found."""
        grey = cv2.cvtColor(opened(text), cv2.COLOR_RGB2GRAY)
        boxes = found(grey)
        if len(boxes):
            x, y, w, h = max(boxes, key=lambda box: box[2] * box[3])
            grey = grey[y : y + h, x : x + w]
        return self.vectors(cv2.resize(grey, (generator.SIDE, generator.SIDE))[None])[0]

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Takes `image` and, to be held against it, `other` (PNG or JPEG in base64, or empty).

        Gives faces found in `image`, `image` with them blurred, and whether both show the same person.
        """
        rows = []
        for image, other in zip(frame.image, frame.other, strict=True):
            picture = opened(image)
            boxes = found(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
            alike = float(self.template(image) @ self.template(other)) if other else 0.0
            rows.append(
                {
                    "count": len(boxes),
                    "faces": json.dumps([[int(v) for v in box] for box in boxes]),
                    "blurred": _base64(png(hidden(picture, boxes))),
                    "alike": round(alike, 4),
                    "same": ("yes" if alike >= self.threshold else "no") if other else "not asked",
                }
            )
        return pd.DataFrame(rows)


@dataclass
class Templates(Verifier):
    """Directions of edges, in the few dimensions that tell the learned people apart the best."""

    scale: Any
    apart: Any
    threshold: float

    @classmethod
    def fit(cls, pictures: Any, whose: Any) -> "Templates":
        edges = _edges(pictures)
        scale = PCA(min(120, len(edges) - 1), random_state=0).fit(edges)
        apart = LinearDiscriminantAnalysis(
            solver="eigen", shrinkage="auto", n_components=min(40, len(set(whose)) - 1)
        )
        return cls(scale, apart.fit(scale.transform(edges), whose), 0.0)

    def vectors(self, pictures: Any) -> Any:
        return _unit(self.apart.transform(self.scale.transform(_edges(pictures))))


@dataclass
class Pixels(Verifier):
    """The simple way: how alike the brightness of all pixels is."""

    threshold: float

    def vectors(self, pictures: Any) -> Any:
        flat = pictures.reshape(len(pictures), -1).astype(float)
        return _unit(flat - flat.mean(1, keepdims=True))


def _edges(pictures: Any) -> Any:
    return np.array(
        [hog(p, orientations=8, pixels_per_cell=(8, 8), cells_per_block=(2, 2)) for p in pictures]
    )


def _unit(vectors: Any) -> Any:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


# -- finding and hiding ------------------------------------------------------------------------------------


def found(grey: Any) -> Any:
    """Boxes (x, y, width, height) of faces seen from the front, by OpenCV's cascade (Viola and Jones, 2001)."""
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"))
    return list(
        cascade.detectMultiScale(
            np.ascontiguousarray(grey), scaleFactor=1.1, minNeighbors=5, minSize=(30, 30)
        )
    )


def hidden(picture: Any, boxes: Any) -> Any:
    """The picture with the boxes blurred beyond knowing whose they are."""
    kept = picture.copy()
    for x, y, w, h in boxes:
        part = kept[y : y + h, x : x + w]
        coarse = cv2.resize(part, (6, 6), interpolation=cv2.INTER_AREA)
        kept[y : y + h, x : x + w] = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR)
    return kept


def _framed(crop: Any) -> Any:
    """A crop of 25 pixels, four times as large, with grey around it."""
    large = cv2.resize(crop, (100, 100), interpolation=cv2.INTER_CUBIC)
    return cv2.copyMakeBorder(large, 50, 50, 50, 50, cv2.BORDER_CONSTANT, value=int(crop.mean()))


def _base64(file: bytes) -> str:
    return base64.b64encode(file).decode()
