"""Where solutions lie: in the installed package, or beside `src` in a checkout."""

import difflib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from stratal.ai.solutions.manifest import NAME, Solution, read
from stratal.kernel.errors import Invalid, NotFound

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

    def own(self, folder: Path) -> Solution:
        """One that lies elsewhere: somebody's own. Raises `Invalid`, also when it goes by a ready one's name."""
        found = read(folder.resolve())
        if not self._free(found.name):
            raise Invalid(
                f"{found.name} is a ready solution's name, or ends like the projects of tiny runs.",
                hint="Give yours another: its folder's, and `name` in its solution.toml.",
                reason="name_taken",
            )
        return found

    def copy(self, name: str, target: Path) -> Solution:
        """Write the ready solution's folder as `target`, which gives it its name. Raises `NotFound`, `Invalid`."""
        source = self.get(name).folder
        target = target.resolve()
        if target.exists():
            raise Invalid(f"{target} is there already.", hint="Name a folder that is not.", reason="exists")
        if not NAME.fullmatch(target.name) or not self._free(target.name):
            raise Invalid(
                f"{target.name!r} cannot be its name: lower-case words with hyphens, not a ready one's, not …-tiny.",
                hint="Name another folder.",
                reason="bad_name",
            )
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        manifest = target / "solution.toml"
        said = manifest.read_text(encoding="utf-8")
        named = re.sub(r'^name = "[^"]*"', f'name = "{target.name}"', said, count=1, flags=re.MULTILINE)
        manifest.write_text(named, encoding="utf-8")
        return self.own(target)

    def _free(self, name: str) -> bool:
        return not (self.root / name).is_dir() and not name.endswith("-tiny")


def project_of(name: str, *, tiny: bool = False) -> str:
    """The project that runs of the solution live in; also the name of their bucket. Removing it removes all."""
    return f"solution-{name}-tiny" if tiny else f"solution-{name}"
