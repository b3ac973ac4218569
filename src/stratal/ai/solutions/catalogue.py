"""Where solutions lie: in the installed package, or beside `src` in a checkout."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from stratal.ai.solutions.manifest import Solution, read
from stratal.kernel.errors import NotFound

_PACKAGE = Path(__file__).parents[2]
FOLDERS = (_PACKAGE / "_solutions", _PACKAGE.parents[1] / "solutions")
"""As installed from a wheel; in a checkout."""
KIT = "kit"
"""The folder of what all solutions share within their jobs."""
DOCUMENTATION = (_PACKAGE / "_docs", _PACKAGE.parents[1] / "docs")
"""The platform's own pages, as installed from a wheel; in a checkout."""


class Catalogue:
    """The solutions below `root` (default: where they lie here)."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or next((folder for folder in FOLDERS if (folder / KIT).is_dir()), FOLDERS[0])

    @property
    def documentation(self) -> Path:
        """The folder of the platform's own pages."""
        return next((folder for folder in DOCUMENTATION if folder.is_dir()), DOCUMENTATION[0])

    def all(self) -> Sequence[Solution]:
        """Every solution by field and name. Raises `Invalid` for a broken one."""
        found = [read(path.parent) for path in self.root.glob("*/solution.toml")]
        return sorted(found, key=lambda one: (one.field, one.name))

    def get(self, name: str) -> Solution:
        """Raises `NotFound`."""
        names = sorted(path.parent.name for path in self.root.glob("*/solution.toml"))
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "List them with: stratal solutions list"
            raise NotFound(f"There is no solution {name[:80]!r}.", hint=hint, reason="no_such_solution")
        return read(self.root / name)


def project_of(name: str, *, tiny: bool = False) -> str:
    """The project that runs of the solution live in; also the name of their bucket. Removing it removes all."""
    return f"solution-{name}-tiny" if tiny else f"solution-{name}"
