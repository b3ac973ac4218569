"""Demand, four weeks ahead, with planned promotions: quantiles to order by, against last month's same weekday."""

from dataclasses import dataclass
from typing import Any

import downloads
import generator
import lightgbm as lgb
import numpy as np
import pandas as pd
from kit import Study, Trial, checks, evidence, plots

HORIZON = 28
QUANTILES = generator.QUANTILES
UNDER, OVER = 9.0, 1.0
"""What a unit that is asked for and missing costs, and one that is left over: so the 0.9 quantile is ordered."""
SEASONS = {"co2": 12, "elnino": 12, "consumption": 4, "sunspots": 1, "nile": 1}


def ingest(study: Study) -> None:
    sales = generator.generate(generator.SIZES[study.size])
    study.source_frame("sales", sales)
    study.write("retail.sales", sales)
    if study.download:
        study.downloaded("m4_train", suffix=".csv")
        study.downloaded("m4_test", suffix=".csv")
    real = _real_series()
    study.source_frame("series", real)
    study.write("retail.series", real)


def transform(study: Study) -> None:
    study.write("retail.features", features(study.pristine("retail.sales")))


def features(sales: pd.DataFrame) -> pd.DataFrame:
    """What is known `HORIZON` days before each day: sales up to then, prices (planned) also after."""
    frame = sales.sort_values(["product", "day"]).reset_index(drop=True)
    by = frame.groupby("product", sort=False)
    sold = {lag: by.sold.shift(lag) for lag in (28, 35, 42, 49)}
    past = by.sold.shift(HORIZON)
    clean = past.where(by.price.shift(HORIZON) == 1)
    grouped = frame["product"]

    def rolling(values: pd.Series, days: int) -> pd.Series:
        return values.groupby(grouped, sort=False).transform(lambda v: v.rolling(days, min_periods=7).mean())

    level = rolling(past, 56)
    usual = rolling(clean, 84).fillna(level)
    date = pd.to_datetime(frame.date)
    made = {
        "level": level,
        "usual": usual,
        **{f"lag_{lag}": values / level for lag, values in sold.items()},
        "same_weekday": sum(sold.values()) / 4 / level,
        "trend": rolling(past, 14) / level,
        "lift_before": rolling((past / usual).where(by.price.shift(HORIZON) < 1), 84).fillna(1.0),
        "price": frame.price,
        "price_last_week": by.price.transform(lambda v: v.shift(1).rolling(7, min_periods=1).mean()).fillna(
            1.0
        ),
        "days_into_offer": by.price.transform(lambda v: (v < 1).groupby((v == 1).cumsum()).cumsum()),
        "weekday": date.dt.dayofweek,
        "year_sine": np.sin(2 * np.pi * date.dt.dayofyear / 365.25),
        "year_cosine": np.cos(2 * np.pi * date.dt.dayofyear / 365.25),
    }
    told = frame[["row", "product", "day", "sold", *[f"q{round(q * 100)}" for q in QUANTILES]]]
    return told.assign(**made).dropna().query("level > 0").reset_index(drop=True)


NOT_FEATURES = ["row", "product", "day", "sold", "q10", "q50", "q90", "q95"]


def train(study: Study, seed: int) -> Trial:
    """Each seed is an origin: trained on what had been sold by then, tested on the four weeks that follow."""
    frame = study.read("retail.features")
    first = int(frame.day.max()) + 1 - HORIZON * (len(study.seeds) + 1 - seed)
    past, test = frame[frame.day < first], frame[(frame.day >= first) & (frame.day < first + HORIZON)]
    candidate, baseline = Trees.fit(past, seed, 40 if study.tiny else 160), SameWeekday.fit(past)
    if seed == 1:
        study.leakage(checks.in_order(past.day, test.day))
    told = {"candidate": candidate.quantiles(test), "baseline": baseline.quantiles(test)}
    told["oracle"] = test[[f"q{round(q * 100)}" for q in QUANTILES]].to_numpy()
    scale = (
        past.groupby("product")
        .sold.apply(lambda v: v.diff(7).abs().mean())
        .reindex(test["product"])
        .to_numpy()
    )
    measured = {role: _measures(test, found, scale) for role, found in told.items()}
    return Trial(
        measured["candidate"],
        measured["baseline"],
        measured["oracle"],
        (candidate, baseline, test, told, scale),
    )


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    candidate, baseline, test, told, scale = trials[-1].keep
    study.labels_are_the_sources()
    study.no_single_feature(test[[*candidate.columns, "sold"]], "sold", limit=0.99, kind="number")
    middle = told["baseline"][:, 1]
    study.baseline_knows_something(
        lambda a, b: float(np.abs(a - b).mean()), test.sold, middle, better="lower"
    )
    _without_future(study, int(test.day.min()))
    inside = (test.sold.to_numpy() >= told["candidate"][:, 0]) & (
        test.sold.to_numpy() <= told["candidate"][:, 2]
    )
    study.number("coverage", float(inside.mean()))
    enough = test.sold.to_numpy() <= told["candidate"][:, 2]
    groups = {
        "on offer": (test.price < 1).to_numpy(),
        "at the usual price": (test.price == 1).to_numpy(),
        "sells much": (test.level > test.level.median()).to_numpy(),
        "sells little": (test.level <= test.level.median()).to_numpy(),
    }
    study.subgroups(
        [
            evidence.subgroup("product-days", g, int(enough[m].sum()), int(m.sum()), measure="not sold out")
            for g, m in groups.items()
        ]
    )
    study.table(
        "Error where the price is lowered and where it is not (MASE)",
        ["product-days", "n", "trees", "same weekday", "oracle"],
        [
            [
                g,
                int(m.sum()),
                *(
                    float((np.abs(test.sold - told[role][:, 1]) / scale)[m].mean())
                    for role in ("candidate", "baseline", "oracle")
                ),
            ]
            for g, m in groups.items()
        ],
        badge="generated",
    )
    _real(study)
    if study.download:
        _competition(study)
    _draw(study, trials)
    return candidate, baseline


def _measures(test: pd.DataFrame, told: Any, scale: Any) -> dict[str, float]:
    sold = test.sold.to_numpy(dtype=float)
    pinball = sum(
        np.maximum(q * (sold - told[:, i]), (q - 1) * (sold - told[:, i])) / scale
        for i, q in enumerate(QUANTILES)
    )
    order = told[:, 2]
    cost = UNDER * np.maximum(sold - order, 0) + OVER * np.maximum(order - sold, 0)
    return {
        "mase": float((np.abs(sold - told[:, 1]) / scale).mean()),
        "pinball": float(pinball.mean() / len(QUANTILES)),
        "cost": float(cost.sum() / sold.sum()),
    }


class Forecaster:
    def quantiles(self, frame: pd.DataFrame) -> Any:
        raise NotImplementedError

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        low, middle, high, _ = self.quantiles(frame).T
        return pd.DataFrame({"low": low, "expected": middle, "high": high, "order": np.ceil(high)})


@dataclass
class Trees(Forecaster):
    """One set of boosted trees per quantile, over all products at once, on sales relative to each one's level."""

    models: list[Any]
    columns: list[str]

    @classmethod
    def fit(cls, past: pd.DataFrame, seed: int, rounds: int) -> "Trees":
        columns = [c for c in past.columns if c not in NOT_FEATURES]
        models = []
        for q in QUANTILES:
            settings = {
                "objective": "quantile", "alpha": q, "learning_rate": 0.08, "num_leaves": 24, "min_data_in_leaf": 40,
                "feature_fraction": 0.8, "bagging_fraction": 0.7, "bagging_freq": 1, "seed": seed, "num_threads": 1,
                "deterministic": True, "verbosity": -1,
            }  # fmt: skip
            data = lgb.Dataset(past[columns], past.sold / past.level, weight=np.sqrt(past.level))
            models.append(lgb.train(settings, data, rounds))
        return cls(models, columns)

    def quantiles(self, frame: pd.DataFrame) -> Any:
        x, level = frame[self.columns], frame["level"].to_numpy(dtype=float)[:, None]
        found = np.column_stack([model.predict(x, num_threads=1) for model in self.models])
        return np.sort(np.maximum(found, 0) * level, axis=1)


@dataclass
class SameWeekday(Forecaster):
    """Four weeks ago, the same weekday; and how far off that used to be, relative to the level."""

    spread: Any

    @classmethod
    def fit(cls, past: pd.DataFrame) -> "SameWeekday":
        off = past.sold / past.level - past.lag_28
        return cls(np.quantile(off, QUANTILES))

    def quantiles(self, frame: pd.DataFrame) -> Any:
        level = frame["level"].to_numpy(dtype=float)[:, None]
        middle = frame["lag_28"].to_numpy(dtype=float)[:, None] * level
        spread = np.where(np.array(QUANTILES) == 0.5, 0.0, self.spread)
        return np.maximum(np.sort(middle + spread * level, axis=1), 0)


def _without_future(study: Study, first: int) -> None:
    """The test days' features with every sale from the first of them on deleted; and those of a fault that keeps them."""
    sales = study.pristine("retail.sales")
    blind = sales.assign(sold=sales.sold.where(sales.day < first, 0))
    days = range(first, first + HORIZON)
    names = [c for c in features(sales.head(200)).columns if c not in NOT_FEATURES]
    whole, cut = (f[f.day.isin(days)].set_index("row")[names] for f in (features(sales), features(blind)))
    study.leakage(checks.truncation(whole, cut, what="the test days' features"))
    week = [
        f.sort_values(["product", "day"]).groupby("product").sold.shift(7)[f.day.isin(days)]
        for f in (sales, blind)
    ]
    study.fault(
        "a feature of last week, four weeks ahead", checks.truncation(*week, what="the test days' features")
    )


def _competition(study: Study) -> None:
    """The hourly series of the M4 competition: its seasonal naive forecast as it published it, and trees of ours."""
    past, future = (downloads.hourly(study.fetch(f"raw/m4_{part}.csv")) for part in ("train", "test"))
    simple = downloads.mase(past, future, {name: downloads.naive(past[name]) for name in future})
    x, y = downloads.rows(past)
    found = []
    for seed in study.seeds:
        model = lgb.LGBMRegressor(
            objective="l1", n_estimators=60 if study.tiny else 300, learning_rate=0.05, num_leaves=48,
            subsample=0.7, subsample_freq=1, colsample_bytree=0.8, random_state=seed, n_jobs=1, verbosity=-1,
        )  # fmt: skip
        found.append(downloads.mase(past, future, downloads.forecast(model.fit(x, y), past)))
    study.number("m4_naive", simple)
    study.number("m4_mase", found, baseline=[simple] * len(found))


def _real_series() -> pd.DataFrame:
    """Five series that statsmodels bundles, in long form."""
    import statsmodels.api as sm

    data = sm.datasets
    co2 = data.co2.load_pandas().data["co2"].resample("MS").mean().interpolate()
    elnino = data.elnino.load_pandas().data.drop(columns="YEAR").to_numpy().ravel()
    found = {
        "co2": co2.to_numpy(),
        "elnino": elnino,
        "consumption": data.macrodata.load_pandas().data["realcons"].to_numpy(),
        "sunspots": data.sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(),
        "nile": data.nile.load_pandas().data["volume"].to_numpy(),
    }
    parts = [
        pd.DataFrame({"series": name, "step": np.arange(len(v)), "value": v.astype(float).round(6)})
        for name, v in found.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _real(study: Study) -> None:
    """Exponential smoothing chosen by information criterion against the last season, on real series, rolling origins."""
    from statsforecast.models import AutoETS, SeasonalNaive

    series = study.pristine("retail.series")
    smooth, naive, rows = [], [], []
    for name, values in series.sort_values("step").groupby("series").value:
        season = SEASONS[str(name)]
        horizon = max(2 * season, 6) if season > 1 else 6
        whole = values.to_numpy()
        errors = {"smooth": [], "naive": []}
        for origin in range(1, 2 if study.tiny else 5):
            past, test = (
                whole[: len(whole) - origin * horizon],
                whole[len(whole) - origin * horizon :][:horizon],
            )
            past = past[-240:]
            scale = np.abs(past[season:] - past[:-season]).mean()
            for key, model in (
                ("smooth", AutoETS(season_length=season)),
                ("naive", SeasonalNaive(season_length=season)),
            ):
                errors[key].append(float(np.abs(model.forecast(past, horizon)["mean"] - test).mean() / scale))
        smooth.append(float(np.mean(errors["smooth"])))
        naive.append(float(np.mean(errors["naive"])))
        rows.append([name, season, horizon, smooth[-1], naive[-1]])
    study.number("real_mase", smooth, baseline=naive)
    study.number("real_ratio", float(np.exp(np.mean(np.log(np.array(smooth) / np.array(naive))))))
    columns = ["series", "season", "horizon", "exponential smoothing (MASE)", "seasonal naive (MASE)"]
    study.table("Real series that statsmodels bundles, rolling origins", columns, rows)


def _draw(study: Study, trials: list[Trial]) -> None:
    _, _, test, told, _ = trials[-1].keep
    busiest = test[test.price < 1].groupby("product").sold.sum().idxmax()
    rows = (test["product"] == busiest).to_numpy()
    day, found = test.day[rows].to_numpy(), told["candidate"][rows]
    study.plot(
        "forecast",
        "Four weeks of the product with the most sold on offer",
        plots.lines(
            [
                ("forecast (median)", day, found[:, 1]),
                ("sold", day, test.sold[rows]),
                ("four weeks before", day, told["baseline"][rows][:, 1]),
            ],
            bands=[(day, found[:, 0], found[:, 2])],
            x="day",
            y="units",
        ),
        badge="generated",
        caption="Band: 80 % of what is expected.",
        picture=True,
    )
    bars = [
        (name, float(np.mean([getattr(t, role)["mase"] for t in trials])), None, None)
        for name, role in (("same weekday", "baseline"), ("trees", "candidate"), ("oracle", "oracle"))
    ]
    study.plot(
        "mase", "Error of the median, scaled (MASE)", plots.bars(bars, x="lower is better"), badge="generated"
    )
    hit = [
        (q, float((test.sold.to_numpy() <= told["candidate"][:, i]).mean())) for i, q in enumerate(QUANTILES)
    ]
    study.plot(
        "quantiles",
        "Are the quantiles what they say?",
        plots.lines(
            [("trees", [a for a, _ in hit], [b for _, b in hit])],
            x="quantile",
            y="share below it",
            diagonal=True,
            markers=True,
        ),
        badge="generated",
    )
