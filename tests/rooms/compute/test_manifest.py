"""No manifest, however made, names a place outside of the folder it is laid out in."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratal.compute.manifest import FILE, LINK, CodeFile, canonical, check_link, checked, read, snapshot_id
from stratal.kernel.errors import Invalid, StratalError, TooLarge

pytestmark = pytest.mark.fast
SHA = "0" * 64


def file(path: str, size: int = 1, mode: str = FILE) -> CodeFile:
    return CodeFile(path, mode, SHA, size)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "/etc/passwd",
            "../up",
            "a/../../b",
            "a//b",
            "./a",
            "a/.",
            "a\0b",
            "a\nb",
            ".git/config",
            "a/.GIT/x",
        ),
        *("x" * 256, "a/" * 600 + "b", "\udcff"),
    ],
)
def test_bad_paths(path: str) -> None:
    with pytest.raises(Invalid):
        checked([file(path)])


@pytest.mark.parametrize("bad", [CodeFile("a", "100666", SHA, 1), CodeFile("a", FILE, "A" * 64, 1)])
def test_bad_modes_and_hashes(bad: CodeFile) -> None:
    with pytest.raises(Invalid):
        checked([bad])


def test_nothing_twice_and_nothing_below_a_file() -> None:
    with pytest.raises(Invalid, match="twice"):
        checked([file("a"), file("a")])
    with pytest.raises(Invalid, match="no folder"):
        checked([file("a", mode=LINK), file("a/b")])
    with pytest.raises(Invalid, match="no folder"):
        checked([file("a"), file("a!"), file("a/b/c")])


def test_too_much_names_the_biggest() -> None:
    with pytest.raises(TooLarge, match=r"weights\.bin"):
        checked([file("train.py"), file("weights.bin", 400 << 20), file("b", 200 << 20)])
    with pytest.raises(TooLarge):
        checked([file(f"f{number}") for number in range(20_001)])
    with pytest.raises(TooLarge):
        checked([file("a", -1)])


def test_the_id_does_not_depend_on_the_order() -> None:
    files = [file("b"), file("a/c"), file("ü"), file("a.txt")]
    one, other = canonical(checked(files)), canonical(checked(reversed(files)))
    assert one == other
    assert snapshot_id(one) == snapshot_id(other)
    assert read(one) == checked(files)


_PARTS = st.lists(st.sampled_from(["..", ".", "", "a", "b", "link", ".git"]), max_size=6).map("/".join)


@given(st.lists(st.tuples(_PARTS, _PARTS), max_size=6))
def test_accepted_links_never_lead_out(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[str, str]]
) -> None:
    """Whatever links are accepted together, following them really, on a disk, stays inside."""
    try:
        files = checked([CodeFile(path, LINK, SHA, 1) for path, _ in links])
        for path, target in links:
            check_link(path, target.encode())
    except StratalError:
        return
    root = tmp_path_factory.mktemp("tree")
    targets = dict(links)
    for entry in files:
        place = root / entry.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(targets[entry.path])
    for entry in files:
        try:
            real = Path(os.path.realpath(root / entry.path, strict=True))
        except OSError:
            continue  # leads nowhere, or round and round
        assert real.is_relative_to(root.resolve())
