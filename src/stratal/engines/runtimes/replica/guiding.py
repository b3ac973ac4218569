"""Text that must have a form: of all tokens those are allowed with which it can still become one, by llguidance."""

from __future__ import annotations

import json

import numpy as np

from .arrays import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray


def compact(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema for JSON without space between its parts, which a model could otherwise write for ever."""
    return {**schema, "x-guidance": {"whitespace_flexible": False}}


def check(schema: dict[str, Any]) -> str:
    """The schema's grammar. Raises `Invalid` for one that cannot be held, `ImportError` without llguidance."""
    import llguidance

    try:
        grammar: str = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(compact(schema)))
        wrong = llguidance.LLMatcher.validate_grammar(grammar)
    except ValueError as error:
        wrong = str(error)
    if wrong:
        raise Invalid(f"The schema cannot be held: {wrong[:300]}")
    return grammar


class Guides:
    """Made once a model; `ready` says whether its environment can."""

    def __init__(self, tokenizer: Any, width: int, ends: set[int]) -> None:
        self._tokenizer = tokenizer
        self._width = width
        self._ends = sorted(ends)
        self._inner: Any = None
        try:
            import llguidance.hf  # noqa: F401
        except ImportError:
            self.ready = False
        else:
            self.ready = bool(getattr(tokenizer, "is_fast", False))

    def of(self, schema: dict[str, Any]) -> Guide:
        """Raises `Invalid` for a schema that cannot be held, or where nothing here can hold one."""
        if not self.ready:
            raise Invalid(
                "The model's environment has no llguidance, so it cannot hold a schema: "
                "add it to the model's requirements.txt and deploy it again."
            )
        import llguidance
        import llguidance.hf

        if self._inner is None:
            self._inner = llguidance.hf.from_tokenizer(
                self._tokenizer, n_vocab=self._width, eos_token=self._ends or None
            )
        matcher = llguidance.LLMatcher(self._inner, check(schema))
        if matcher.is_error():
            raise Invalid(f"The schema cannot be held: {matcher.get_error()[:300]}")
        return Guide(matcher)


class Guide:
    """One text's."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allow(self, scores: NDArray[Any]) -> None:
        """Put what may not come next to minus infinity."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = np.zeros(len(scores), bool)
        allowed[: min(len(bits), len(scores))] = bits[: len(scores)].astype(bool)
        scores[~allowed] = -np.inf

    def take(self, token: int) -> bool:
        """Note the token; False when with it the form is whole and nothing can follow."""
        if not self._matcher.consume_token(token):
            raise RuntimeError(f"a token that was not allowed: {self._matcher.get_error()[:300]}")
        return not self._matcher.is_stopped()
