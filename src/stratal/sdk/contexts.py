"""Places that this machine is signed in at: one file in the user's configuration folder, mode 0600."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from stratal.sdk.errors import ApiError


@dataclass(frozen=True, slots=True)
class Context:
    """Where an instance is, the key to use there, and the project to act in."""

    url: str
    key: str
    project: str


def _file() -> Path:
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "stratal" / "contexts.json"


def read() -> tuple[str | None, Mapping[str, Context]]:
    """The name of the one in use, and all of them. A file that others can read, or that is damaged, is refused."""
    path = _file()
    try:
        if path.stat().st_mode & 0o077:
            raise ApiError(
                0, "open_key_file", f"{path} can be read by others.", f"Close it with: chmod 600 {path}"
            )
        told = json.loads(path.read_text())
        return told["current"], {name: Context(**one) for name, one in told["contexts"].items()}
    except FileNotFoundError:
        return None, {}
    except (ValueError, KeyError, TypeError) as error:
        raise ApiError(
            0, "damaged_contexts", f"{path} is damaged.", "Remove it, and sign in again: stratal login URL"
        ) from error


def put(name: str, context: Context) -> None:
    """Keep a place, and use it from now on."""
    _, found = read()
    _write(name, {**found, name: context})


def use(name: str | None) -> None:
    """Use the place called `name`; None: this machine's own instance. Raises `ApiError`."""
    _, found = read()
    if name is not None and name not in found:
        raise _unknown(name)
    _write(name, found)


def remove(name: str) -> Context:
    """Forget a place; returns what was kept of it. Raises `ApiError`."""
    current, found = read()
    if name not in found:
        raise _unknown(name)
    _write(None if current == name else current, {n: c for n, c in found.items() if n != name})
    return found[name]


def chosen(environ: Mapping[str, str]) -> Context | None:
    """The place to go to: what STRATAL_CONTEXT names, else the one in use unless STRATAL_HOME says otherwise."""
    named = environ.get("STRATAL_CONTEXT")
    if not named and environ.get("STRATAL_HOME"):
        return None
    current, found = read()
    name = named or current
    if name is None:
        return None
    if name not in found:
        raise _unknown(name)
    return found[name]


def _unknown(name: str) -> ApiError:
    return ApiError(
        0, "no_such_context", f"Not signed in at {name!r}.", "List the places with: stratal context list"
    )


def _write(current: str | None, found: Mapping[str, Context]) -> None:
    path = _file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"current": current, "contexts": {n: asdict(c) for n, c in found.items()}}, file)
    scratch.replace(path)
