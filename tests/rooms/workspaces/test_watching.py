"""What is kept of files that nobody saves through JupyterLab, with the replica's own package made by hand."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stratal.engines import notebooks

pytestmark = pytest.mark.fast


class Kept:
    def __init__(self, root: Path) -> None:
        self._root = root
        self.paths: list[str] = []

    def put(self, path: str) -> None:
        self.paths.append(os.path.relpath(path, self._root))

    def all(self) -> list[str]:
        told, self.paths = sorted(self.paths), []
        return told


@pytest.fixture
def watching() -> Iterator[Any]:
    folder = Path(notebooks.__file__).parent / "replica"
    spec = importlib.util.spec_from_file_location(
        "stratal_workspace", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    sys.modules["stratal_workspace"] = importlib.util.module_from_spec(spec)
    yield importlib.import_module("stratal_workspace.watching")
    for name in [name for name in sys.modules if name.partition(".")[0] == "stratal_workspace"]:
        del sys.modules[name]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "files" / "src").mkdir(parents=True)
    return tmp_path / "files"


def test_what_people_write_is_kept_when_it_changes_and_only_then(watching: Any, root: Path) -> None:
    kept = Kept(root)
    looker = watching.Looker(str(root), str(root.parent / "looked"), kept)
    (root / "a.py").write_text("1")
    (root / "src" / "b.SQL").write_text("select 1")
    (root / "data.bin").write_bytes(b"x")
    (root / ".hidden.py").write_text("1")
    (root / ".git").mkdir()
    (root / ".git" / "c.py").write_text("1")
    (root / "long.txt").write_bytes(bytes(watching.MOST_BYTES + 1))
    (root / "away.py").symlink_to(root.parent / "looked")
    os.mkfifo(root / "pipe.py")
    looker.look()
    assert kept.all() == ["a.py", "src/b.SQL"]
    looker.look()
    assert kept.all() == []
    (root / "a.py").write_text("22")
    (root / "src" / "b.SQL").unlink()
    looker.look()
    assert kept.all() == ["a.py"]


def test_what_changed_while_nobody_looked_is_kept_by_the_next_start(watching: Any, root: Path) -> None:
    mark = root.parent / "looked"
    for name in ("old.py", "new.py"):
        (root / name).write_text("1")
    watching.Looker(str(root), str(mark), Kept(root)).look()
    os.utime(mark, ns=(2_000, 2_000))  # the last look before the kill
    os.utime(root / "old.py", ns=(1_000, 1_000))
    os.utime(root / "new.py", ns=(3_000, 3_000))
    kept = Kept(root)
    watching.Looker(str(root), str(mark), kept).look()
    assert kept.all() == ["new.py"]
    assert mark.stat().st_mtime_ns > 3_000


def test_a_folder_with_very_many_files_is_not_looked_through_to_its_end(
    watching: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MOST_FILES", 2)
    for name in "abc":
        (root / f"{name}.py").write_text("1")
    kept = Kept(root)
    watching.Looker(str(root), str(root.parent / "looked"), kept).look()
    assert kept.all() == ["a.py", "b.py"]
