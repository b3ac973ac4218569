"""Finding what somebody wrote: ``app.py:handler`` or ``package.module:handler``, below the code's folder."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MESSAGE = 1_000


class LoadError(Exception):
    """It cannot be loaded; the message is for people. What failed inside is its cause."""


def load(target: str, code: str) -> Any:
    """The object that `target` names; `code` becomes the working directory and the first place to import from.

    Raises `LoadError`.
    """
    file, _, path = target.rpartition(":")
    try:
        os.chdir(code)
    except OSError as error:
        raise LoadError(f"The code's folder cannot be entered: {error.strerror}") from None
    sys.path.insert(0, code)
    try:
        module = _from_file(file) if file.endswith(".py") else importlib.import_module(file)
    except LoadError:
        raise
    except ModuleNotFoundError as error:
        raise LoadError(f"{one_line(error)}. Is it among the requirements?") from error
    except BaseException as error:
        raise LoadError(f"{file} cannot be imported: {one_line(error)}") from error
    found = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise LoadError(f"There is no {path!r} in {file}.") from None
    return found


def _from_file(file: str) -> Any:
    """Import a file as `python FILE` would: what lies beside it can be imported too."""
    if not os.path.isfile(file):  # noqa: PTH113
        raise LoadError(f"There is no file {file!r} in the code that was sent.")
    path = os.path.abspath(file)  # noqa: PTH100
    folder, base = os.path.split(path)
    if folder != sys.path[0]:
        sys.path.insert(0, folder)
    name = base[:-3]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"{file} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def one_line(error: BaseException) -> str:
    """The error's type and the first line of what it says."""
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    kind = type(error).__name__
    return (f"{kind}: {first}" if first else kind)[:_MESSAGE]
