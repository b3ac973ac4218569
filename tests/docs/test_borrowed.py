"""What one test borrows from another is there: fast tests alone would not import the slow ones."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

TESTS = Path(__file__).parents[1]
IMPORT = re.compile(r"^\s*from (\.*)([\w.]*) import (?:\(([^)]*)\)|(.+))$", re.MULTILINE)


def _borrowed(path: Path) -> list[tuple[Path, str]]:
    """The files among the tests that this one imports from, each with one name."""
    found = []
    for dots, module, block, line in IMPORT.findall(path.read_text()):
        folder = path.parents[len(dots) - 1] if dots else TESTS
        source = folder.joinpath(*module.split(".")).with_suffix(".py")
        if module and source.is_file():
            names = re.sub(r"#.*", "", block or line).split(",")
            found += [(source, name.split(" as ")[0].strip()) for name in names if name.strip()]
    return found


def test_what_a_test_borrows_is_there() -> None:
    texts: dict[Path, str] = {}
    missing = []
    borrowed = [(path, *one) for path in sorted(TESTS.rglob("*.py")) for one in _borrowed(path)]
    for path, source, name in borrowed:
        text = texts.setdefault(source, source.read_text())
        defined = rf"^(?:(?:async )?def |class |    )?{name}\b|^(?:from|import) .*\b{name}\b"
        if not re.search(defined, text, re.MULTILINE):
            missing.append((str(path.relative_to(TESTS)), source.name, name))
    assert len(borrowed) > 100
    assert missing == []
