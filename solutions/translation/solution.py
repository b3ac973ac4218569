"""English to German, messages of programs: by a model that was pulled, or else by the mechanics of one."""

import gettext
import io
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from kit import Study, Trial, checks, plots
from network import Network, learned
from sacrebleu.metrics import BLEU, CHRF
from words import Dictionary, placeholders

OWN, PULLED = "small-en-de", "opus-mt-en-de"
"""Registered models of the solution's project: what is made here, and what --download pulls."""
STEPS = {"tiny": 8, "default": 800, "full": 4000}


def ingest(study: Study) -> None:
    """Messages of Django and their German, as its translators wrote them."""
    import django

    root = Path(django.__file__).parent
    pairs: dict[str, str] = {}
    whole = io.BytesIO()
    for path in sorted(root.glob("**/locale/de/LC_MESSAGES/*.mo")):
        raw = path.read_bytes()
        whole.write(raw)
        with io.BytesIO(raw) as file:
            found = gettext.GNUTranslations(file)._catalog
        pairs.update({k: v for k, v in found.items() if isinstance(k, str) and k and "\x04" not in k and v})
    study.source("messages", whole.getvalue(), rows=len(pairs), suffix=".mo")
    rows, seen = [], set()
    for english, german in sorted(pairs.items()):
        plain = _plain(english)
        if plain.lower() not in seen and 1 <= len(plain.split()) <= 30 and "<" not in plain:
            seen.add(plain.lower())
            rows.append((len(rows), plain, _plain(german)))
    frame = pd.DataFrame(rows, columns=["message", "english", "german"])
    study.write("words.messages", frame.iloc[::8] if study.tiny else frame)


def train(study: Study, seed: int) -> Trial:
    """A fifth of the messages is tested. What was pulled learns nothing here; what is made here learns the rest."""
    frame = study.read("words.messages").sort_values("message")
    pairs = list(zip(frame.english, frame.german, strict=True))
    order = np.random.default_rng(seed).permutation(len(pairs))
    tested, rest = order[: len(pairs) // 5], order[len(pairs) // 5 :]
    if study.plant == "leak":
        rest = order
    fit, test = [pairs[i] for i in rest], [pairs[i] for i in tested]
    study.overlap = 0.25
    if seed == 1:
        here, there = [a.lower() for a, _ in fit], [a.lower() for a, _ in test]
        study.leakage(checks.overlap(here, there, what="messages"))
        study.fault("learned on what is tested", checks.overlap(here + there[:1], there, what="messages"))
    candidate, commit = _network(study, fit, seed)
    baseline = Dictionary.fit(fit)
    english, german = [a for a, _ in test], [b for _, b in test]
    told = {"candidate": candidate.translated(english), "baseline": baseline.translated(english)}
    return Trial(
        _measures(english, told["candidate"], german),
        _measures(english, told["baseline"], german),
        keep=(candidate, baseline, test, told, commit),
    )


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    candidate, baseline, test, told, _ = trials[-1].keep
    german = np.array([b for _, b in test], dtype=object)
    study.baseline_knows_something(
        lambda truth, said: CHRF().corpus_score(list(said), [list(truth)]).score,
        german, np.array(told["baseline"], dtype=object), better="higher",
    )  # fmt: skip
    made = "pulled" if study.download else "made here"
    study.table(
        f"The model ({made}), as the Hub's door gave it",
        ["seed", "commit", "files", "megabytes"],
        [[i, t.keep[4][:12], len(t.keep[0].files), round(sum(map(len, t.keep[0].files.values())) / 1e6, 1)]
         for i, t in enumerate(trials, 1)],
    )  # fmt: skip
    study.table(
        "Ten messages that were tested",
        ["English", "German", "the model", "word by word"],
        [
            [a, b, c, d]
            for (a, b), c, d in list(zip(test, told["candidate"], told["baseline"], strict=True))[:10]
        ],
    )
    rows = [
        (label, float(np.mean([getattr(t, role)["chrf"] for t in trials])), None, None)
        for label, role in ((f"the model, {made}", "candidate"), ("word by word", "baseline"))
    ]
    study.plot(
        "chrf",
        "Likeness to the translators' German (chrF)",
        plots.bars(rows, x="100 is the same"),
        picture=True,
    )
    lengths = np.array([len(a.split()) for a, _ in test])
    bands = (("1 to 3 words", 1, 3), ("4 to 8 words", 4, 8), ("more", 9, 99))
    lines = [
        (label, [i for i, (_, low, high) in enumerate(bands) if ((lengths >= low) & (lengths <= high)).any()],
         [CHRF().corpus_score([said[k] for k in at], [[german[k] for k in at]]).score
          for _, low, high in bands for at in [np.flatnonzero((lengths >= low) & (lengths <= high))] if len(at)])
        for label, said in (("the model", told["candidate"]), ("word by word", told["baseline"]))
    ]  # fmt: skip
    study.plot(
        "length", "By the length of the message", plots.lines(lines, x="1 to 3 words, 4 to 8, more", y="chrF")
    )
    return Translator(candidate), Translator(baseline)


def _plain(text: str) -> str:
    return " ".join(text.split())


def _measures(english: list[str], said: list[str], german: list[str]) -> dict[str, float]:
    kept = [placeholders(a) == placeholders(b) for a, b in zip(english, said, strict=True) if placeholders(a)]
    return {
        "chrf": float(CHRF().corpus_score(said, [german]).score),
        "bleu": float(BLEU(effective_order=True).corpus_score(said, [german]).score),
        "kept": float(np.mean(kept)) if kept else 1.0,
    }


# -- the model ---------------------------------------------------------------------------------------------


def _network(study: Study, pairs: list[tuple[str, str]], seed: int) -> tuple[Network, str]:
    """What was pulled into the project, or a small one that is made here and published; both through the Hub's door."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    project = os.environ["STRATAL_PROJECT"]
    if study.download:
        repository, commit = f"{project}/{PULLED}", "main"
    else:
        repository = f"{project}/{OWN}"
        with tempfile.TemporaryDirectory() as folder:
            learned(pairs, Path(folder), seed, STEPS[study.size], study.say)
            hub = HfApi()
            hub.create_repo(repository, exist_ok=True)
            commit = hub.upload_folder(
                repo_id=repository, folder_path=folder, commit_message=f"Seed {seed}"
            ).oid
    with tempfile.TemporaryDirectory() as cache:
        folder = snapshot_download(repository, revision=commit, cache_dir=cache)
        return Network.of(Path(folder)), Path(folder).name


@dataclass
class Translator:
    """Takes `text` (English, up to 1,000 characters). Gives `german`, and which placeholders of it were lost."""

    by: Any

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        texts = [re.sub(r"\s+", " ", str(text)).strip() for text in frame.text]
        if any(len(text) > 1000 for text in texts):
            raise ValueError("`text` has at most 1,000 characters.")
        said = self.by.translated(texts)
        lost = [
            [p for p in placeholders(text) if p not in placeholders(made)]
            for text, made in zip(texts, said, strict=True)
        ]
        return pd.DataFrame({"german": said, "lost": [json.dumps(one) for one in lost]})
