"""Two risks: what a portfolio may lose tomorrow (real prices), and who may not pay back (generated applicants)."""

from dataclasses import dataclass
from typing import Any

import generator
import numpy as np
import pandas as pd
from kit import Study, Trial, checks, evidence, plots
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FEATURES = [
    "income",
    "age",
    "employed_years",
    "amount",
    "months",
    "late_payments",
    "credit_used",
    "inquiries",
    "burden",
]
RISES = {
    "late_payments": 1,
    "credit_used": 1,
    "inquiries": 1,
    "burden": 1,
    "income": -1,
    "employed_years": -1,
}
"""In which direction a feature may move the risk: what an applicant can be told must not be absurd."""
ACCEPT = 0.2
"""Applications with a higher risk are declined."""
WORDS = {
    "income": "income", "age": "age", "employed_years": "time in employment", "amount": "amount", "months": "duration",
    "late_payments": "late payments", "credit_used": "credit already used", "inquiries": "recent inquiries",
    "burden": "instalments against income",
}  # fmt: skip
TAIL, WINDOW = 0.01, 250


def ingest(study: Study) -> None:
    from arch.data import sp500

    prices = sp500.load()["Adj Close"].dropna()
    frame = pd.DataFrame({"date": pd.to_datetime(prices.index), "close": prices.to_numpy().round(6)})
    study.source_frame("sp500", frame)
    study.write("market.sp500", frame)
    applicants = generator.generate(generator.SIZES[study.size])
    study.source_frame("applicants", applicants)
    study.write("bank.applicants", applicants)


def transform(study: Study) -> None:
    """`group` and the oracle stay behind: the model must not see them; they are for judging."""
    frame = study.pristine("bank.applicants")
    made = frame.drop(columns=["group", "oracle"]).assign(burden=_burden(frame))
    study.write("bank.applications", made)


def _burden(frame: pd.DataFrame) -> Any:
    return (frame.amount / frame.months * 12 / frame.income).round(6)


def train(study: Study, seed: int) -> Trial:
    """Each seed is an origin: trained on applications up to then, tested on the next tenth."""
    frame, truth = _read(study)
    n = len(frame)
    first = int(n * (0.9 - 0.1 * (len(study.seeds) - seed)))
    past, test = frame.iloc[:first], frame.iloc[first : first + n // 10]
    if seed == 1:
        study.leakage(checks.in_order(past.applicant, test.applicant))
    candidate, baseline = Score.fit(past, seed), Line.fit(past)
    p, q, o = candidate.risk(test), baseline.risk(test), truth.oracle.iloc[first : first + n // 10].to_numpy()
    y = test.default.to_numpy()
    measured = [
        {"loss": log_loss(y, s), "auc": roc_auc_score(y, s), "profit": _profit(s, y)} for s in (p, q, o)
    ]
    return Trial(*measured, keep=(first, test, p, q, candidate, baseline))


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    frame, truth = _read(study)
    study.labels_are_the_sources()
    used = [c for c in frame if c != "applicant"]
    study.no_single_feature(frame[used], "default", limit=0.95)
    first, test, p, q, candidate, baseline = trials[-1].keep
    y = test.default.to_numpy()
    study.baseline_knows_something(roc_auc_score, y, q, better="higher")
    study.number("calibration_error", evidence.calibration(p, y)["error"])
    _fairness(study, truth.group.iloc[first : first + len(test)].to_numpy(), test, p, y)
    _market(study)
    curve = evidence.calibration(p, y)["curve"]
    study.plot(
        "calibration",
        "Risk said and defaults seen",
        plots.lines(
            [("score", [c["said"] for c in curve], [c["was"] for c in curve])],
            bands=[([c["said"] for c in curve], [c["low"] for c in curve], [c["high"] for c in curve])],
            x="risk said", y="share that defaulted", diagonal=True, markers=True,
        ),
        badge="generated",
    )  # fmt: skip
    return candidate, baseline


def _read(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    frame = study.read("bank.applications")
    return frame, study.pristine("bank.applicants", ["applicant", "group", "oracle"]).set_index(
        "applicant"
    ).loc[frame.applicant]


def _profit(p: Any, y: Any) -> float:
    """Per application, in hundredths of the loan: 6 earned on one that is paid back, 45 lost on one that is not."""
    return float(np.where(p < ACCEPT, np.where(y == 1, -45.0, 6.0), 0.0).mean())


def _columns(frame: pd.DataFrame) -> list[str]:
    return [c for c in (*FEATURES, "planted_leak") if c in frame]


@dataclass
class Scorer:
    model: Any
    columns: list[str]
    usual: Any

    def risk(self, frame: pd.DataFrame) -> Any:
        return self.model.predict_proba(frame[self.columns].to_numpy(dtype=float))[:, 1]

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Risk, decision, and the reasons: the features that raise the risk the most against a usual applicant's."""
        frame = frame.assign(burden=_burden(frame))
        x = frame[self.columns].to_numpy(dtype=float)
        risk = self.risk(frame)
        raised = np.empty_like(x)
        for i in range(x.shape[1]):
            other = x.copy()
            other[:, i] = self.usual[i]
            raised[:, i] = risk - self.model.predict_proba(other)[:, 1]
        reasons = [
            ", ".join(
                WORDS.get(self.columns[i], self.columns[i]) for i in np.argsort(-row)[:3] if row[i] > 0.005
            )
            or "none"
            for row in raised
        ]
        decision = np.where(risk < ACCEPT, "accept", "a person decides").astype(object)
        return pd.DataFrame({"risk": risk, "decision": decision, "reasons": reasons})


class Score(Scorer):
    @classmethod
    def fit(cls, frame: pd.DataFrame, seed: int) -> "Score":
        columns = _columns(frame)
        model = HistGradientBoostingClassifier(
            max_iter=150, learning_rate=0.06, max_leaf_nodes=12, min_samples_leaf=50, l2_regularization=5.0,
            monotonic_cst=[RISES.get(c, 0) for c in columns], random_state=seed,
        )  # fmt: skip
        x = frame[columns].to_numpy(dtype=float)
        return cls(model.fit(x, frame.default), columns, np.median(x, axis=0))


class Line(Scorer):
    @classmethod
    def fit(cls, frame: pd.DataFrame) -> "Line":
        columns = _columns(frame)
        x = frame[columns].to_numpy(dtype=float)
        return cls(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, frame.default),
            columns,
            np.median(x, axis=0),
        )


def _fairness(study: Study, group: Any, test: pd.DataFrame, p: Any, y: Any) -> None:
    """The group was never seen by the model: who is accepted, who of the good payers is, and is the risk right for each?"""
    accepted = p < ACCEPT
    rows, rates = [], {}
    for one in (0, 1):
        inside = group == one
        good = inside & (y == 0)
        rates[one] = evidence.proportion(int(accepted[inside].sum()), int(inside.sum()))
        study.subgroups(
            [
                evidence.subgroup(
                    "group",
                    str(one),
                    int(accepted[good].sum()),
                    int(good.sum()),
                    measure="good payers accepted",
                ),
            ]
        )
        rows.append(
            [
                one,
                int(inside.sum()),
                rates[one][0],
                float(accepted[good].mean()),
                float(p[inside].mean()),
                float(y[inside].mean()),
            ]
        )
    for low, high, name in ((18, 30, "under 30"), (30, 60, "30 to 60"), (60, 120, "over 60")):
        good = test.age.between(low, high, inclusive="left").to_numpy() & (y == 0)
        study.subgroups(
            [
                evidence.subgroup(
                    "age", name, int(accepted[good].sum()), int(good.sum()), measure="good payers accepted"
                )
            ]
        )
    study.number("acceptance_ratio", rates[1][0] / rates[0][0])
    study.number("group_calibration", max(abs(row[4] - row[5]) for row in rows))
    columns = ["group", "applicants", "accepted", "good payers accepted", "risk said", "defaulted"]
    study.table("Fairness: the two groups (not seen by the model)", columns, rows, badge="generated")


def _market(study: Study) -> None:
    """One-day value-at-risk at 1 %, refitted every half year, against the last year's quantile.

    GJR-GARCH(1,1) with a skewed Student's t: falls raise a share index's variance more than rises do.
    """
    from arch import arch_model

    prices = study.pristine("market.sp500").sort_values("date")
    returns = 100 * np.log(prices.close).diff().dropna().to_numpy()
    days = 250 if study.tiny else 2000
    start = len(returns) - days
    garch, past = np.empty(days), np.empty(days)
    for at in range(start, len(returns), 125):
        fitted = arch_model(returns[max(0, at - 2000) : at], o=1, dist="skewt", rescale=False).fit(disp="off")
        until = min(at + 125, len(returns))
        first = float(fitted.conditional_volatility[-1]) ** 2
        variance = _filtered(fitted.params, returns, at, until, first)
        quantile = float(fitted.model.distribution.ppf(TAIL, fitted.params[["eta", "lambda"]].to_numpy()))
        garch[at - start : until - start] = fitted.params["mu"] + np.sqrt(variance) * quantile
    for day in range(start, len(returns)):
        past[day - start] = np.quantile(returns[day - WINDOW : day], TAIL)
    real = returns[start:]
    blind = [_filtered(fitted.params, returns[:day], at, day + 1, first)[-1] for day in range(at, until)]
    study.leakage(checks.truncation(variance, blind, what="variances"))
    ahead = [
        _filtered(fitted.params, np.append(returns[:day], 0), at + 1, day + 2, first)[-1]
        for day in range(at, until)
    ]
    study.fault(
        "a variance that knows the day's own return", checks.truncation(variance, ahead, what="variances")
    )
    rows = []
    for name, var in (("GARCH", garch), ("last year's quantile", past)):
        hits = real < var
        rows.append(
            [
                name,
                days,
                int(hits.sum()),
                days * TAIL,
                _kupiec(int(hits.sum()), days),
                _independent(hits),
                _pinball(real, var),
            ]
        )
    study.table(
        "Value-at-risk at 1 %, one day ahead",
        ["method", "days", "exceeded", "expected", "Kupiec p", "independence p", "quantile loss"],
        rows,
    )
    study.number("kupiec_p", rows[0][4])
    study.number("var_ratio", rows[0][6] / rows[1][6])
    study.number("independence_p", rows[0][5])
    blocks = np.array_split(np.arange(days), days // 50)
    study.number(
        "var_loss",
        [_pinball(real[b], garch[b]) for b in blocks],
        baseline=[_pinball(real[b], past[b]) for b in blocks],
    )
    at = np.arange(days)
    study.plot(
        "var",
        "S&P 500: daily return, and what was not to be undercut on 99 days of 100",
        plots.lines(
            [("GARCH", at, garch), ("last year's quantile", at, past), ("return", at, real)],
            x="day",
            y="per cent",
        ),
        caption="Real prices, 1999 to 2018, the last 2,000 days.",
        picture=True,
    )


def _filtered(params: Any, returns: Any, start: int, stop: int, variance: float) -> Any:
    """Each day's variance from the day before alone, with parameters that were fitted before `start`."""
    found = np.empty(stop - start)
    for i in range(start, stop):
        shock = returns[i - 1] - params["mu"]
        variance = (
            params["omega"]
            + (params["alpha[1]"] + params["gamma[1]"] * (shock < 0)) * shock**2
            + params["beta[1]"] * variance
        )
        found[i - start] = variance
    return found


def _kupiec(hits: int, days: int) -> float:
    """Kupiec's test (Journal of Derivatives 3, 1995): is the share of exceedances the promised one?"""
    share = min(max(hits / days, 1e-9), 1 - 1e-9)
    said = hits * np.log(TAIL) + (days - hits) * np.log(1 - TAIL)
    seen = hits * np.log(share) + (days - hits) * np.log(1 - share)
    return float(stats.chi2.sf(2 * (seen - said), 1))


def _independent(hits: Any) -> float:
    """Christoffersen's test (International Economic Review 39, 1998): do exceedances follow one another?"""
    before, after = hits[:-1], hits[1:]
    counts = (
        np.array([[((before == i) & (after == j)).sum() for j in (0, 1)] for i in (0, 1)], dtype=float) + 1e-9
    )
    rows, whole = counts / counts.sum(1, keepdims=True), counts.sum(0) / counts.sum()
    ratio = 2 * ((counts * np.log(rows)).sum() - (counts * np.log(whole)).sum())
    return float(stats.chi2.sf(max(ratio, 0), 1))


def _pinball(real: Any, var: Any) -> float:
    return float(np.mean(np.where(real < var, (TAIL - 1) * (real - var), TAIL * (real - var))))
