"""Names that people give to things, checked once, the same everywhere."""

import re

from stratal.kernel.errors import Invalid

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?\Z")
_LABEL = re.compile(r"[^a-z0-9]+")


def check_name(what: str, name: str) -> str:
    """Return `name` when it can name a `what` (project, endpoint, key …), else raise `Invalid`.

    Letters, digits, ``.``, ``_`` and ``-``; 1 to 100 characters; begins and ends with a letter or
    digit; no ``..``. Such a name is safe in a path, a URL, a shell word and a host name's label list.
    """
    if not _NAME.match(name) or ".." in name:
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise Invalid(
            f"{shown!r} cannot name {article(what)} {what}.",
            hint="Use 1 to 100 letters, digits, '.', '_' or '-', starting and ending with a letter or digit.",
            reason="bad_name",
        )
    return name


def article(noun: str) -> str:
    """The article that goes before one of our nouns."""
    return "an" if noun[:1].lower() in "aeio" else "a"


def label_of(name: str, unique: str) -> str:
    """A host name's label (at most 63 of a-z, 0-9 and ``-``) that tells of `name` and ends with `unique`."""
    told = _LABEL.sub("-", name.lower()).strip("-")[:40].strip("-")
    return f"{told}-{unique}" if told else f"w-{unique}"
