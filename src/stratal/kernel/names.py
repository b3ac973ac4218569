"""Names that people give to things, checked once, the same everywhere."""

import re

from stratal.kernel.errors import Invalid

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?\Z")


def check_name(what: str, name: str) -> str:
    """Return `name` when it can name a `what` (project, endpoint, key …), else raise `Invalid`.

    Letters, digits, ``.``, ``_`` and ``-``; 1 to 100 characters; begins and ends with a letter or
    digit; no ``..``. Such a name is safe in a path, a URL, a shell word and a host name's label list.
    """
    if not _NAME.match(name) or ".." in name:
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise Invalid(
            f"{shown!r} cannot name a {what}.",
            hint="Use 1 to 100 letters, digits, '.', '_' or '-', starting and ending with a letter or digit.",
            reason="bad_name",
        )
    return name
