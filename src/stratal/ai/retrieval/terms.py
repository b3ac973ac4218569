"""The words that texts are found by: the same for passages, when an index is built, and for questions.

Standard library only: the job that builds an index runs these very lines in its own environment.
"""

import re
import unicodedata

_WORD = re.compile(r"\w+")
_QUESTION = frozenset(
    {
        "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "could", "did", "do", "does", "for",
        "from", "had", "has", "have", "how", "i", "if", "in", "is", "it", "its", "may", "me", "my", "of", "on", "or",
        "our", "shall", "should", "so", "such", "that", "the", "their", "them", "there", "these", "they", "this",
        "those", "to", "was", "we", "were", "what", "when", "where", "which", "who", "whom", "whose", "why", "will",
        "with", "would", "you", "your"
    }
)  # fmt: skip


def terms_of(text: str) -> list[str]:
    """The text's words in order: case and width folded, a plural's s taken off."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [_stem(word) for word in _WORD.findall(folded)]


def asked_terms(question: str) -> list[str]:
    """The words of a question that say what it is about, each once; all of them when none does."""
    folded = unicodedata.normalize("NFKC", question).casefold()
    words = _WORD.findall(folded)
    telling = [word for word in words if word not in _QUESTION] or words
    return list(dict.fromkeys(_stem(word) for word in telling))


def _stem(word: str) -> str:
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
