"""The port to whoever knows how to search: Optuna, in `stratal.engines.optuna`. A port because an extra stands behind it."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from stratal.ai.sweeps.model import Study, Value


class Advisor(Protocol):
    """Both answers depend on the study alone: nothing is remembered between them, and the same asks give the same."""

    def require(self) -> None:
        """Raises `Unavailable`, with what to install, when nothing that can search is there."""
        ...

    async def ask(self, study: Study) -> Mapping[str, Value]:
        """The next trial's value of every parameter. Raises `Unavailable` when it cannot be found right now."""
        ...

    async def hopeless(self, study: Study, points: Sequence[tuple[int, float]]) -> bool:
        """Is a trial that has come to these points (step, value) so far not worth going on with?"""
        ...

    async def close(self) -> None: ...
