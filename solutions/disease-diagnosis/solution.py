"""Breast tumours told apart by the nuclei of a fine-needle aspirate: calibrated, costed, and able to abstain."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from kit import Study, Trial, checks, evidence, plots
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score, roc_curve
from sklearn.model_selection import (
    RepeatedStratifiedKFold,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    train_test_split,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

MISS, ALARM, REVIEW = 20.0, 1.0, 0.5
"""What a missed cancer, a needless biopsy and a second reading cost, in needless biopsies."""
HELD_OUT = 0.3
PUBLISHED = ["worst_area", "worst_smoothness", "mean_texture"]


def ingest(study: Study) -> None:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in data.feature_names]
    frame = pd.DataFrame(data.data, columns=names)
    # scikit-learn codes malignant as 0; here the event of interest is 1.
    frame = frame.assign(malignant=1 - data.target).rename_axis("patient").reset_index()
    study.source_frame("wdbc", frame)
    study.write("clinic.patients", frame)


def transform(study: Study) -> None:
    """The nuclei's sizes are skewed: logarithms make them linear in the log odds. Bands are for subgroups only."""
    frame = study.pristine("clinic.patients")
    skewed = [c for c in frame if c.endswith(("_area", "_radius", "_perimeter")) or "_error" in c]
    features = frame.assign(**{c: np.log1p(frame[c]) for c in skewed})
    features["size_band"] = pd.qcut(frame["mean_radius"], 3, labels=["small", "middle", "large"]).astype(str)
    features["texture_band"] = pd.qcut(frame["mean_texture"], 3, labels=["smooth", "middle", "rough"]).astype(
        str
    )
    study.write("clinic.features", features)


def train(study: Study, seed: int) -> Trial:
    x, y, _ = _read(study)
    train_rows, test_rows = train_test_split(
        np.arange(len(y)), test_size=HELD_OUT, stratify=y, random_state=seed
    )
    study.overlap = HELD_OUT / (1 - HELD_OUT)
    if seed == 1:
        study.leakage(checks.overlap(train_rows, test_rows, what="patients"))
    candidate = Diagnosis.fit(x.iloc[train_rows], y[train_rows], list(x.columns), seed)
    baseline = Diagnosis.fit(
        x.iloc[train_rows], y[train_rows], [_strongest(x.iloc[train_rows], y[train_rows])], seed
    )
    p, q = (model.probability(x.iloc[test_rows]) for model in (candidate, baseline))
    truth = y[test_rows]
    return Trial(
        {"auc": roc_auc_score(truth, p), "brier": brier_score_loss(truth, p), **candidate.costs(p, truth)},
        {"auc": roc_auc_score(truth, q), "brier": brier_score_loss(truth, q), **baseline.costs(q, truth)},
        keep=(truth, q),
    )


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    x, y, bands = _read(study)
    study.labels_are_the_sources()
    study.no_single_feature(x.assign(malignant=y), "malignant", limit=0.99)
    truth, answers = trials[0].keep
    study.baseline_knows_something(roc_auc_score, truth, answers, better="higher")
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    p = cross_val_predict(_pipeline(), x, y, cv=folds, method="predict_proba")[:, 1]
    one = _strongest(x, y)
    q = cross_val_predict(_pipeline(), x[[one]], y, cv=folds, method="predict_proba")[:, 1]
    whole = Diagnosis.fit(x, y, list(x.columns), 0)
    simple = Diagnosis.fit(x, y, [one], 0)

    fitted = evidence.calibration(p, y)
    slope, low, high = evidence.bootstrap(lambda a, b: evidence.calibration(a, b)["slope"], p, y, rounds=200)
    study.number("calibration_slope", slope, low=low, high=high)
    study.number("calibration_error", fitted["error"])
    repeats = RepeatedStratifiedKFold(n_splits=10, n_repeats=1 if study.tiny else 5, random_state=0)
    accuracies = cross_val_score(_pipeline(), x[PUBLISHED], y, cv=repeats)
    study.number("published_accuracy", float(accuracies.mean()))
    study.number("accuracy", accuracy_score(y, p >= 0.5))

    told = whole.decide(p)
    rows = []
    for label, column in (("nuclei's size", "size_band"), ("texture", "texture_band")):
        for group in sorted(bands[column].unique()):
            inside = (bands[column] == group).to_numpy() & (y == 1)
            rows.append(
                evidence.subgroup(
                    label,
                    group,
                    int((told[inside] != "benign").sum()),
                    int(inside.sum()),
                    measure="sensitivity",
                )
            )
    study.subgroups(rows)
    _draw(study, y, p, q, fitted)
    counts = pd.crosstab(np.where(y == 1, "malignant", "benign"), told)
    study.table(
        "What it says of whom (each patient predicted by a model that has not seen them)",
        ["truth", *counts.columns],
        [[name, *row] for name, row in zip(counts.index, counts.to_numpy().tolist(), strict=True)],
    )
    return whole, simple


@dataclass
class Diagnosis:
    """A calibrated model with an operating point chosen by cost, and a band in which it asks for a second reading."""

    model: Any
    features: list[str]
    low: float
    high: float

    @classmethod
    def fit(cls, x: pd.DataFrame, y: Any, features: list[str], seed: int) -> "Diagnosis":
        """The band is that of least cost over probabilities of patients the model has not seen."""
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        p = cross_val_predict(_pipeline(), x[features], y, cv=folds, method="predict_proba")[:, 1]
        grid = np.unique(np.round(np.geomspace(0.005, 0.95, 60), 4))
        best = min(
            ((low, high) for low in grid for high in grid[grid >= low]), key=lambda band: _cost(p, y, *band)
        )
        return cls(_pipeline().fit(x[features], y), features, float(best[0]), float(best[1]))

    def probability(self, x: pd.DataFrame) -> Any:
        return self.model.predict_proba(x[self.features])[:, 1]

    def decide(self, p: Any) -> Any:
        return np.where(p < self.low, "benign", np.where(p >= self.high, "malignant", "second reading"))

    def costs(self, p: Any, y: Any) -> dict[str, float]:
        told = self.decide(p)
        return {
            "cost": _cost(p, y, self.low, self.high),
            "sensitivity": float((told[y == 1] != "benign").mean()),
            "specificity": float((told[y == 0] == "benign").mean()),
            "second_readings": float((told == "second reading").mean()),
        }

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Takes the measurements as they are measured; gives probability, decision and the weightiest reasons."""
        x = frame.copy()
        for column in x:
            if str(column).endswith(("_area", "_radius", "_perimeter")) or "_error" in str(column):
                x[column] = np.log1p(x[column])
        p = self.probability(x)
        weights = self.model[-1].coef_[0] * self.model[0].transform(x[self.features])
        reasons = []
        for row in np.atleast_2d(weights):
            top = np.argsort(-np.abs(row))[:3]
            reasons.append(
                ", ".join(f"{self.features[i]} {'raises' if row[i] > 0 else 'lowers'} it" for i in top)
            )
        return pd.DataFrame({"probability": p, "decision": self.decide(p).astype(object), "reasons": reasons})


def _read(study: Study) -> tuple[pd.DataFrame, Any, pd.DataFrame]:
    frame = study.read("clinic.features")
    bands = frame[["size_band", "texture_band"]]
    return (
        frame.drop(columns=["patient", "malignant", "size_band", "texture_band"]),
        frame["malignant"].to_numpy(),
        bands,
    )


def _pipeline() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))


def _strongest(x: pd.DataFrame, y: Any) -> str:
    return max(x.columns, key=lambda c: abs(roc_auc_score(y, x[c]) - 0.5))


def _cost(p: Any, y: Any, low: float, high: float) -> float:
    """Per patient, in needless biopsies."""
    missed = ((p < low) & (y == 1)).sum() * MISS
    alarms = ((p >= high) & (y == 0)).sum() * ALARM
    return float((missed + alarms + ((p >= low) & (p < high)).sum() * REVIEW) / len(y))


def _draw(study: Study, y: Any, p: Any, q: Any, fitted: dict[str, Any]) -> None:
    rates = [(name, *roc_curve(y, s)[:2]) for name, s in (("all measurements", p), ("one measurement", q))]
    study.plot(
        "roc",
        "Who is found against who is alarmed",
        plots.lines(rates, x="healthy alarmed", y="cancers found", diagonal=True),
        picture=True,
    )
    curve = fitted["curve"]
    study.plot(
        "calibration",
        "Can its probabilities be taken at their word?",
        plots.lines(
            [("model", [c["said"] for c in curve], [c["was"] for c in curve])],
            bands=[([c["said"] for c in curve], [c["low"] for c in curve], [c["high"] for c in curve])],
            x="probability said",
            y="share that was malignant",
            diagonal=True,
            markers=True,
        ),
        caption="Bands: Wilson 95 % intervals of groups of equal size.",
    )
    at = np.linspace(0.01, 0.6, 60)
    benefit = {
        name: [float(((s >= t) & (y == 1)).mean() - ((s >= t) & (y == 0)).mean() * t / (1 - t)) for t in at]
        for name, s in (("model", p), ("one measurement", q), ("biopsy everybody", np.ones_like(p)))
    }
    study.plot(
        "decision",
        "Decision curve: is acting on it worth more than biopsying everybody?",
        plots.lines(
            [(name, at, found) for name, found in benefit.items()],
            x="threshold probability",
            y="net benefit per patient",
            y_range=(-0.05, 0.4),
        ),
        caption="Net benefit after Vickers and Elkin (Medical Decision Making 26, 2006).",
    )
