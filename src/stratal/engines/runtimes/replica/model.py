"""What a loaded model looks like to the serving loop, and reading its files so that what was hashed is what is used."""

from __future__ import annotations

import hashlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    from numpy.typing import NDArray

    Features = NDArray[Any] | dict[str, NDArray[Any]]
    """One array, rows first, or a table as columns of equal length (see `columns.Expected.arrange`)."""

    class Model(Protocol):
        """What a runtime's module makes of a plan: ``load(plan) -> Model``.

        `interface`, `files` and `libraries` are told in the greeting (`stratal.ai.endpoints.runtime.Greeting`).
        `rowwise`: what is answered for a row depends on that row alone, so that rows of several requests may be
        asked together.
        """

        interface: dict[str, Any]
        files: dict[str, str]
        libraries: dict[str, str]
        rowwise: bool

        def arrange(
            self,
            inputs: Sequence[tuple[str, NDArray[Any]]],
            columns: Sequence[str] | None,
            *,
            strict: bool,
        ) -> Features:
            """One request's inputs as the model takes them. Raises `arrays.Invalid` with what it takes."""
            ...

        def predict(
            self, features: Features, wanted: Sequence[str] | None, *params: dict[str, Any]
        ) -> list[tuple[str, NDArray[Any]]]:
            """The named outputs (all when `wanted` is None). Raises `arrays.Invalid` for a name that is none.

            `params`: one dictionary, given only when the request has some of those that ``interface["params"]``
            lists, so that models without need not take it.
            """
            ...


def read_hashed(folder: str, path: str, files: dict[str, str]) -> bytes:
    """The bytes of one of the model's files; their SHA-256 is noted in `files`."""
    with open(os.path.join(folder, path), "rb") as file:  # noqa: PTH118, PTH123
        data = file.read()
    files[path] = hashlib.sha256(data).hexdigest()
    return data


def hash_below(folder: str, path: str, files: dict[str, str]) -> None:
    """Note the SHA-256 of every file below `path` (of all when it is empty) in `files`."""
    for place, _, names in os.walk(os.path.join(folder, path)):  # noqa: PTH118
        for name in sorted(names):
            whole = os.path.join(place, name)  # noqa: PTH118
            digest = hashlib.sha256()
            with open(whole, "rb") as file:  # noqa: PTH123
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            files[os.path.relpath(whole, folder)] = digest.hexdigest()
