"""What names and values may be: the limits that MLflow's clients know, kept in one place."""

import posixpath
import re

from stratal.kernel.errors import Invalid

MAX_KEY = 250
MAX_VALUE = 100_000
MAX_NAME = 500
MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_TAGS = 100
INT64 = range(-(2**63), 2**63)

_KEY = re.compile(r"[/\w.\- :]+\Z")


def check_key(what: str, key: str) -> str:
    """Return `key` when it can name a param, metric or tag, else raise `Invalid`.

    Letters, digits, ``_ - . : /`` and spaces, at most 250 characters, and not a path that resolves to
    another one (clients lay keys out as files).
    """
    if not key:
        raise Invalid(f"A {what} needs a name.", reason="missing_value")
    if len(key) > MAX_KEY:
        raise Invalid(f"The name of a {what} has at most {MAX_KEY} characters; this one has {len(key)}.")
    normal = posixpath.normpath(key)
    if not _KEY.match(key) or normal != key or normal == "." or normal.startswith(("..", "/")):
        raise Invalid(
            f"{key!r} cannot name a {what}.",
            hint="Use letters, digits, '_', '-', '.', ':', '/' and spaces, and nothing that a path would shorten.",
            reason="bad_name",
        )
    return key


def check_tag_key(key: str) -> str:
    """Return `key` when it can name a tag."""
    return check_key("tag", key)


def check_value(what: str, value: str, limit: int = MAX_VALUE) -> str:
    """Return `value` when it is text of at most `limit` characters that a database can hold."""
    if len(value) > limit:
        raise Invalid(f"The value of {what} has {len(value)} characters; at most {limit} are kept.")
    return check_text(what, value)


def check_text(what: str, value: str) -> str:
    """Return `value` unless it holds a NUL character or half of a surrogate pair, which no database keeps."""
    if "\x00" in value:
        raise Invalid(f"The value of {what} contains a NUL character.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"The value of {what} is not valid Unicode.") from error
    return value


def check_title(what: str, name: str) -> str:
    """Return `name` when it can name an experiment or a run: 1 to 500 characters, no control characters."""
    if not name.strip():
        raise Invalid(f"The name of {what} must not be empty.", reason="missing_value")
    if len(name) > MAX_NAME:
        raise Invalid(f"The name of {what} has at most {MAX_NAME} characters; this one has {len(name)}.")
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise Invalid(f"The name of {what} must not contain control characters.", reason="bad_name")
    return check_text(what, name)


def check_number(what: str, value: int) -> int:
    """Return `value` when 64 bits hold it."""
    if value not in INT64:
        raise Invalid(f"{what} must be a whole number of at most 64 bits, not {value}.")
    return value
