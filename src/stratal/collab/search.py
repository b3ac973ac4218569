"""The grammar of searching: ``metrics.auc > 0.9 AND tags.`my tag` LIKE '%x%'`` and ``params.lr DESC``.

As MLflow documents it (https://mlflow.org/docs/latest/ml/search/search-runs): comparisons joined by
AND; a field is ``<entity>.<key>`` or an attribute's bare name; keys with odd characters stand in
backticks or double quotes; strings in single or double quotes. This module parses, and knows neither
tables nor which fields exist: a `Grammar` says that.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from stratal.kernel.errors import Invalid

Value = str | float | int | tuple[str, ...] | None

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<field>(?:`[^`]*`|[A-Za-z_]\w*)
               (?:\s*\.\s*(?:`[^`]*`|"[^"]*"|[\w][\w.\-/:]*))?)
    | (?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*")
    | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<operator><=|>=|!=|<>|==|=|<|>)
    | (?P<punctuation>[(),])
    )""",
    re.VERBOSE,
)
_WORDS = {"AND", "IN", "NOT", "LIKE", "ILIKE", "IS", "NULL", "ASC", "DESC"}
_MAX_FILTER = 20_000


class Entity(StrEnum):
    """What a field belongs to."""

    ATTRIBUTE = "attribute"
    METRIC = "metric"
    PARAM = "param"
    TAG = "tag"
    DATASET = "dataset"


_ENTITIES = {
    **dict.fromkeys(("attribute", "attributes", "attr", "run"), Entity.ATTRIBUTE),
    **dict.fromkeys(("metric", "metrics"), Entity.METRIC),
    **dict.fromkeys(("param", "params", "parameter", "parameters"), Entity.PARAM),
    **dict.fromkeys(("tag", "tags"), Entity.TAG),
    **dict.fromkeys(("dataset", "datasets"), Entity.DATASET),
}
_NUMERIC = frozenset({"=", "!=", "<", "<=", ">", ">="})
_TEXT = frozenset({"=", "!=", "LIKE", "ILIKE", "IN", "NOT IN"})
_KEYED = _TEXT | {"IS NULL", "IS NOT NULL"}


@dataclass(frozen=True, slots=True)
class Grammar:
    """Which fields can be searched. `text` and `numbers` name the attributes (alias → name)."""

    entities: frozenset[Entity]
    text: Mapping[str, str]
    numbers: Mapping[str, str]
    order_only: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison; `op` is upper case, `value` a float for metrics, a tuple for IN, None for IS NULL."""

    entity: Entity
    key: str
    op: str
    value: Value


@dataclass(frozen=True, slots=True)
class Order:
    entity: Entity
    key: str
    ascending: bool


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text in words


def parse_filter(text: str | None, grammar: Grammar) -> list[Condition]:
    """The comparisons of a filter, all of which must hold. Raises `Invalid` saying what is wrong with it."""
    tokens = _tokens(text or "")
    conditions: list[Condition] = []
    at = 0
    while at < len(tokens):
        if conditions:
            if not tokens[at].is_word("AND"):
                raise _bad(text, f"expected AND before {tokens[at].text!r} (OR and brackets are not known)")
            at += 1
        condition, at = _condition(tokens, at, grammar, text)
        conditions.append(condition)
    return conditions


def parse_order(clauses: Sequence[str], grammar: Grammar) -> list[Order]:
    """The clauses of an ``order_by``: a field, then optionally ASC or DESC. Raises `Invalid`."""
    orders: list[Order] = []
    for clause in clauses:
        tokens = _tokens(clause)
        ascending = True
        if len(tokens) > 1 and tokens[-1].is_word("ASC", "DESC"):
            ascending = tokens[-1].text == "ASC"
            tokens = tokens[:-1]
        if len(tokens) != 1 or tokens[0].kind not in {"field", "string"}:
            raise Invalid(f"Cannot order by {clause[:200]!r}.", hint="Write a field, then ASC or DESC.")
        entity, key = _field(tokens[0].text, grammar, clause, ordering=True)
        if entity is Entity.DATASET:
            raise Invalid(f"Cannot order by {clause[:200]!r}: data sets have no order.")
        if any(order.entity is entity and order.key == key for order in orders):
            raise Invalid(f"order_by names {key!r} twice.")
        orders.append(Order(entity, key, ascending))
    return orders


def page_token(offset: int) -> str:
    """The token with which the page that begins at `offset` is asked for."""
    return base64.urlsafe_b64encode(b"%d" % offset).decode()


def offset_of(token: str | None) -> int:
    """Where the page begins (0 without a token). Raises `Invalid` for what `page_token` did not make."""
    if not token:
        return 0
    try:
        number = base64.urlsafe_b64decode(token.encode()).decode()
        if number.isdecimal() and number.isascii() and len(number) <= 15:
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise Invalid(
        "The page token is not one that this server made.", hint="Use next_page_token as it was answered."
    )


def _tokens(text: str) -> list[_Token]:
    if len(text) > _MAX_FILTER:
        raise Invalid(f"A filter has at most {_MAX_FILTER} characters.")
    tokens: list[_Token] = []
    at = 0
    stripped = text.rstrip().rstrip(";").rstrip()
    while at < len(stripped):
        match = _TOKEN.match(stripped, at)
        if match is None or match.end() == at:
            raise _bad(text, f"cannot read from {stripped[at : at + 40]!r}")
        kind = match.lastgroup or ""
        value = match[kind]
        if kind == "field" and value.upper() in _WORDS:
            kind, value = "word", value.upper()
        tokens.append(_Token(kind, value))
        at = match.end()
    return tokens


def _condition(tokens: list[_Token], at: int, grammar: Grammar, text: str | None) -> tuple[Condition, int]:
    if at >= len(tokens):
        raise _bad(text, "expected another comparison after AND")
    if tokens[at].kind != "field":
        raise _bad(text, f"expected a field such as metrics.auc, not {tokens[at].text!r}")
    entity, key = _field(tokens[at].text, grammar, text)
    op, at = _operator(tokens, at + 1, text)
    _check_operator(entity, key, op, grammar, text)
    if op in {"IS NULL", "IS NOT NULL"}:
        return Condition(entity, key, op, None), at
    if op in {"IN", "NOT IN"}:
        values, at = _list(tokens, at, text)
        return Condition(entity, key, op, values), at
    if at >= len(tokens):
        raise _bad(text, f"expected a value after {op}")
    return Condition(entity, key, op, _value(entity, key, tokens[at], grammar, text)), at + 1


def _operator(tokens: list[_Token], at: int, text: str | None) -> tuple[str, int]:
    following = tokens[at : at + 3]
    words = [token.text if token.kind == "word" else "" for token in following]
    if following and following[0].kind == "operator":
        return {"==": "=", "<>": "!="}.get(following[0].text, following[0].text), at + 1
    if words[:1] in (["LIKE"], ["ILIKE"], ["IN"]):
        return words[0], at + 1
    if words[:2] == ["NOT", "IN"]:
        return "NOT IN", at + 2
    if words[:2] == ["IS", "NULL"]:
        return "IS NULL", at + 2
    if words == ["IS", "NOT", "NULL"]:
        return "IS NOT NULL", at + 3
    raise _bad(text, "expected a comparison: =, !=, <, <=, >, >=, LIKE, ILIKE, IN, IS NULL")


def _check_operator(entity: Entity, key: str, op: str, grammar: Grammar, text: str | None) -> None:
    if entity is Entity.METRIC or (entity is Entity.ATTRIBUTE and key in grammar.numbers.values()):
        known = _NUMERIC
    elif entity in {Entity.PARAM, Entity.TAG}:
        known = _KEYED
    else:
        known = _TEXT
    if op not in known:
        raise _bad(
            text,
            f"{entity.value} {key!r} cannot be compared with {op}; use one of {', '.join(sorted(known))}",
        )


def _list(tokens: list[_Token], at: int, text: str | None) -> tuple[tuple[str, ...], int]:
    values: list[str] = []
    if at >= len(tokens) or tokens[at].text != "(":
        raise _bad(text, "expected a list such as ('a', 'b')")
    at += 1
    while at < len(tokens):
        if tokens[at].kind != "string":
            break
        values.append(_unquote(tokens[at].text))
        at += 1
        if at < len(tokens) and tokens[at].text == ",":
            at += 1
        elif at < len(tokens) and tokens[at].text == ")":
            return tuple(values), at + 1
        else:
            break
    raise _bad(text, "expected a list of quoted strings such as ('a', 'b')")


def _value(entity: Entity, key: str, token: _Token, grammar: Grammar, text: str | None) -> Value:
    numeric = entity is Entity.METRIC or (entity is Entity.ATTRIBUTE and key in grammar.numbers.values())
    if numeric:
        if token.kind != "number":
            raise _bad(text, f"{entity.value} {key!r} is compared with a number, not {token.text!r}")
        return float(token.text)
    if token.kind != "string":
        raise _bad(text, f"{entity.value} {key!r} is compared with a string in quotes, not {token.text!r}")
    return _unquote(token.text)


def _field(written: str, grammar: Grammar, text: str | None, *, ordering: bool = False) -> tuple[Entity, str]:
    """``metrics.`my key` `` → (METRIC, ``my key``); a name without an entity is an attribute's."""
    first, dot, rest = _split(written)
    if not dot:
        entity, key = Entity.ATTRIBUTE, first
    else:
        found = _ENTITIES.get(first)
        if found is None:
            raise _bad(text, f"{first!r} is nothing that can be searched; use {_names(grammar)}")
        entity, key = found, rest
    if entity not in grammar.entities:
        raise _bad(text, f"{entity.value}s cannot be searched here; use {_names(grammar)}")
    if entity is Entity.ATTRIBUTE:
        known = {**grammar.text, **grammar.numbers, **(grammar.order_only if ordering else {})}
        if key not in known:
            raise _bad(
                text, f"there is no attribute {key!r}; there are {', '.join(sorted(set(known.values())))}"
            )
        return entity, known[key]
    if entity is Entity.DATASET and key not in {"name", "digest", "context"}:
        raise _bad(text, f"a data set has name, digest and context, no {key!r}")
    return entity, key


def _split(written: str) -> tuple[str, bool, str]:
    if written.startswith("`"):
        first, rest = written[1:].split("`", 1)
    else:
        first, dot, after = written.partition(".")
        first, rest = first.strip(), dot + after
    rest = rest.strip()
    if not rest:
        return _unquote(first), False, ""
    return first, True, _unquote(rest[1:].strip())


def _unquote(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"`":
        return text[1:-1].replace(text[0] * 2, text[0])
    return text


def _names(grammar: Grammar) -> str:
    return ", ".join(sorted(f"{entity.value}s" for entity in grammar.entities))


def _bad(text: str | None, why: str) -> Invalid:
    shown = text or ""
    return Invalid(f"Cannot understand the search {shown[:200]!r}: {why}.", reason="bad_filter")
