"""The language of a text by py3langid: character n-grams, 141 languages by their ISO 639 codes.

A text without a letter is in none: `zxx`, as ISO 639 has it. The model would name one nonetheless.
"""

from __future__ import annotations

from py3langid.langid import MODEL_FILE, LanguageIdentifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


_NONE = "zxx"


def load(_read: Callable[[str], bytes], _options: dict[str, Any]) -> Callable[[list[str]], dict[str, Any]]:
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def answer(texts: list[str]) -> dict[str, Any]:
        found = [identifier.classify(text) if any(map(str.isalpha, text)) else (_NONE, 1.0) for text in texts]
        return {"language": [str(code) for code, _ in found], "score": [float(score) for _, score in found]}

    return answer
