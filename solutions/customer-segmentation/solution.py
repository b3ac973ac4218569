"""Customer segments that come out the same when the data is drawn again, and that say what customers spend later."""

from dataclasses import dataclass
from typing import Any

import generator
import numpy as np
import pandas as pd
from kit import Study, Trial, checks, evidence, plots
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.preprocessing import StandardScaler

HABITS = ["recency", "orders", "basket", "spent", "on_offer", "returned", "tenure"]
SKEWED = ["recency", "orders", "basket", "tenure"]


def ingest(study: Study) -> None:
    orders, customers = generator.generate(generator.SIZES[study.size])
    study.source_frame("orders", orders)
    study.source_frame("customers", customers)
    study.write("shop.orders", orders)
    study.write("shop.customers", customers)


def transform(study: Study) -> None:
    orders, customers = study.pristine("shop.orders"), study.pristine("shop.customers")
    study.write("shop.habits", habits(orders, customers))
    after = orders[orders.day >= 0].groupby("customer").value.sum()
    later = customers[["customer"]].assign(
        later=after.reindex(customers.customer).fillna(0).to_numpy().round(2)
    )
    study.write("shop.later", later)


def habits(orders: pd.DataFrame, customers: pd.DataFrame) -> pd.DataFrame:
    """What each customer with an order did before the cut, and what was spent in the half year after (`later`)."""
    before, after = orders[orders.day < 0], orders[orders.day >= 0]
    by = before.groupby("customer")
    frame = pd.DataFrame(
        {
            "recency": -by.day.max(),
            "orders": by.size(),
            "basket": by.value.mean(),
            "spent": by.value.sum(),
            "on_offer": by.on_offer.mean(),
            "returned": by.returned.mean(),
        }
    )
    frame["tenure"] = -customers.set_index("customer").joined.reindex(frame.index)
    frame["later"] = after.groupby("customer").value.sum().reindex(frame.index).fillna(0).round(2)
    return frame.reset_index().astype({"customer": "int64"})


def train(study: Study, seed: int) -> Trial:
    """Two thirds of the customers make the segments; of the others, later spend is said from the segment alone."""
    frame = study.read("shop.habits")
    rng = np.random.default_rng(seed)
    test = np.isin(np.arange(len(frame)), rng.permutation(len(frame))[: len(frame) // 3])
    study.overlap = 0.5
    fitted, held = frame[~test], frame[test]
    count = Segments.choose(fitted, seed)
    segments = Segments.fit(fitted, count, seed)
    medians = Medians.fit(fitted)
    if seed == 1:
        study.leakage(checks.overlap(fitted.customer, held.customer, what="customers"))
    again = [
        Segments.fit(fitted.sample(len(fitted), replace=True, random_state=seed * 100 + i), count, seed)
        for i in range(4 if study.tiny else 12)
    ]
    stable = [adjusted_rand_score(segments.of(held), other.of(held)) for other in again]
    kinds = study.pristine("shop.customers").set_index("customer").kind.reindex(held.customer).to_numpy()
    known = kinds != "none"
    truth = _explained(held.later, pd.Series(kinds).map(_means(study, fitted)).to_numpy())
    return Trial(
        {
            "explained": _explained(held.later, segments.later(held)),
            "stability": float(np.mean(stable)),
            "found": adjusted_rand_score(kinds[known], segments.of(held)[known]),
        },
        {
            "explained": _explained(held.later, medians.later(held)),
            "found": adjusted_rand_score(kinds[known], medians.of(held)[known]),
        },
        {"found": 1.0},
        keep=(held, segments, medians, kinds, truth),
    )


def _means(study: Study, fitted: pd.DataFrame) -> Any:
    """The oracle: each true kind's mean later spend, among customers that segments were made from."""
    kinds = study.pristine("shop.customers").set_index("customer").kind.reindex(fitted.customer).to_numpy()
    return fitted.later.groupby(kinds).mean()


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    study.labels_are_the_sources()
    frame = study.read("shop.habits")
    study.no_single_feature(frame.drop(columns="customer"), "later", limit=0.95, kind="number")
    held, segments, medians, kinds, _ = trials[0].keep
    study.baseline_knows_something(_explained, held.later, medians.later(held), better="higher")
    orders, customers = study.pristine("shop.orders"), study.pristine("shop.customers")
    cut = habits(orders[orders.day < 0], customers)
    study.leakage(checks.truncation(habits(orders, customers)[HABITS], cut[HABITS], what="habits"))
    sample = frame.sample(min(2000, len(frame)), random_state=0)
    whole = Segments.fit(frame, Segments.choose(frame, 0), 0)
    study.number("silhouette", float(silhouette_score(whole.scaled(sample), whole.of(sample))))
    study.number("segments", float(len(whole.names)))
    study.number("kinds_explained", [t.keep[4] for t in trials])
    own = segments.of(held)
    study.subgroups(
        [
            evidence.subgroup(
                "true kind",
                kind,
                int((own[kinds == kind] == np.bincount(own[kinds == kind]).argmax()).sum()),
                int((kinds == kind).sum()),
                measure="in the kind's main segment",
            )
            for kind in generator.KINDS
        ]
    )
    profile = frame.assign(segment=whole.of(frame)).groupby("segment")
    rows = [
        [
            whole.names[s],
            len(part),
            *(float(part[h].median()) for h in ("orders", "basket", "on_offer", "returned", "recency")),
            float(part.later.mean()),
        ]
        for s, part in profile
    ]
    columns = [
        "segment",
        "customers",
        "orders",
        "basket",
        "on offer",
        "returned",
        "days since",
        "later spend",
    ]
    study.table("Who is in which segment (medians; mean of later spend)", columns, rows, badge="generated")
    study.plot(
        "map",
        "Customers by how often and how much they buy",
        plots.points(
            [
                (whole.names[s], np.log10(part.orders), np.log10(part.basket))
                for s, part in frame.sample(min(1500, len(frame)), random_state=1)
                .assign(segment=lambda f: whole.of(f))
                .groupby("segment")
            ],
            x="orders in the year (log10)",
            y="basket (log10)",
        ),
        badge="generated",
        picture=True,
    )
    later = [(whole.names[s], float(part.later.mean()), *_about(part.later)) for s, part in profile]
    study.plot(
        "later",
        "What each segment spends in the half year after",
        plots.bars(later, x="mean, with 95 % interval"),
        badge="generated",
    )
    return whole, Medians.fit(frame)


def _about(values: pd.Series) -> tuple[float, float]:
    half = 1.96 * float(values.std() / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def _explained(later: Any, told: Any) -> float:
    """Share of the variance of the logarithm of later spend that the segment says."""
    y, p = np.log1p(np.asarray(later, dtype=float)), np.log1p(np.asarray(told, dtype=float))
    slope, intercept = np.polyfit(p, y, 1) if np.ptp(p) > 0 else (0.0, y.mean())
    return float(1 - ((y - slope * p - intercept) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def _columns(frame: pd.DataFrame) -> list[str]:
    return [c for c in (*HABITS, "planted_leak") if c in frame]


@dataclass
class Segments:
    scaler: Any
    model: Any
    columns: list[str]
    means: Any
    names: dict[int, str]

    @classmethod
    def fit(cls, frame: pd.DataFrame, count: int, seed: int) -> "Segments":
        columns = _columns(frame)
        scaler = StandardScaler().fit(_shaped(frame, columns))
        model = KMeans(count, n_init=10, random_state=seed).fit(scaler.transform(_shaped(frame, columns)))
        made = cls(scaler, model, columns, None, {})
        segment = made.of(frame)
        made.means = frame.later.groupby(segment).mean().reindex(range(count)).to_numpy()
        made.names = _named(frame, segment)
        return made

    @classmethod
    def choose(cls, frame: pd.DataFrame, seed: int) -> int:
        """As many as come out the most alike when customers are drawn again; of nearly equal ones the most."""
        found = {}
        for count in range(3, 9):
            made = cls.fit(frame, count, seed)
            others = [
                cls.fit(frame.sample(frac=0.7, random_state=seed * 10 + i), count, seed) for i in range(4)
            ]
            found[count] = float(
                np.mean([adjusted_rand_score(made.of(frame), other.of(frame)) for other in others])
            )
        best = max(found.values())
        return max(count for count, value in found.items() if value >= best - 0.005)

    def scaled(self, frame: pd.DataFrame) -> Any:
        return self.scaler.transform(_shaped(frame, self.columns))

    def of(self, frame: pd.DataFrame) -> Any:
        return self.model.predict(self.scaled(frame))

    def later(self, frame: pd.DataFrame) -> Any:
        return self.means[self.of(frame)]

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        segment = self.of(frame)
        names = np.array([self.names[int(s)] for s in segment], dtype=object)
        return pd.DataFrame({"segment": names, "later_spend": self.means[segment]})


@dataclass
class Medians:
    """The usual three: recency, orders, money, each cut in two by its median."""

    cuts: dict[str, float]
    means: Any

    @classmethod
    def fit(cls, frame: pd.DataFrame) -> "Medians":
        made = cls({c: float(frame[c].median()) for c in ("recency", "orders", "spent")}, None)
        made.means = (
            frame.later.groupby(made.of(frame)).mean().reindex(range(8)).fillna(frame.later.mean()).to_numpy()
        )
        return made

    def of(self, frame: pd.DataFrame) -> Any:
        return sum(
            (frame[c].to_numpy() > cut).astype(int) << i for i, (c, cut) in enumerate(self.cuts.items())
        )

    def later(self, frame: pd.DataFrame) -> Any:
        return self.means[self.of(frame)]

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        segment = self.of(frame)
        names = np.array([f"recency, orders, money: {s:03b}" for s in segment], dtype=object)
        return pd.DataFrame({"segment": names, "later_spend": self.means[segment]})


def _shaped(frame: pd.DataFrame, columns: list[str]) -> Any:
    """Rates and baskets as logarithms, shares as log odds drawn towards one half where there are few orders."""
    shares = [frame[c] * frame.orders for c in ("on_offer", "returned")]
    shaped = {
        "orders a year": np.log(frame.orders / (frame.tenure / 365)),
        "basket": np.log(frame.basket),
        "on_offer": np.log((shares[0] + 0.5) / (frame.orders - shares[0] + 0.5)),
        "returned": np.log((shares[1] + 0.5) / (frame.orders - shares[1] + 0.5)),
    }
    return np.column_stack([*shaped.values(), *(frame[c] for c in columns if c not in HABITS)])


def _named(frame: pd.DataFrame, segment: Any) -> dict[int, str]:
    """Each segment by the two habits in which it differs the most from everybody."""
    words = {
        "recency": ("bought lately", "away for long"), "orders": ("seldom", "often"),
        "basket": ("small baskets", "big baskets"),
        "on_offer": ("full price", "on offer"), "returned": ("keeps it", "returns much"), "tenure": ("new", "old customers"),
    }  # fmt: skip
    z = pd.DataFrame({h: np.log1p(frame[h]) if h in SKEWED else frame[h] for h in words})
    z = (z - z.mean()) / z.std()
    names = {}
    for one, part in z.groupby(segment):
        middle = part.mean()
        top = middle.abs().sort_values(ascending=False).index[:2]
        names[int(one)] = ", ".join(words[str(h)][int(middle[h] > 0)] for h in top)
    seen: dict[str, int] = {}
    for one in sorted(names):
        seen[names[one]] = seen.get(names[one], 0) + 1
        if seen[names[one]] > 1:
            names[one] += f" ({seen[names[one]]})"
    return names
