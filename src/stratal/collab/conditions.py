"""From parsed conditions to SQL that means the same on both databases."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, and_, func, literal, or_

from stratal.collab.search import Condition

_COMPARISONS: dict[str, Callable[[ColumnElement[Any], Any], ColumnElement[bool]]] = {
    "=": lambda column, value: column.__eq__(value),
    "!=": lambda column, value: column.__ne__(value),
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
    "IN": lambda column, value: column.in_(value),
    "NOT IN": lambda column, value: column.not_in(value),
}


def compare(column: ColumnElement[Any], condition: Condition, dialect: str) -> ColumnElement[bool]:
    """``column <op> value``. LIKE minds case, ILIKE does not; neither knows an escape character."""
    value: Any = condition.value
    if condition.op == "LIKE":
        return _like(column, value, dialect)
    if condition.op == "ILIKE":
        return _like(func.lower(column), value.lower(), dialect)
    return _COMPARISONS[condition.op](column, value)


def compare_metric(
    value: ColumnElement[Any], is_nan: ColumnElement[Any], condition: Condition, dialect: str
) -> ColumnElement[bool]:
    """As `compare`, for a value that may be NaN: which differs from everything and compares to nothing."""
    found = compare(value, condition, dialect)
    if condition.op == "!=":
        return or_(found, is_nan == 1)
    return and_(found, is_nan == 0)


def _like(column: ColumnElement[Any], pattern: str, dialect: str) -> ColumnElement[bool]:
    if dialect == "sqlite":  # its LIKE ignores case, its GLOB does not
        return column.op("GLOB", is_comparison=True)(literal(_glob(pattern)))
    return column.like(pattern.replace("\\", "\\\\"))


def _glob(pattern: str) -> str:
    return "".join({"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}.get(c, c) for c in pattern)
