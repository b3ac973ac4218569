"""Questions about the platform, answered by sentences of its own documentation with their places, or declined."""

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from finding import Encoder, Finding, Passages
from kit import Study, Trial, checks, evidence, plots
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

INDEX = "documentation"
TINY = ("audit.md", "git.md", "gpus.md", "isolation.md", "objects.md")
FEATURES = ["near", "share", "words"]
USED = 3
"""Passages that an answer's quotes are taken from."""
NOTE = "Sentences of the documentation, as they stand there: no model wrote them."
DECLINED = "The documentation does not seem to answer that."


def ingest(study: Study) -> None:
    """The pages as the installation has them, and questions of which it is known whether these answer them."""
    folder = study.folder / "documentation"
    pages = {path.name: path.read_bytes() for path in sorted(folder.glob("*.md"))}
    edition = (folder / "EDITION").read_text()
    whole = b"".join(name.encode() + b"\0" + data + b"\0" for name, data in pages.items())
    study.source("documentation", whole, rows=len(pages), expected=edition)
    kept = {name: data for name, data in pages.items() if not study.tiny or name in TINY}
    for name, data in kept.items():
        study.store(f"documentation/{name}", data)
    study.write("help.pages", pd.DataFrame({"page": list(kept), "text": [d.decode() for d in kept.values()]}))
    raw = (study.folder / "questions.jsonl").read_bytes()
    asked = [json.loads(line) for line in raw.splitlines()]
    study.source("questions", raw, rows=len(asked), suffix=".jsonl")
    everything = [_plain(data.decode()) for data in pages.values()]
    here = [_plain(data.decode()) for data in kept.values()]
    rows, far = [], 0
    for number, one in enumerate(asked):
        words = [_plain(words) for words in one["evidence"]]
        answerable = int(bool(words))
        stands = int(any(w in page for w in words for page in everything)) if words else 1
        if study.tiny:
            far += not answerable
            if (words and not any(w in page for w in words for page in here)) or (not words and far > 16):
                continue
        rows.append((number, one["question"], one["kind"], answerable, stands, "\n".join(words)))
    columns = ["question", "text", "kind", "answerable", "stands", "evidence"]
    study.write("help.questions", pd.DataFrame(rows, columns=columns))


def transform(study: Study) -> None:
    """What the index finds for each question, through its own door, and what is found here by the same passages."""
    passages, encoder = _passages(study), Encoder()
    asked = _asked(study)
    vectors = encoder.vectors(list(asked.text))
    kept = io.BytesIO()
    np.save(kept, vectors)
    study.store("vectors.npy", kept.getvalue())
    rows, found = [], []
    for one, vector in zip(asked.itertuples(), vectors, strict=True):
        told = study.native("POST", f"/indexes/{INDEX}/search", {"query": one.text, "limit": 10})["passages"]
        here = passages.find(one.text, vector)
        words = one.evidence.split("\n") if one.evidence else []
        there = next((place for place, p in enumerate(told, 1) if _holds(p["text"], words)), 0)
        same = _page(told[0]["document"]) == passages.pages[here.order[0]]
        found.append((one.question, there, int(same)))
        rows.append((one.question, here.near, here.share, here.words, one.answerable))
    study.write("help.searched", pd.DataFrame(found, columns=["question", "place", "as_index"]))
    study.write("help.asked", pd.DataFrame(rows, columns=["question", *FEATURES, "answerable"]))


def train(study: Study, seed: int) -> Trial:
    """Each seed deals the questions anew: on half of them it is learned when to answer, the rest is tested."""
    frame = study.read("help.asked")
    asked = _asked(study).set_index("question").loc[frame.question].reset_index()
    passages, vectors = _loaded(study), np.load(io.BytesIO(study.fetch("work/vectors.npy")))
    fit, test = _halves(asked, seed)
    study.overlap = 1.0
    if study.plant == "leak":
        fit = np.arange(len(asked))
    if seed == 1:
        texts = asked.text.to_numpy()
        study.leakage(checks.overlap(texts[fit], texts[test], what="questions"))
        study.fault("learned on what is tested", checks.overlap(texts, texts[test], what="questions"))
    y = frame.answerable.to_numpy()
    candidate = Guide.fit(passages, frame[FEATURES].to_numpy()[fit], y[fit], by_words=False)
    baseline = Guide.fit(passages, frame[FEATURES].to_numpy()[fit], y[fit], by_words=True)
    told = {
        name: [model.outcome(asked.iloc[i], vectors[i]) for i in test]
        for name, model in (("candidate", candidate), ("baseline", baseline))
    }
    measured = {name: _measures(found) for name, found in told.items()}
    usual = asked.iloc[fit][y[fit] == 1]
    pages = [
        page
        for words in usual.evidence
        for page in {passages.pages[i] for i in passages_with(passages, words)}
    ]
    most = max(sorted(set(pages)), key=pages.count)
    return Trial(
        measured["candidate"], measured["baseline"],
        keep=(candidate, baseline, test, told, _first_page(told["candidate"]),
              float(np.mean([most in o["pages"] for o in told["candidate"] if o["answerable"]]))),
    )  # fmt: skip


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    study.labels_are_the_sources()
    frame = study.read("help.asked")
    study.no_single_feature(frame.drop(columns="question"), "answerable", limit=0.99)
    candidate, baseline, *_ = trials[0].keep
    study.baseline_knows_something(
        roc_auc_score, frame.answerable.to_numpy(), frame.words.to_numpy(), better="higher"
    )
    study.number("first_page", [t.keep[4] for t in trials], baseline=[t.keep[5] for t in trials])
    searched = study.read("help.searched")
    study.number("as_index", float(searched.as_index.mean()))
    places = searched.place[frame.answerable.to_numpy() == 1]
    study.number("index_recall", float(((places > 0) & (places <= 5)).mean()))
    every = [o for t in trials for o in t.keep[3]["candidate"]]
    pages = {row.page: _plain(row.text) for row in study.read("help.pages").itertuples()}
    quotes = [(page, quote) for o in every if o["answered"] for page, quote in o["quotes"]]
    study.number("verbatim", float(np.mean([_plain(quote) in pages[page] for page, quote in quotes])))
    right = [o["cited"] for o in every if o["answered"] and o["answerable"]]
    share, low, high = evidence.proportion(sum(right), len(right))
    study.number("cited", share, low=low, high=high)
    found = evidence.calibration([o["sure"] for o in every], [o["answerable"] for o in every])
    study.number("calibration_error", found["error"])
    study.number("calibration_slope", found["slope"])
    own = trials[0].keep[3]["candidate"] if study.tiny else _once(every)
    study.subgroups(
        [
            evidence.subgroup("questions", label, sum(o["right"] for o in part), len(part), measure="handled right")
            for label, kind in (("how to do something", "how"), ("what is the case", "fact"),
                                ("not answered here, of this field", "near"), ("not answered here, of the world", "far"))
            for part in [[o for o in own if o["kind"] == kind]]
        ]
    )  # fmt: skip
    _draw(study, trials, found)
    return candidate, baseline


def _draw(study: Study, trials: list[Trial], calibration: Any) -> None:
    lines = []
    for label, role in (("meaning and words", "candidate"), ("words alone", "baseline")):
        every = sorted((o for t in trials for o in t.keep[3][role]), key=lambda o: -o["sure"])
        good = np.cumsum([o["answerable"] and o["cited"] for o in every]) / np.arange(1, len(every) + 1)
        lines.append((label, np.arange(1, len(every) + 1) / len(every), good))
    study.plot(
        "risk",
        "Of the questions answered, the surest first: how many rightly",
        plots.lines(lines, x="share of questions answered", y="answers with the right source", y_range=(0, 1.02)),
        badge="real",
        picture=True,
    )  # fmt: skip
    bars = [
        (f"{label}, first {depth}", float(np.mean([o["place"] <= depth for t in trials for o in t.keep[3][role]
                                                   if o["answerable"]])), None, None)
        for depth in (1, 5, 10) for label, role in (("both", "candidate"), ("words", "baseline"))
    ]  # fmt: skip
    study.plot("recall", "The answering passage is among them", plots.bars(bars, x="share of questions"))
    curve = calibration["curve"]
    study.plot(
        "calibration",
        "How sure it says it is, and how often rightly",
        plots.lines(
            [("asked", [c["said"] for c in curve], [c["was"] for c in curve])],
            x="said to be answered", y="is answered", diagonal=True, markers=True, y_range=(0, 1),
        ),
    )  # fmt: skip
    wrong = [o for o in trials[0].keep[3]["candidate"] if not o["right"]][:12]
    study.table(
        "What went wrong, of the first seed's test",
        ["question", "what it did", "sure"],
        [[o["text"], _said(o), round(o["sure"], 2)] for o in wrong],
    )


def _said(outcome: dict[str, Any]) -> str:
    if not outcome["answered"]:
        return "declined, though the documentation answers it"
    page = outcome["quotes"][0][0] if outcome["quotes"] else "nothing"
    return f"cited {page}" + ("" if outcome["answerable"] else ", though nothing answers it")


# -- measuring ---------------------------------------------------------------------------------------------


def _asked(study: Study) -> pd.DataFrame:
    """Questions of which it is known what answers them; whose words a later edition dropped are left out."""
    asked = study.pristine("help.questions")
    return asked[asked.stands == 1].sort_values("question").reset_index(drop=True)


def _passages(study: Study) -> Passages:
    rows = study.pristine(f"indexes.{INDEX}").sort_values("id")
    return Passages(
        [_page(document) for document in rows.document],
        list(rows.title),
        list(rows.text),
        [list(terms) for terms in rows.terms],
        np.stack([np.asarray(vector, dtype=np.float32) for vector in rows.embedding]),
        [(number, part) for number, parts in enumerate(rows.parts) for part in parts],
        np.stack(
            [np.asarray(vector, dtype=np.float32) for parts in rows.part_embeddings for vector in parts]
        ),
    )


def _loaded(study: Study) -> Passages:
    """As `_passages`; once a process."""
    if not hasattr(study, "passages"):
        study.passages = _passages(study)
    return study.passages


def _page(document: str) -> str:
    return document.rpartition("/")[2]


def _plain(text: str) -> str:
    return " ".join(text.split())


def _holds(text: str, words: list[str]) -> bool:
    plain = _plain(text)
    return any(one in plain for one in words)


def passages_with(passages: Passages, evidence: str) -> list[int]:
    words = evidence.split("\n") if evidence else []
    return [i for i, text in enumerate(passages.texts) if _holds(text, words)]


def _halves(asked: pd.DataFrame, seed: int) -> tuple[Any, Any]:
    """Half of the questions of each kind."""
    rng, fit = np.random.default_rng(seed), []
    for _, rows in asked.groupby("kind"):
        fit += list(rng.permutation(rows.index.to_numpy())[: (len(rows) + 1) // 2])
    return np.sort(fit), np.array(sorted(set(asked.index) - set(fit)))


def _measures(found: list[dict[str, Any]]) -> dict[str, float]:
    asked = [o for o in found if o["answerable"]]
    return {
        "right": float(np.mean([o["right"] for o in found])),
        "recall5": float(np.mean([o["place"] <= 5 for o in asked])),
        "mrr": float(np.mean([1 / o["place"] for o in asked])),
        "auc": float(roc_auc_score([o["answerable"] for o in found], [o["sure"] for o in found])),
        "answered": float(np.mean([o["answered"] for o in asked])),
        "declined": float(np.mean([not o["answered"] for o in found if not o["answerable"]])),
    }


def _first_page(found: list[dict[str, Any]]) -> float:
    return float(np.mean([o["first"] in o["pages"] for o in found if o["answerable"]]))


def _once(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each question once, as it went the first time that it was tested: intervals count questions, not seeds."""
    kept: dict[int, dict[str, Any]] = {}
    for one in found:
        kept.setdefault(one["question"], one)
    return list(kept.values())


# -- answering ---------------------------------------------------------------------------------------------


@dataclass
class Guide:
    """Takes `question`. Gives sentences of the documentation with their places, or declines, and how sure it is."""

    passages: Passages
    encoder: Encoder
    model: Any
    threshold: float
    by_words: bool

    @classmethod
    def fit(cls, passages: Passages, features: Any, y: Any, *, by_words: bool) -> "Guide":
        """The threshold is that which tells most questions rightly, of either kind alike, on those learned from."""
        made = cls(passages, Encoder(), None, 0.5, by_words)
        x = made._features(features)
        made.model = LogisticRegression(C=10.0).fit(x, y)
        p = made.model.predict_proba(x)[:, 1]
        cuts = np.unique(np.concatenate([[0.0], (np.sort(p)[1:] + np.sort(p)[:-1]) / 2]))
        gains = [(p[y == 1] >= cut).mean() + (p[y == 0] < cut).mean() for cut in cuts]
        made.threshold = float(cuts[int(np.argmax(gains))])
        return made

    def _features(self, rows: Any) -> Any:
        rows = np.asarray(rows, dtype=float)
        words = np.log1p(rows[:, 2:3])
        return words if self.by_words else np.column_stack([rows[:, :2], words])

    def sure(self, found: Finding) -> float:
        x = self._features([[found.near, found.share, found.words]])
        return float(self.model.predict_proba(x)[0, 1])

    def look(self, question: str, vector: Any) -> tuple[Finding, list[int]]:
        """What was found, and the passages in the order of this way of searching."""
        found = self.passages.find(question, vector)
        if self.by_words:
            words, _ = self.passages.by_words(question)
            return found, list(np.argsort(-words, kind="stable"))
        return found, list(found.order)

    def quotes(self, question: str, vector: Any, order: list[int]) -> list[tuple[int, str]]:
        if self.by_words:
            first = [(p, part) for p, part in self.passages.parts if p == order[0]]
            return first[:2]
        return self.passages.quotes(question, vector, [int(p) for p in order[:USED]])

    def outcome(self, asked: Any, vector: Any) -> dict[str, Any]:
        """How a question went of which it is known what answers it."""
        found, order = self.look(asked.text, vector)
        holding = set(passages_with(self.passages, asked.evidence))
        place = next((n for n, p in enumerate(order, 1) if p in holding), len(order) + 1)
        quotes = self.quotes(asked.text, vector, order)
        sure = self.sure(found)
        answered = sure >= self.threshold and bool(quotes)
        cited = bool(quotes) and quotes[0][0] in holding
        return {
            "question": int(asked.question),
            "text": asked.text,
            "kind": asked.kind,
            "answerable": int(asked.answerable),
            "place": place,
            "first": self.passages.pages[order[0]],
            "pages": {self.passages.pages[p] for p in holding},
            "sure": sure,
            "answered": answered,
            "cited": cited,
            "quotes": [(self.passages.pages[p], line) for p, line in quotes],
            "right": bool(answered and cited) if asked.answerable else not answered,
        }

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        rows = []
        vectors = self.encoder.vectors([str(text) for text in frame.question])
        for text, vector in zip(frame.question, vectors, strict=True):
            found, order = self.look(str(text), vector)
            quotes = self.quotes(str(text), vector, order)
            sure = self.sure(found)
            answered = sure >= self.threshold and bool(quotes)
            places = [
                {"page": self.passages.pages[p], "section": self.passages.titles[p], "quote": line}
                for p, line in quotes
            ]
            rows.append(
                {
                    "answer": " ".join(line for _, line in quotes) if answered else DECLINED,
                    "page": places[0]["page"] if answered else "",
                    "citations": json.dumps(places if answered else []),
                    "mode": "extractive" if answered else "declined",
                    "sure": round(sure, 4),
                    "note": NOTE if answered else "",
                }
            )
        return pd.DataFrame(rows)
