"""What to show next: matrix factorisation and a linear item model against what is popular, split in time."""

from dataclasses import dataclass
from typing import Any

import downloads
import generator
import numpy as np
import pandas as pd
from kit import Study, Trial, checks, evidence, plots
from scipy import sparse, stats

TOP, RECENT = 10, 30
"""Length of a list, and the days that popularity is counted over."""


def ingest(study: Study) -> None:
    events = generator.generate(generator.SIZES[study.size])
    study.source_frame("events", events)
    study.write("shop.events", events)
    if study.download:
        study.write("shop.movielens", downloads.picks(study.downloaded("movielens", suffix=".zip")))


def train(study: Study, seed: int) -> Trial:
    """Each seed is a moment: everything before is known, the two weeks after are to be said."""
    size = generator.SIZES[study.size]
    events = study.read("shop.events")
    window = 7 if study.tiny else 14
    first = size.days - window * (len(study.seeds) + 1 - seed)
    past, test = events[events.day < first], events[(events.day >= first) & (events.day < first + window)]
    if study.plant == "leak":
        past = pd.concat([past, test])
    if seed == 1:
        study.leakage(
            checks.overlap(past.event, test.event, what="events"), checks.in_order(past.day, test.day)
        )
        planted = pd.concat([past, test])
        study.fault("trained on what is tested", checks.overlap(planted.event, test.event, what="events"))
    seen = _matrix(past, size)
    truth = _matrix(test, size).toarray() > 0
    truth &= seen.toarray() == 0
    asked = np.flatnonzero(truth.any(1))
    allowed = seen.toarray()[asked] == 0
    known = np.asarray(seen.sum(0)).ravel() > 0
    candidate, other = _chosen(past, first, window, size, seed)
    baseline = Popular.fit(past, first, size)
    oracle = np.where(known, generator.world(size).scores(first)[asked], -np.inf)
    lists = {
        name: _top(np.where(allowed, scores, -np.inf))
        for name, scores in (
            ("candidate", candidate.scores(seen[asked])),
            ("other", other.scores(seen[asked])),
            ("baseline", baseline.scores(seen[asked])),
            ("oracle", oracle),
        )
    }
    measured = {name: _measures(truth[asked], found) for name, found in lists.items()}
    return Trial(
        {**measured["candidate"], "coverage": len(np.unique(lists["candidate"])) / size.items},
        {**measured["baseline"], "coverage": len(np.unique(lists["baseline"])) / size.items},
        measured["oracle"],
        keep=(candidate, baseline, seen, truth, asked, lists, measured["other"]["ndcg"], past, test),
    )


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    candidate, baseline, seen, truth, asked, lists, _, past, test = trials[-1].keep
    size = generator.SIZES[study.size]
    counts = test.item.value_counts().reindex(range(size.items), fill_value=0).to_numpy()
    study.baseline_knows_something(
        lambda a, b: float(stats.spearmanr(a, b).statistic), counts, baseline.counts, better="higher"
    )
    if study.download:
        _films(study)
    study.number("other_ndcg", [t.keep[6] for t in trials])
    activity = np.asarray(seen.sum(1)).ravel()[asked]
    thirds = pd.qcut(activity, 3, labels=["little", "some", "much"])
    hit = np.take_along_axis(truth[asked], lists["candidate"], 1).any(1)
    study.subgroups(
        [
            evidence.subgroup(
                "history",
                str(g),
                int(hit[thirds == g].sum()),
                int((thirds == g).sum()),
                measure="a hit among ten",
            )
            for g in thirds.categories
        ]
    )
    last = _matrix(pd.concat([past, test]).drop_duplicates("event"), size)
    final = type(candidate).fit(last, 7)
    study.table(
        "Lists of ten, last moment",
        ["method", "NDCG@10", "a hit among ten", "different items shown"],
        [
            [label, *_measures(truth[asked], lists[name]).values(), len(np.unique(lists[name]))]
            for label, name in (
                (type(candidate).__name__, "candidate"),
                ("the other model", "other"),
                ("popular", "baseline"),
                ("oracle", "oracle"),
            )
        ],
        badge="generated",
    )
    bars = [
        (label, float(np.mean([getattr(t, role)["ndcg"] for t in trials])), None, None)
        for label, role in (
            ("popular", "baseline"),
            (type(candidate).__name__, "candidate"),
            ("oracle", "oracle"),
        )
    ]
    study.plot(
        "ndcg",
        "Quality of lists of ten (NDCG@10)",
        plots.bars(bars, x="higher is better"),
        badge="generated",
        picture=True,
    )
    gains = []
    for name, label in (
        ("candidate", type(candidate).__name__),
        ("baseline", "popular"),
        ("oracle", "oracle"),
    ):
        hits = np.take_along_axis(truth[asked], lists[name], 1).mean(0)
        gains.append((label, np.arange(1, TOP + 1), hits))
    study.plot(
        "places",
        "Share of lists that are right at each place",
        plots.lines(gains, x="place", y="share", markers=True),
        badge="generated",
    )
    popular = Popular.fit(study.read("shop.events"), size.days, size)
    final.fallback = popular.counts
    return final, popular


def _films(study: Study) -> None:
    """The same models on films that people liked, everybody's past before a moment and what they picked after it."""
    events = study.pristine("shop.movielens").sort_values(["time", "person", "item"], kind="stable")
    size = Shape(int(events.person.max()) + 1, int(events.item.max()) + 1)
    found, simple = [], []
    for seed, share in zip(study.seeds, np.linspace(0.7, 0.9, len(study.seeds)), strict=True):
        at = int(len(events) * share)
        seen = _matrix(events.iloc[:at], size)
        truth = (_matrix(events.iloc[at:], size).toarray() > 0) & (seen.toarray() == 0)
        asked = np.flatnonzero(truth.any(1) & (np.asarray(seen.sum(1)).ravel() > 0))
        allowed = seen[asked].toarray() == 0
        popular = np.asarray(seen.sum(0)).ravel()
        scores = Items.fit(seen, seed).scores(seen[asked])
        found.append(_measures(truth[asked], _top(np.where(allowed, scores, -np.inf)))["ndcg"])
        simple.append(_measures(truth[asked], _top(np.where(allowed, popular, -np.inf)))["ndcg"])
    study.number("films_ndcg", found, baseline=simple)


@dataclass(frozen=True)
class Shape:
    people: int
    items: int


def _matrix(events: pd.DataFrame, size: Any) -> Any:
    ones = np.ones(len(events), dtype=np.float32)
    return sparse.csr_matrix((ones, (events.person, events.item)), shape=(size.people, size.items))


def _top(scores: Any) -> Any:
    return np.argsort(-scores, axis=1, kind="stable")[:, :TOP]


def _measures(truth: Any, found: Any) -> dict[str, float]:
    discount = 1 / np.log2(np.arange(2, TOP + 2))
    hits = np.take_along_axis(truth, found, 1)
    ideal = np.array([discount[: min(n, TOP)].sum() for n in truth.sum(1)])
    return {"ndcg": float(((hits * discount).sum(1) / ideal).mean()), "hit": float(hits.any(1).mean())}


def _chosen(past: pd.DataFrame, first: int, window: int, size: Any, seed: int) -> tuple[Any, Any]:
    """The better of the two models by the last weeks before the moment, fitted anew on all before it; and the other."""
    earlier, held = past[past.day < first - window], past[past.day >= first - window]
    seen, truth = _matrix(earlier, size), _matrix(held, size).toarray() > 0
    truth &= seen.toarray() == 0
    asked = np.flatnonzero(truth.any(1))
    quality = {}
    for kind in (Factors, Items):
        scores = np.where(seen[asked].toarray() == 0, kind.fit(seen, seed).scores(seen[asked]), -np.inf)
        quality[kind] = _measures(truth[asked], _top(scores))["ndcg"]
    order = sorted(quality, key=lambda kind: -quality[kind])
    whole = _matrix(past, size)
    return order[0].fit(whole, seed), order[1].fit(whole, seed)


class Recommender:
    fallback: Any = None
    """What to show somebody of whom nothing is known: how often each item was picked lately."""

    def scores(self, history: Any) -> Any:
        raise NotImplementedError

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Takes `history`: numbers of items with blanks between. Gives ten others, the best first."""
        rows = [
            [int(word) for word in str(text).split() if word.isdigit() and int(word) < self.items]
            for text in frame.history
        ]
        history = sparse.lil_matrix((len(rows), self.items), dtype=np.float32)
        for i, row in enumerate(rows):
            history[i, row] = 1
        history = history.tocsr()
        scores = np.array(self.scores(history))
        if self.fallback is not None:
            scores[np.asarray(history.sum(1)).ravel() == 0] = self.fallback
        best = _top(np.where(history.toarray() == 0, scores, -np.inf))
        return pd.DataFrame(
            {"items": [" ".join(map(str, row)) for row in best], "known": [len(row) for row in rows]}
        )


@dataclass
class Factors(Recommender):
    """Alternating least squares on implicit feedback (the library implicit); a history is folded in."""

    item_factors: Any
    regularisation: float
    weight: float
    items: int

    @classmethod
    def fit(cls, seen: Any, seed: int) -> "Factors":
        from implicit.als import AlternatingLeastSquares

        model = AlternatingLeastSquares(
            factors=16,
            regularization=2.0,
            alpha=4.0,
            iterations=12,
            random_state=seed,
            num_threads=1,
            use_gpu=False,
        )
        model.fit(seen, show_progress=False)
        return cls(np.asarray(model.item_factors), 2.0, 4.0, seen.shape[1])

    def scores(self, history: Any) -> Any:
        y = self.item_factors
        gram = y.T @ y + self.regularisation * np.eye(y.shape[1])
        people = []
        for i in range(history.shape[0]):
            own = y[history[i].indices]
            people.append(np.linalg.solve(gram + self.weight * own.T @ own, (1 + self.weight) * own.sum(0)))
        return np.array(people) @ y.T


@dataclass
class Items(Recommender):
    """EASE: a linear model from items to items in closed form (Steck, WWW 2019)."""

    weights: Any
    items: int

    @classmethod
    def fit(cls, seen: Any, seed: int) -> "Items":
        gram = np.asarray((seen.T @ seen).todense(), dtype=np.float64)
        gram[np.diag_indices_from(gram)] += 150.0
        inverse = np.linalg.inv(gram)
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        return cls(weights.astype(np.float32), seen.shape[1])

    def scores(self, history: Any) -> Any:
        return np.asarray(history @ self.weights)


@dataclass
class Popular(Recommender):
    counts: Any
    items: int

    @classmethod
    def fit(cls, past: pd.DataFrame, first: int, size: Any) -> "Popular":
        recent = past[past.day >= first - RECENT]
        return cls(
            recent.item.value_counts().reindex(range(size.items), fill_value=0).to_numpy().astype(float),
            size.items,
        )

    def scores(self, history: Any) -> Any:
        return np.broadcast_to(self.counts, (history.shape[0], self.items))
