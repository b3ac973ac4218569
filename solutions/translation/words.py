"""The simple way: each word by the one it stands beside most, learned from pairs of sentences (IBM model 1)."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

_WORD = re.compile(r"%\([a-z_0-9]+\)[sd]|%[sd]|\{[a-z_0-9]*\}|\w+|[^\w\s]|\s+")


@dataclass
class Dictionary:
    """Words it never saw stay as they are; so do placeholders, numbers and whatever is no word."""

    best: dict[str, str]

    @classmethod
    def fit(cls, pairs: list[tuple[str, str]], rounds: int = 8) -> "Dictionary":
        """Expectation and maximisation of which word stands for which (Brown et al., 1993)."""
        sides = [(_words(a), _words(b)) for a, b in pairs]
        chance: dict[tuple[str, str], float] = defaultdict(lambda: 1.0)
        for _ in range(rounds):
            counts: Counter[tuple[str, str]] = Counter()
            totals: Counter[str] = Counter()
            for here, there in sides:
                for word in there:
                    whole = sum(chance[word, other] for other in here) or 1.0
                    for other in here:
                        part = chance[word, other] / whole
                        counts[word, other] += part
                        totals[other] += part
            chance = defaultdict(float, {(w, o): c / totals[o] for (w, o), c in counts.items()})
        best: dict[str, tuple[float, str]] = {}
        for (word, other), p in chance.items():
            best[other] = max(best.get(other, (0.0, "")), (p, word))
        return cls({other: word for other, (_, word) in best.items()})

    def translated(self, texts: list[str]) -> list[str]:
        return ["".join(self._one(part) for part in _WORD.findall(text)) for text in texts]

    def _one(self, part: str) -> str:
        if not part[0].isalpha():
            return part
        found = self.best.get(part.lower(), part)
        return found[:1].upper() + found[1:] if part[0].isupper() else found


def _words(text: str) -> list[str]:
    return [part.lower() for part in _WORD.findall(text) if part[0].isalpha()]


def placeholders(text: str) -> list[str]:
    """What a program will put values in place of, in order of the alphabet."""
    return sorted(part for part in _WORD.findall(text) if part[0] in "%{" and len(part) > 1)
