"""Byte code from a cache: found by the source alone, whole, and given up when no environment has it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stratal.compute import compiling

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile right here: the pool is the standard library's."""

    class Here:
        def __enter__(self) -> "Here":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def map(self, work, *rows, chunksize):  # type: ignore[no-untyped-def]
            return map(work, *rows)

    monkeypatch.setattr(compiling, "ProcessPoolExecutor", Here)


def package(lib: Path, **files: str) -> Path:
    for name, text in files.items():
        path = lib / "site-packages" / name.replace("__", "/") / "it.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return lib


def test_what_was_compiled_for_one_environment_is_linked_into_the_next(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    one = package(tmp_path / "one", a="x = 1\n", b="y = 2\n", a__tests="z = 3\n", wrong="print 'two'\n")
    assert compiling.compile_packages(one, cache) == (0, 2)
    two = package(tmp_path / "two", a="x = 1\n", c="y = 2\n", d="w = 4\n")
    assert compiling.compile_packages(two, cache) == (2, 1)
    assert compiling.compile_packages(two, cache) == (3, 0)
    same = [compiling.compiled(lib / "site-packages" / "a" / "it.py") for lib in (one, two)]
    assert same[0].samefile(same[1])
    assert not (one / "site-packages" / "a" / "tests" / "__pycache__").exists()


def test_python_loads_it_and_names_the_importing_environments_file(tmp_path: Path) -> None:
    text = "def f():\n    raise ValueError\n"
    compiling.compile_packages(package(tmp_path / "one", a=text), tmp_path / "cache")
    lib = package(tmp_path / "two", a=text)
    compiling.compile_packages(lib, tmp_path / "cache")
    source = lib / "site-packages" / "a" / "it.py"
    os.utime(source, (1, 1))  # an installer's time of a file says nothing
    asked = "import sys; sys.path[:0] = [sys.argv[1]]; import it; print(it.__cached__); print(it.f.__code__.co_filename)"
    said = subprocess.run(
        [sys.executable, "-I", "-v", "-c", asked, str(source.parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.splitlines() == [str(compiling.compiled(source)), str(source)]
    assert (
        f"matches {source}" in said.stderr
        or f"code object from {str(compiling.compiled(source))!r}" in said.stderr
    )


def test_only_the_source_decides_what_is_found(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    compiling.compile_packages(package(tmp_path / "one", a="x = 'planted'\n"), cache)
    two = package(tmp_path / "two", a="x = 'good'\n")
    assert compiling.compile_packages(two, cache) == (0, 1)
    place = compiling.compiled(two / "site-packages" / "a" / "it.py")
    loader = importlib.util.spec_from_file_location("it", place)
    assert loader is not None
    assert loader.loader is not None
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    assert module.x == "good"


def test_without_a_cache_that_can_be_written_all_is_compiled(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    lib = package(tmp_path / "one", a="x = 1\n")
    assert compiling.compile_packages(lib, tmp_path / "file" / "cache") == (0, 1)
    assert compiling.compiled(lib / "site-packages" / "a" / "it.py").exists()
    assert compiling.main([str(package(tmp_path / "two", a="x = 1\n"))]) == 0
    assert compiling.compiled(tmp_path / "two" / "site-packages" / "a" / "it.py").exists()


def test_what_no_environment_has_is_dropped_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    lib = package(tmp_path / "one", a="x = 1\n", b="y = 2\n")
    compiling.compile_packages(lib, cache)
    compiling.compiled(lib / "site-packages" / "b" / "it.py").unlink()
    other = package(tmp_path / "two", c="z = 3\n")
    monkeypatch.setattr(compiling, "_KEPT_SECONDS", -60)
    compiling.compile_packages(other, cache)
    kept = list(cache.glob("??/*.pyc"))
    assert len(kept) == 2
    assert all(path.stat().st_nlink == 2 for path in kept)
