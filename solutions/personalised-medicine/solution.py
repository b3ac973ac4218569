"""Whom does a treatment help? A trial's survival model, and effects on patients whose truth is known."""

from dataclasses import dataclass
from typing import Any

import generator
import numpy as np
import pandas as pd
from econml.dml import CausalForestDML, LinearDML
from kit import Study, Trial, checks, evidence, plots
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import SplineTransformer, StandardScaler

BENT = ("age", "marker", "kidney")
FEATURES = ["age", "severity", "marker", "kidney", "sex", "centre"]
LEAST, MOST = 0.05, 0.95
"""Patients whose chance of being treated lies outside are not judged: nobody like them had the other option."""


def ingest(study: Study) -> None:
    from lifelines.datasets import load_gbsg2

    trial = load_gbsg2().rename_axis("patient").reset_index()
    study.source_frame("gbsg2", trial)
    study.write("trial.gbsg2", trial)
    patients = generator.generate(generator.SIZES[study.size])
    study.source_frame("patients", patients)
    study.write("clinic.treated", patients)


def transform(study: Study) -> None:
    """Only what a clinic would have: the true effect and chance stay behind, for judging alone."""
    patients = study.pristine("clinic.treated")
    study.write("clinic.observed", patients[["patient", *FEATURES, "treated", "outcome"]])


def train(study: Study, seed: int) -> Trial:
    """A third of the patients is held out; what is estimated for them is held against what is true of them."""
    frame, truth = _read(study)
    rng = np.random.default_rng(seed)
    test = np.isin(np.arange(len(frame)), rng.permutation(len(frame))[: len(frame) // 3])
    study.overlap = 0.5
    curves = Curves.fit(frame[~test], seed)
    learner = TwoModels.fit(frame[~test], seed)
    real = truth[test]
    told, simple = curves.effect(frame[test]), learner.effect(frame[test])
    low, high = curves.between(frame[test])
    if seed == 1:
        study.leakage(checks.overlap(frame.patient[~test], frame.patient[test], what="patients"))
    mean, mean_low, mean_high = curves.average(frame[test])
    return Trial(
        {
            "pehe": _pehe(real, told),
            "policy": float(np.where(told > 0, real, 0).mean()),
            "coverage": float(((real >= low) & (real <= high)).mean()),
            "average": mean,
            "average_error": abs(mean - real.mean()),
        },
        {
            "pehe": _pehe(real, simple),
            "policy": float(np.where(simple > 0, real, 0).mean()),
            "average_error": abs(simple.mean() - real.mean()),
        },
        {"pehe": 0.0, "policy": float(np.maximum(real, 0).mean()), "average_error": 0.0},
        keep=(test, told, simple, low, high, (mean_low, mean_high)),
    )


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    frame, truth = _read(study)
    study.labels_are_the_sources()
    used = [c for c in frame if c not in ("patient", "treated")]
    study.no_single_feature(frame[used], "outcome", limit=0.95, kind="number")
    test, told, simple, low, high, _ = trials[0].keep
    study.baseline_knows_something(_pehe, truth[test], simple, better="lower")
    treated = frame.treated == 1
    study.number("naive", float(frame.outcome[treated].mean() - frame.outcome[~treated].mean()))
    study.number("true_average", float(truth.mean()))
    _placebo(study, frame)
    other = Curves.fit(frame[~test], 1, forest=48 if study.tiny else 400)
    low_f, high_f = other.between(frame[test])
    study.number("forest_pehe", _pehe(truth[test], other.effect(frame[test])))
    study.number("forest_coverage", float(((truth[test] >= low_f) & (truth[test] <= high_f)).mean()))
    chance = cross_val_predict(_propensity(), frame[FEATURES], frame.treated, cv=3, method="predict_proba")[
        :, 1
    ]
    study.number("overlap", float(((chance > LEAST) & (chance < MOST)).mean()))
    held = (truth[test] >= low) & (truth[test] <= high)
    part = frame[test]
    groups = {
        ("age", "under 60"): part.age < 60,
        ("age", "60 to 75"): part.age.between(60, 75),
        ("age", "over 75"): part.age > 75,
        ("sex", "0"): part.sex == 0,
        ("sex", "1"): part.sex == 1,
        ("marker", "low"): part.marker < -0.5,
        ("marker", "high"): part.marker > 0.5,
    }
    study.subgroups(
        [
            evidence.subgroup(
                label,
                g,
                int(held[m.to_numpy()].sum()),
                int(m.sum()),
                measure="true effect within its interval",
            )
            for (label, g), m in groups.items()
        ]
    )
    _survival(study)
    study.plot(
        "effects",
        "True effect of each patient not trained on, and what is estimated",
        plots.points(
            [("two models", truth[test], simple), ("curves", truth[test], told)],
            x="true effect",
            y="estimated",
            diagonal=True,
        ),
        badge="generated",
        picture=True,
    )
    order = np.argsort(-told)
    shares = np.linspace(0.02, 1, 50)
    gains = {
        name: np.cumsum(truth[test][np.argsort(-key)]) / test.sum()
        for name, key in (("curves", told), ("two models", simple), ("oracle", truth[test]))
    }
    cuts = (shares * len(order)).astype(int) - 1
    study.plot(
        "policy",
        "What treating the first so many would gain per patient",
        plots.lines(
            [(name, shares, g[cuts]) for name, g in gains.items()], x="share treated", y="gain per patient"
        ),
        badge="generated",
    )
    study.plot(
        "overlap",
        "Chance of being treated",
        plots.histogram(chance, x="estimated from what doctors saw", marks=[("5 %", LEAST), ("95 %", MOST)]),
        badge="generated",
    )
    whole = Curves.fit(frame, 0)
    whole.chance = _propensity().fit(frame[FEATURES], frame.treated)
    return whole, Average.fit(frame)


def _read(study: Study) -> tuple[pd.DataFrame, Any]:
    frame = study.read("clinic.observed")
    truth = study.pristine("clinic.treated", ["patient", "effect"]).set_index("patient").effect
    return frame, truth.reindex(frame.patient).to_numpy()


def _pehe(truth: Any, told: Any) -> float:
    """Root mean square error of each patient's effect."""
    return float(np.sqrt(np.mean((np.asarray(truth) - np.asarray(told)) ** 2)))


def _columns(frame: pd.DataFrame) -> list[str]:
    return [c for c in (*FEATURES, "planted_leak") if c in frame]


def _curves(columns: list[str]) -> Any:
    def at(*names: str) -> list[int]:
        return [columns.index(name) for name in names]

    rest = [i for i, c in enumerate(columns) if c == "planted_leak"]
    return ColumnTransformer(
        [
            ("bent", SplineTransformer(n_knots=5, degree=1, knots="quantile", include_bias=False), at(*BENT)),
            ("straight", StandardScaler(), at("severity") + rest),
        ]
    )


def _propensity() -> Any:
    return GradientBoostingClassifier(n_estimators=60, max_depth=2, learning_rate=0.1, random_state=0)


@dataclass
class Curves:
    """Double machine learning: what is left of outcome and treatment once features explain them, the effect a line in
    age, marker and kidney function that bends at quantiles. Its intervals are those of least squares.
    """

    model: Any
    columns: list[str]
    chance: Any = None

    @classmethod
    def fit(cls, frame: pd.DataFrame, seed: int, *, forest: int = 0) -> "Curves":
        """With `forest` trees: a causal forest in place of the curves."""
        columns = _columns(frame)
        settings = {
            "model_y": GradientBoostingRegressor(
                n_estimators=80, max_depth=3, learning_rate=0.1, random_state=seed
            ),
            "model_t": _propensity(),
            "discrete_treatment": True,
            "cv": 5,
            "mc_iters": 2,
            "random_state": seed,
        }
        if forest:
            model = CausalForestDML(n_estimators=forest, min_samples_leaf=5, n_jobs=1, **settings)
        else:
            model = LinearDML(featurizer=_curves(columns), **settings)
        model.fit(frame.outcome.to_numpy(), frame.treated.to_numpy(), X=frame[columns].to_numpy(dtype=float))
        return cls(model, columns)

    def effect(self, frame: pd.DataFrame) -> Any:
        return self.model.effect(frame[self.columns].to_numpy(dtype=float)).ravel()

    def between(self, frame: pd.DataFrame) -> tuple[Any, Any]:
        low, high = self.model.effect_interval(frame[self.columns].to_numpy(dtype=float), alpha=0.05)
        return low.ravel(), high.ravel()

    def average(self, frame: pd.DataFrame) -> tuple[float, float, float]:
        found = self.model.ate_inference(frame[self.columns].to_numpy(dtype=float))
        low, high = found.conf_int_mean()
        return float(np.ravel(found.mean_point)[0]), float(np.ravel(low)[0]), float(np.ravel(high)[0])

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        effect = self.effect(frame)
        low, high = self.between(frame)
        chance = self.chance.predict_proba(frame[FEATURES])[:, 1]
        judged = (chance > LEAST) & (chance < MOST)
        said = np.where(low > 0, "helps", np.where(high < 0, "harms", "unclear"))
        return pd.DataFrame(
            {
                "effect": effect,
                "low": low,
                "high": high,
                "reading": np.where(judged, said, "nobody like this patient had the other option").astype(
                    object
                ),
            }
        )


@dataclass
class TwoModels:
    """The T-learner: one model of the treated, one of the untreated, and their difference."""

    treated: Any
    untreated: Any
    columns: list[str]

    @classmethod
    def fit(cls, frame: pd.DataFrame, seed: int) -> "TwoModels":
        columns = _columns(frame)
        models = []
        for arm in (1, 0):
            part = frame[frame.treated == arm]
            models.append(
                GradientBoostingRegressor(n_estimators=150, max_depth=3, random_state=seed).fit(
                    part[columns], part.outcome
                )
            )
        return cls(*models, columns)

    def effect(self, frame: pd.DataFrame) -> Any:
        return self.treated.predict(frame[self.columns]) - self.untreated.predict(frame[self.columns])


@dataclass
class Average:
    """The baseline that is served: the same effect for everybody, adjusted by a linear regression."""

    value: float

    @classmethod
    def fit(cls, frame: pd.DataFrame) -> "Average":
        model = LinearRegression().fit(frame[["treated", *FEATURES]], frame.outcome)
        return cls(float(model.coef_[0]))

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"effect": np.full(len(frame), self.value)})


def _placebo(study: Study, frame: pd.DataFrame) -> None:
    """With the treatment dealt out at random within strata of who was treated, there is no effect to be found."""
    rng = np.random.default_rng(3)
    chance = cross_val_predict(_propensity(), frame[FEATURES], frame.treated, cv=3, method="predict_proba")[
        :, 1
    ]
    untreated, chance = frame[frame.treated == 0], chance[frame.treated.to_numpy() == 0]
    found = []
    for draw in range(2 if study.tiny else 3):
        dealt = untreated.assign(treated=(rng.random(len(untreated)) < chance).astype(int))
        found.append(Curves.fit(dealt, draw).average(dealt)[0])
    study.number("placebo", found)


def _survival(study: Study) -> None:
    """The trial: Cox's model on all covariates, as published; and how well it ranks, cross-validated."""
    from lifelines import CoxPHFitter, KaplanMeierFitter
    from lifelines.utils import concordance_index

    trial = study.pristine("trial.gbsg2")
    x = pd.DataFrame(
        {
            "hormone": (trial.horTh == "yes").astype(float),
            "age": trial.age.astype(float),
            "post": (trial.menostat == "Post").astype(float),
            "size": trial.tsize.astype(float),
            "grade2": (trial.tgrade == "II").astype(float),
            "grade3": (trial.tgrade == "III").astype(float),
            "nodes": trial.pnodes.astype(float),
            "progesterone": trial.progrec.astype(float),
            "estrogen": trial.estrec.astype(float),
            "time": trial.time.astype(float),
            "cens": trial.cens.astype(float),
        }
    )
    cox = CoxPHFitter().fit(x, "time", "cens")
    row = cox.summary.loc["hormone"]
    study.number(
        "hazard_ratio",
        float(np.exp(row["coef"])),
        low=float(row["exp(coef) lower 95%"]),
        high=float(row["exp(coef) upper 95%"]),
    )
    folds = np.random.default_rng(0).permutation(len(x)) % 5
    risk = np.zeros(len(x))
    for fold in range(5):
        part = CoxPHFitter(penalizer=0.01).fit(x[folds != fold], "time", "cens")
        risk[folds == fold] = part.predict_partial_hazard(x[folds == fold])
    value, low, high = evidence.bootstrap(
        lambda t, r, e: concordance_index(t, -r, e), x.time, risk, x.cens, rounds=20 if study.tiny else 200
    )
    study.number("concordance", value, low=low, high=high)
    curves = []
    thirds = pd.qcut(risk, 3, labels=["low", "middle", "high"])
    for name in ("low", "middle", "high"):
        fitted = KaplanMeierFitter().fit(x.time[thirds == name], x.cens[thirds == name])
        curve = fitted.survival_function_
        curves.append((f"{name} risk", curve.index.to_numpy() / 365.25, curve.iloc[:, 0].to_numpy()))
    study.plot(
        "survival",
        "The trial's patients without recurrence, by predicted risk",
        plots.lines(curves, x="years", y="share without recurrence", y_range=(0, 1.02)),
        caption="Each patient's risk is predicted by a model that has not seen them.",
    )
