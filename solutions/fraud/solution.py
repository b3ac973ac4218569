"""Card fraud: features as they were known when each payment was asked for, labels a week late, checks by cost."""

from dataclasses import dataclass
from typing import Any

import duckdb
import generator
import lightgbm as lgb
import numpy as np
import pandas as pd
from kit import Study, Trial, checks, evidence, plots
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, precision_recall_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

DELAY = 7
"""Days until it is known whether a payment was fraud."""
WARM_UP, TEST_DAYS, VALIDATION_DAYS = 37, 20, 14
CHECK = 10.0
"""What looking into one payment costs; a missed fraud costs its amount."""
KEEP = 0.25
"""Share of honest payments that models are fitted on; they count for the others, too."""


def ingest(study: Study) -> None:
    frame = generator.generate(generator.SIZES[study.size])
    study.source_frame("payments", frame)
    study.write("bank.payments", frame)


def transform(study: Study) -> None:
    payments = study.pristine("bank.payments")
    study.write("bank.features", features(payments))


def features(payments: pd.DataFrame, *, ahead: str = "CURRENT ROW") -> pd.DataFrame:
    """What was known when each payment was asked for. `ahead` lets a planted fault look into the future."""
    windows = []
    for days in (1, 7, 30):
        card = f"OVER (PARTITION BY customer ORDER BY moment RANGE BETWEEN INTERVAL {days} DAYS PRECEDING AND {ahead})"
        place = (
            f"OVER (PARTITION BY terminal ORDER BY moment RANGE BETWEEN INTERVAL {days + DELAY} DAYS PRECEDING "
            f"AND INTERVAL {DELAY} DAYS PRECEDING)"
        )
        windows += [
            f"count(*) {card} AS card_payments_{days}d",
            f"avg(amount) {card} AS card_amount_{days}d",
            f"count(*) {place} AS terminal_payments_{days}d",
            f"coalesce(avg(fraud) {place}, 0) AS terminal_risk_{days}d",
        ]
    sql = (
        "SELECT payment, moment, day, customer, fraud, oracle, kind, amount, "
        "(hour(moment) < 6)::INT AS night, (dayofweek(moment) IN (0, 6))::INT AS weekend, "
        f"amount / card_amount_30d AS amount_against_usual, * EXCLUDE (payment, moment, day, customer, terminal, "
        f"fraud, oracle, kind, amount) FROM (SELECT *, {', '.join(windows)} FROM payments) ORDER BY payment"
    )
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        connection.register("payments", payments)
        return connection.sql(sql).df()


NOT_FEATURES = ["payment", "moment", "day", "customer", "fraud", "oracle", "kind"]


def train(study: Study, seed: int) -> Trial:
    """Each seed is an origin of its own: trained on what was known on a day, tested on the days that follow."""
    frame = _read(study)
    split = _split(study, frame, seed)
    fitted, held, test = (frame[mask] for mask in split)
    columns = [c for c in frame.columns if c not in NOT_FEATURES]
    sample = fitted[(fitted.fraud == 1) | (np.random.default_rng(seed).random(len(fitted)) < KEEP)]
    weight = np.where(sample.fraud == 1, 1.0, 1 / KEEP)
    candidate = Trees.fit(sample[columns], sample.fraud, weight, held[columns], held.fraud, seed)
    baseline = Line.fit(sample[columns], sample.fraud, weight, held[columns], held.fraud)
    scores = {"candidate": candidate.probability(test), "baseline": baseline.probability(test)}
    measured = {
        role: _measures(study, test, p, model.threshold)
        for (role, p), model in zip(scores.items(), (candidate, baseline), strict=True)
    }
    oracle = {"ap": average_precision_score(test.fraud, test.oracle)}
    if seed == study.seeds[-1]:
        study.leakage(checks.in_order(fitted["moment"], test["moment"]))
    keep = (candidate, baseline, test, scores, held)
    return Trial(measured["candidate"], measured["baseline"], oracle, keep)


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    candidate, baseline, test, scores, held = trials[-1].keep
    p, y = scores["candidate"], test.fraud.to_numpy()
    study.labels_are_the_sources()
    columns = [*candidate.columns, "fraud"]
    study.no_single_feature(test[columns], "fraud", limit=0.95)
    study.baseline_knows_something(average_precision_score, y, scores["baseline"], better="higher")
    _look_ahead(study, int(test.day.min()))

    band = pd.qcut(
        test.groupby("customer").amount.transform("mean"), 3, labels=["little", "middling", "much"]
    )
    found = p >= candidate.threshold
    study.subgroups(
        [
            evidence.subgroup(
                "card spends", str(g), int((found & inside).sum()), int(inside.sum()), measure="frauds found"
            )
            for g in band.cat.categories
            for inside in [((band == g) & (test.fraud == 1)).to_numpy()]
        ]
    )
    study.table(
        "Which frauds are found at the operating point",
        ["kind", "frauds", "found", "of which by logistic regression"],
        [
            [
                kind,
                int(inside.sum()),
                float(found[inside].mean()),
                float((scores["baseline"][inside] >= baseline.threshold).mean()),
            ]
            for kind in ("amount", "terminal", "card")
            for inside in [(test.kind == kind).to_numpy()]
        ],
        badge="generated",
    )
    _drift(study, candidate, held, test)
    _draw(study, test, scores, candidate)
    return candidate, baseline


def _read(study: Study) -> pd.DataFrame:
    """As table, once a process: it is large and every seed wants it."""
    if not hasattr(study, "frame"):
        study.frame = study.read("bank.features")
    return study.frame


def _split(study: Study, frame: pd.DataFrame, seed: int) -> tuple[Any, Any, Any]:
    length = 6 if study.tiny else TEST_DAYS
    first = int(frame.day.max()) + 1 - length * (len(study.seeds) + 1 - seed)
    known = first - DELAY
    held = max(known - VALIDATION_DAYS, WARM_UP + 1)
    day = frame.day
    return (
        (day >= WARM_UP) & (day < held),
        (day >= held) & (day < known),
        (day >= first) & (day < first + length),
    )


def _measures(study: Study, test: pd.DataFrame, p: Any, threshold: float) -> dict[str, float]:
    stopped = p >= threshold
    lost = test.amount[(test.fraud == 1) & ~stopped].sum()
    return {
        "ap": average_precision_score(test.fraud, p),
        "cards": _cards(test, p, 10 if study.tiny else 100),
        "saved": float(1 - (lost + CHECK * stopped.sum()) / test.amount[test.fraud == 1].sum()),
    }


def _cards(test: pd.DataFrame, p: Any, checked: int) -> float:
    """Of so many cards looked at each day, those of the highest scores: how many had fraud that day."""
    cards = test.assign(p=p).groupby(["day", "customer"]).agg(p=("p", "max"), fraud=("fraud", "max"))
    top = cards.sort_values("p", ascending=False, kind="stable").groupby("day").head(checked)
    return float(top.groupby("day").fraud.sum().mean())


def _threshold(p: Any, y: Any, amount: Any) -> float:
    """That of least cost: order by probability, and add up what each cut would cost."""
    order = np.argsort(-p, kind="stable")
    lost = (amount * y).sum() - np.cumsum((amount * y)[order])
    best = int(np.argmin(lost + CHECK * np.arange(1, len(p) + 1)))
    return float(p[order][best])


@dataclass
class Model:
    model: Any
    columns: list[str]
    threshold: float

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        p = self.probability(frame)
        return pd.DataFrame(
            {
                "probability": p,
                "decision": np.where(p >= self.threshold, "look into it", "let it pass").astype(object),
                "expected_loss": p * frame["amount"].to_numpy(dtype=float),
                "reasons": self.reasons(frame),
            }
        )

    def probability(self, frame: pd.DataFrame) -> Any:
        raise NotImplementedError

    def weights(self, frame: pd.DataFrame) -> Any:
        raise NotImplementedError

    def reasons(self, frame: pd.DataFrame) -> list[str]:
        """The two features that raised each payment's score the most."""
        return [", ".join(self.columns[i] for i in np.argsort(-row)[:2]) for row in self.weights(frame)]


class Trees(Model):
    @classmethod
    def fit(cls, x: pd.DataFrame, y: Any, weight: Any, held: pd.DataFrame, held_y: Any, seed: int) -> "Trees":
        settings = {
            "objective": "binary",
            "learning_rate": 0.05,
            "num_leaves": 31,
            "min_data_in_leaf": 200 if len(x) > 50_000 else 20,
            "feature_fraction": 0.8,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": 5.0,
            "metric": "average_precision",
            "num_threads": 1,
            "seed": seed,
            "deterministic": True,
            "verbosity": -1,
        }
        data = lgb.Dataset(x, y, weight=weight)
        stop = lgb.early_stopping(30, verbose=False)
        booster = lgb.train(
            settings, data, 300, valid_sets=[lgb.Dataset(held, held_y, reference=data)], callbacks=[stop]
        )
        made = cls(booster, list(x.columns), 0.5)
        made.threshold = _threshold(made.probability(held), held_y.to_numpy(), held["amount"].to_numpy())
        return made

    def probability(self, frame: pd.DataFrame) -> Any:
        return self.model.predict(frame[self.columns], num_threads=1)

    def weights(self, frame: pd.DataFrame) -> Any:
        return self.model.predict(frame[self.columns], pred_contrib=True, num_threads=1)[:, :-1]


class Line(Model):
    @classmethod
    def fit(cls, x: pd.DataFrame, y: Any, weight: Any, held: pd.DataFrame, held_y: Any) -> "Line":
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        made = cls(pipeline.fit(x, y, logisticregression__sample_weight=weight), list(x.columns), 0.5)
        made.threshold = _threshold(made.probability(held), held_y.to_numpy(), held["amount"].to_numpy())
        return made

    def probability(self, frame: pd.DataFrame) -> Any:
        return self.model.predict_proba(frame[self.columns])[:, 1]

    def weights(self, frame: pd.DataFrame) -> Any:
        return self.model[0].transform(frame[self.columns]) * self.model[1].coef_[0]


def _look_ahead(study: Study, day: int) -> None:
    """Features of one day, made with and without all that came after it; and those of a fault that looks ahead."""
    payments = study.pristine("bank.payments")
    past = payments[payments.day <= day]
    whole, cut = study.pristine("bank.features"), features(past)
    today = whole.day == day
    names = [c for c in cut.columns if c not in NOT_FEATURES]
    same = cut[cut.day == day][names].to_numpy(), whole[today][names].to_numpy()
    study.leakage(checks.truncation(same[1], same[0], what="a day's features"))
    seven = payments[(payments.day > day - 40) & (payments.day < day + 8)]
    ahead = "INTERVAL 1 DAYS FOLLOWING"
    seen, unseen = features(seven, ahead=ahead), features(seven[seven.day <= day], ahead=ahead)
    faulty = checks.truncation(
        seen[seen.day == day][names], unseen[unseen.day == day][names], what="a day's features"
    )
    study.fault("features that look a day ahead", faulty)


def _drift(study: Study, model: Any, held: pd.DataFrame, test: pd.DataFrame) -> None:
    """The alarm, week by week, against when the threshold was chosen; and with amounts raised by half."""
    raised = test.assign(**{c: test[c] * 1.5 for c in ("amount", "amount_against_usual")})
    weeks = (test.day - test.day.min()) // 7
    quiet = [_shift(model, held, test[weeks == w]) for w in sorted(weeks.unique())]
    loud = [_shift(model, held, raised[weeks == w]) for w in sorted(weeks.unique())]
    study.number("drift_quiet", max(quiet))
    study.number("drift_loud", min(loud))


def _shift(model: Any, before: pd.DataFrame, after: pd.DataFrame) -> float:
    """Population stability index, the larger of scores' and amounts'."""
    found = []
    for a, b in (
        (model.probability(before), model.probability(after)),
        (before.amount.to_numpy(), after.amount.to_numpy()),
    ):
        edges = np.unique(np.quantile(a, np.linspace(0, 1, 11)))[1:-1]
        p, q = (
            np.bincount(np.searchsorted(edges, v), minlength=len(edges) + 1) / len(v) + 1e-4 for v in (a, b)
        )
        found.append(float(((q - p) * np.log(q / p)).sum()))
    return max(found)


def _draw(study: Study, test: pd.DataFrame, scores: dict[str, Any], model: Any) -> None:
    y = test.fraud
    curves = []
    for name, p in (
        ("trees", scores["candidate"]),
        ("logistic regression", scores["baseline"]),
        ("oracle", test.oracle),
    ):
        precision, recall, _ = precision_recall_curve(y, p)
        curves.append((name, recall, precision))
    study.plot(
        "precision-recall",
        "Frauds found against alarms that are right",
        plots.lines(curves, x="frauds found", y="alarms that are right", y_range=(0, 1.02)),
        badge="generated",
        picture=True,
    )
    amounts = test.amount.to_numpy()
    days = test.day.nunique()
    costs = []
    for name, p in (("trees", scores["candidate"]), ("logistic regression", scores["baseline"])):
        order = np.argsort(-p, kind="stable")[: max(200, len(p) // 25)]
        at = np.arange(1, len(order) + 1)
        lost = (amounts * y).sum() - np.cumsum((amounts * y.to_numpy())[order])
        costs.append((name, at / days, (lost + CHECK * at) / days))
    study.plot(
        "cost",
        "What a day costs, by how many payments are looked into",
        plots.lines(costs, x="payments looked into per day", y="loss and checks per day"),
        badge="generated",
        caption=f"A check costs {CHECK:g}, a missed fraud its amount. Without any check the left end goes on.",
    )
    gain = model.model.feature_importance("gain")
    top = np.argsort(-gain)[:10]
    study.plot(
        "features",
        "What the trees look at",
        plots.bars(
            [(model.columns[i], float(gain[i] / gain.sum()), None, None) for i in top], x="share of the gain"
        ),
        badge="generated",
    )
