"""Rules for holding an index or not, tried walking forward with costs, and asked whether luck explains them.

They are expected to fail on the index: that is the finding. The same test is run on a generated market with a
known edge, where it must say yes, and on one without, where it must say no.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import generator
import numpy as np
import pandas as pd
from kit import Study, Trial, checks, plots
from scipy import stats
from sklearn.linear_model import Ridge

YEAR, COST = 252, 0.0005
"""Trading days of a year; what changing the whole position costs, as a share of it (five hundredths of a percent)."""
MOMENTUM = (21, 63, 126, 252)
FEATURES = [*(f"momentum_{k}" for k in MOMENTUM), "cross_20_100", "cross_50_200", "five_days", "volatility"]


def ingest(study: Study) -> None:
    from arch.data import sp500

    prices = sp500.load()["Adj Close"].dropna()
    frame = pd.DataFrame({"date": pd.to_datetime(prices.index), "close": prices.to_numpy().round(6)})
    study.source_frame("sp500", frame)
    study.write("market.prices", frame.rename_axis("day").reset_index())
    for name, edge in (("edge", generator.EDGE), ("none", 0.0)):
        made = generator.generate(generator.DAYS["tiny" if study.tiny else study.size], edge)
        study.source_frame(name, made)
        study.write(f"market.{name}", made)


def transform(study: Study) -> None:
    prices = study.pristine("market.prices").sort_values("day")
    frame = known(prices.close.to_numpy()).assign(day=prices.day.to_numpy()).dropna()
    study.write("market.features", frame)
    later = prices.assign(following=prices.close.shift(-1) / prices.close - 1)[["day", "following"]].dropna()
    study.write("market.returns", later[later.day.isin(frame.day)])


def known(close: Any) -> pd.DataFrame:
    """What is known at each day's close, and (`following`) the return of the day after."""
    series = pd.Series(np.asarray(close, dtype=float))
    log = np.log(series)
    frame = pd.DataFrame({f"momentum_{k}": log.diff(k) for k in MOMENTUM})
    for short, long in ((20, 100), (50, 200)):
        frame[f"cross_{short}_{long}"] = np.log(series.rolling(short).mean() / series.rolling(long).mean())
    frame["five_days"] = log.diff(5)
    frame["volatility"] = log.diff().rolling(21).std() * np.sqrt(YEAR)
    frame["following"] = series.shift(-1) / series - 1
    return frame


def train(study: Study, seed: int) -> Trial:
    """Each seed is a period of its own: the rule is chosen and fitted on all days before it."""
    frame = study.read("market.features").sort_values("day").reset_index(drop=True)
    before, during = period(frame, seed, len(study.seeds))
    if study.plant == "leak":
        before = pd.concat([before, during])
    if seed == 1:
        study.leakage(checks.in_order(before.day, during.day))
        study.fault(
            "chosen on the days it is tried on", checks.in_order([*before.day, *during.day], during.day)
        )
    rule, tried = chosen(before)
    booked = {"candidate": rule.booked(during), "baseline": HOLD.booked(during)}
    measured = {name: _measures(returns) for name, returns in booked.items()}
    return Trial(measured["candidate"], measured["baseline"], keep=(rule, booked, during, tried))


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    study.labels_are_the_sources()
    frame = study.read("market.features").sort_values("day").reset_index(drop=True)
    study.no_single_feature(frame.drop(columns="day"), "following", limit=0.3, kind="number")
    prices = study.pristine("market.prices").sort_values("day")
    _cut(study, prices.close.to_numpy())
    days = pd.concat([t.keep[2] for t in trials])
    held = np.concatenate([t.keep[1]["baseline"] for t in trials])
    study.baseline_knows_something(
        lambda a, b: float(np.corrcoef(a, b)[0, 1]), days.following.to_numpy(), held, better="higher"
    )
    booked = np.concatenate([t.keep[1]["candidate"] for t in trials])
    study.number("deflated", deflated(booked))
    for name in ("edge", "none"):
        made = study.pristine(f"market.{name}").sort_values("day")
        told, drift = _elsewhere(made, len(study.seeds))
        study.number(f"{name}_deflated", deflated(told))
        study.number(f"{name}_sharpe", sharpe(told))
        if name == "edge":
            study.number("edge_oracle", sharpe(drift))
    dates = pd.to_datetime(prices.set_index("day").date.reindex(days.day))
    years = dates.dt.year.to_numpy() + (dates.dt.dayofyear.to_numpy() - 1) / 365.25
    study.plot(
        "wealth",
        "What 1 became, out of sample, costs paid",
        plots.lines(
            [("the chosen rules", years, np.cumprod(1 + booked)), ("holding", years, np.cumprod(1 + held))],
            x="year", y="wealth",
        ),
        picture=True,
    )  # fmt: skip
    rows = [
        (f"period {i}: {t.keep[0].name}", t.candidate["sharpe"], None, None) for i, t in enumerate(trials, 1)
    ]
    study.plot("periods", "Sharpe ratio of each period's rule", plots.bars(rows, x="a year, costs paid"))
    study.table(
        "Every rule that was tried, before the last period",
        ["rule", "Sharpe ratio", "return a year", "turnover a year"],
        [[name, sharpe(r), float(np.mean(r) * YEAR), RULES[name].turnover(frame)]
         for name, r in sorted(trials[-1].keep[3].items(), key=lambda item: -sharpe(item[1]))],
    )  # fmt: skip
    return Desk(chosen(frame)[0]), Desk(HOLD)


def _cut(study: Study, close: Any) -> None:
    """Features of a day are the same when the days after it are deleted; one that looks ahead is noticed."""
    half = len(close) * 2 // 3
    study.leakage(
        checks.truncation(known(close)[FEATURES][:half], known(close[:half])[FEATURES], what="features")
    )

    def ahead(prices: Any) -> Any:
        return pd.Series(prices).rolling(21, center=True, min_periods=1).mean()

    study.fault(
        "a feature that looks ahead",
        checks.truncation(ahead(close)[:half], ahead(close[:half]), what="features"),
    )


def _elsewhere(made: pd.DataFrame, periods: int) -> tuple[Any, Any]:
    """The same choosing and walking forward on a generated market; and what who knows its drift earns."""
    frame = known(made.close.to_numpy()).assign(day=made.day.to_numpy(), drift=made.drift.to_numpy())
    frame["drift"] = frame.drift.shift(-1)
    frame = frame.dropna().reset_index(drop=True)
    told, drift = [], []
    for number in range(1, periods + 1):
        before, during = period(frame, number, periods)
        told.append(chosen(before)[0].booked(during))
        drift.append(np.sign(during.drift.to_numpy()) * during.following.to_numpy())
    return np.concatenate(told), np.concatenate(drift)


def period(frame: pd.DataFrame, number: int, periods: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All days before the period, and its own; the first quarter of the days is only ever before."""
    edges = np.linspace(len(frame) // 4, len(frame), periods + 1).astype(int)
    return frame.iloc[: edges[number - 1]], frame.iloc[edges[number - 1] : edges[number]]


# -- rules -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """`position` gives the share of the money that is in the index for the day after, from -1 to 1."""

    name: str
    position: Callable[[pd.DataFrame], Any]

    def fitted(self, before: pd.DataFrame) -> "Rule":
        return self

    def booked(self, days: pd.DataFrame) -> Any:
        """Each following day's return, what changing the position cost taken off."""
        held = np.asarray(self.position(days), dtype=float)
        return held * days.following.to_numpy() - COST * np.abs(np.diff(held, prepend=0.0))

    def turnover(self, days: pd.DataFrame) -> float:
        held = np.asarray(self.position(days), dtype=float)
        return float(np.abs(np.diff(held, prepend=0.0)).mean() * YEAR)


@dataclass(frozen=True)
class Fitted(Rule):
    """Follows the sign of what a ridge regression on the known features expects."""

    penalty: float = 1.0

    def fitted(self, before: pd.DataFrame) -> Rule:
        columns = [c for c in before.columns if c in FEATURES or c == "planted_leak"]
        scale = before[columns].std().replace(0, 1)
        model = Ridge(alpha=self.penalty * len(before)).fit(before[columns] / scale, before.following)
        return Rule(self.name, Expected(columns, scale, model))


@dataclass(frozen=True)
class Expected:
    columns: Any
    scale: Any
    model: Any

    def __call__(self, days: pd.DataFrame) -> Any:
        return np.sign(self.model.predict(days[self.columns] / self.scale))


@dataclass(frozen=True)
class Signed:
    """In when `feature` is above zero (below it with `turned`); else out, or short."""

    feature: str
    out: float
    turned: bool = False

    def __call__(self, days: pd.DataFrame) -> Any:
        up = days[self.feature].to_numpy() > 0
        return np.where(up != self.turned, 1.0, self.out)


def always(days: pd.DataFrame) -> Any:
    return np.ones(len(days))


def calm(days: pd.DataFrame) -> Any:
    """Less when prices move much: aims at twelve percent a year."""
    return np.minimum(1.0, 0.12 / np.maximum(days.volatility.to_numpy(), 1e-4))


HOLD = Rule("hold", always)
RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        *(Rule(f"{f}, or out", Signed(f, 0.0)) for f in FEATURES[:6]),
        *(Rule(f"{f}, or short", Signed(f, -1.0)) for f in FEATURES[:6]),
        Rule("after losses, or out", Signed("five_days", 0.0, turned=True)),
        Rule("after losses, or short", Signed("five_days", -1.0, turned=True)),
        Rule("less when wild", calm),
        Fitted("regression, weak", always, penalty=10.0),
        Fitted("regression, strong", always, penalty=0.1),
    )
}


def chosen(before: pd.DataFrame) -> tuple[Rule, dict[str, Any]]:
    """The rule that would have had the best Sharpe ratio so far, and what each would have earned.

    A rule that is fitted is fitted on the older two thirds and tried on the rest, all others likewise.
    """
    cut = len(before) * 2 // 3
    old, new = before.iloc[:cut], before.iloc[cut:]
    tried = {name: rule.fitted(old).booked(new) for name, rule in RULES.items()}
    best = max(tried, key=lambda name: sharpe(tried[name]))
    return RULES[best].fitted(before), tried


# -- measures ----------------------------------------------------------------------------------------------


def sharpe(returns: Any) -> float:
    """Mean over spread, of a year; no interest is taken off."""
    spread = float(np.std(returns))
    return float(np.mean(returns) / spread * np.sqrt(YEAR)) if spread > 0 else 0.0


def deflated(returns: Any, tries: int = len(RULES)) -> float:
    """The probability that the Sharpe ratio is better than the best of as many rules that were only lucky.

    Bailey and López de Prado, "The Deflated Sharpe Ratio" (Journal of Portfolio Management 40, 2014), with the
    spread that Sharpe ratios have over as many days without any edge: that of the rules tried is wider when
    there is one, and would hide it.
    """
    found, days, euler = sharpe(returns) / np.sqrt(YEAR), len(returns), 0.5772156649
    best = (
        (1 - euler) * stats.norm.ppf(1 - 1 / tries) + euler * stats.norm.ppf(1 - 1 / (tries * np.e))
    ) / np.sqrt(days)
    skew, tails = float(stats.skew(returns)), float(stats.kurtosis(returns, fisher=False))
    spread = np.sqrt(max(1e-12, 1 - skew * found + (tails - 1) / 4 * found**2))
    return float(stats.norm.cdf((found - best) * np.sqrt(days - 1) / spread))


def _measures(returns: Any) -> dict[str, float]:
    wealth = np.cumprod(1 + returns)
    return {
        "sharpe": sharpe(returns),
        "yearly": float(wealth[-1] ** (YEAR / len(returns)) - 1),
        "drawdown": float((1 - wealth / np.maximum.accumulate(wealth)).max()),
    }


@dataclass
class Desk:
    """Takes what is known at a day's close; gives the share of the money to hold in the index, from -1 to 1."""

    rule: Rule

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        held = np.asarray(self.rule.position(frame), dtype=float)
        return pd.DataFrame({"position": held, "rule": self.rule.name})
