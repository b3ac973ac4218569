"""Sentiment by VADER: a lexicon with rules, for short English texts. The thresholds are those of its authors."""

from __future__ import annotations

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MARGIN = 0.05


def load(_read: Callable[[str], bytes], _options: dict[str, Any]) -> Callable[[list[str]], dict[str, Any]]:
    analyzer = SentimentIntensityAnalyzer()

    def answer(texts: list[str]) -> dict[str, Any]:
        scores = [analyzer.polarity_scores(text)["compound"] for text in texts]
        return {"label": [_label(score) for score in scores], "score": scores}

    return answer


def _label(score: float) -> str:
    return "positive" if score >= _MARGIN else "negative" if score <= -_MARGIN else "neutral"
