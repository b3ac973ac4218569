"""Byte code for an environment's packages, taken from a cache where the same source was compiled before.

Compiling is most of what building an environment costs when its wheels are at hand (m: 10 s of the 12 s for
MLflow and scikit-learn), and most files are those of an environment that was built before. So each file's
byte code is kept under the hash of its source and of this Python's byte code version, and linked into
whichever environment has that file. Nothing but the source decides what is found: not a package's name, nor
its own word about its files, so a package can plant nothing for another one. Byte code is unchecked
(https://peps.python.org/pep-0552/): nobody edits an environment, and its files' times are the installer's.
Python puts the path of the importing environment into what it loads, so tracebacks name the right file.

Standard library only, imports nothing of ours, and run without the environment's own ``site``, so that
nothing of a package runs: ``python -I -S compiling.py LIB [CACHE]``.
"""

import hashlib
import importlib.util
import os
import py_compile
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path

_NOT_IMPORTED = {"test", "tests"}
"""Folders of packages' own tests: half of many a package's files, and no job imports them."""
_KEPT_SECONDS = 30 * 86_400.0
_MARK = importlib.util.MAGIC_NUMBER + (sys.implementation.cache_tag or "").encode()


def compile_packages(lib: Path, cache: Path | None) -> tuple[int, int]:
    """Give every importable file below `lib` its byte code; returns how many were linked and how many compiled.

    A file that is no Python of this version is left without, as it was never meant to be imported here. Without a
    `cache`, or with one that cannot be written, all are compiled.
    """
    missing, linked = [], 0
    for source in sources(lib):
        if cache is not None and _link(_kept(cache, source), compiled(source)):
            linked += 1
        else:
            missing.append(source)
    if missing:
        with ProcessPoolExecutor() as pool:
            done = sum(pool.map(_compile, missing, repeat(cache), chunksize=32))
        if cache is not None:
            _forget_unused(cache, time.time() - _KEPT_SECONDS)
        return linked, done
    return linked, 0


def sources(lib: Path) -> Iterator[Path]:
    """The files below `lib` that somebody may import."""
    for folder, folders, files in os.walk(lib):
        folders[:] = sorted(name for name in folders if name not in _NOT_IMPORTED)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def compiled(source: Path) -> Path:
    """Where Python looks for the byte code of `source`."""
    return Path(importlib.util.cache_from_source(str(source), optimization=""))


def _kept(cache: Path, source: Path) -> Path:
    name = hashlib.sha256(_MARK + source.read_bytes()).hexdigest()
    return cache / name[:2] / f"{name[2:]}.pyc"


def _compile(source: Path, cache: Path | None) -> bool:
    place = compiled(source)
    try:
        py_compile.compile(
            str(source),
            cfile=str(place),
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    except (py_compile.PyCompileError, OSError, ValueError):
        return False
    if cache is not None:
        with suppress(OSError):
            kept = _kept(cache, source)
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _link(place, kept)
    return True


def _link(kept: Path, place: Path) -> bool:
    """Make `place` the same file as `kept`, or a copy of it on another file system; False when there is none.

    What is at `place` already stays. Under its own name a file is whole at any moment.
    """
    try:
        place.parent.mkdir(exist_ok=True)
        os.link(kept, place)
    except FileExistsError:
        return True
    except FileNotFoundError:
        return False
    except OSError:  # another file system, or more links than one can have
        try:
            whole = place.with_name(f".{place.name}.{os.getpid()}")
            shutil.copyfile(kept, whole)
            whole.replace(place)
        except OSError:
            return False
    return True


def _forget_unused(cache: Path, before: float) -> None:
    """Drop what no environment has had since: its last link was made, or removed, before that time."""
    for path in cache.glob("??/*.pyc"):
        with suppress(OSError):
            stat = path.stat()
            if stat.st_nlink == 1 and stat.st_ctime < before:
                path.unlink()


def main(arguments: list[str]) -> int:
    """``LIB [CACHE]``: done as far as it can be; an environment works without byte code, only slower."""
    compile_packages(Path(arguments[0]), Path(arguments[1]) if len(arguments) > 1 else None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
