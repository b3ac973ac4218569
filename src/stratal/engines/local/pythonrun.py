"""Carries out ``python script.py …``, ``-m module`` or ``-c code`` in a fork, as a fresh interpreter would have.

What CPython does between its start and the first line of a program (``Modules/main.c``, ``Python/pylifecycle.c``):
`sys.argv`, the first folder of `sys.path`, the module ``__main__``, unbuffered streams. (What a fork must not
share with its siblings is `shepherd`'s.) Standard library only.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import types

from stratal.engines.local import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stratal.engines.local.invocation import Invocation


def prepare(run: Invocation, own: dict[str, Any]) -> Callable[[], None]:
    """Make this process look freshly started; returns what runs the program and leaves by `SystemExit`.

    `own` holds the variables of the main module that a fresh one has too. The working directory and the
    environment must be the program's already.
    """
    heed_environment = "I" not in run.options
    first = {"script": run.target, "module": "-m", "code": "-c"}[run.kind]
    sys.argv[:] = [first, *run.arguments]
    options = [f"-{letter}" for letter in run.options]
    told = {"script": [run.target], "module": ["-m", run.target], "code": ["-c", run.target]}[run.kind]
    sys.orig_argv[:] = [run.called, *options, *told, *run.arguments]
    sys.executable = run.executable
    if "B" in run.options or (heed_environment and os.environ.get("PYTHONDONTWRITEBYTECODE")):
        sys.dont_write_bytecode = True
    if "u" in run.options or (heed_environment and os.environ.get("PYTHONUNBUFFERED")):
        _unbuffer()
    if heed_environment:
        more = [part for part in os.environ.get("PYTHONPATH", "").split(":") if part]
        sys.path[:0] = [os.path.abspath(part) for part in more]
        sys.path.insert(0, _first_folder(run))
    main = types.ModuleType("__main__")
    main.__dict__.clear()
    main.__dict__.update(own)
    sys.modules["__main__"] = main
    process.rename(sys.orig_argv)
    programs = {"script": _script, "module": _module, "code": _code}
    start = programs[run.kind]
    return lambda: _leave(lambda: start(run.target, main))


def _first_folder(run: Invocation) -> str:
    if run.kind == "script":
        return os.path.dirname(os.path.realpath(run.target))
    return os.getcwd() if run.kind == "module" else ""


def _unbuffer() -> None:
    """As ``python -u`` makes them: straight to the descriptor, whoever writes to which layer."""
    for fd, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        raw = io.FileIO(fd, "w", closefd=False)
        raw.name = f"<{name}>"
        new = io.TextIOWrapper(raw, old.encoding, old.errors, "\n", write_through=True)
        new.mode = "w"  # type: ignore[misc]  # as the interpreter's own have it
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


# -- running it ------------------------------------------------------------------------------------


def _script(path: str, main: types.ModuleType) -> None:
    from importlib.machinery import SourceFileLoader

    path = os.path.join(os.getcwd(), path)  # as the interpreter does it: nothing is normalised
    main.__file__ = path
    main.__loader__ = SourceFileLoader("__main__", path)
    with io.open_code(path) as file:
        source = file.read()
    exec(compile(source, path, "exec", dont_inherit=True), main.__dict__)  # noqa: S102  # what it is for


def _module(name: str, main: types.ModuleType) -> None:
    import runpy

    del main
    runpy._run_module_as_main(name)  # type: ignore[attr-defined]  # what ``python -m`` itself calls


def _code(text: str, main: types.ModuleType) -> None:
    from importlib.machinery import BuiltinImporter

    main.__loader__ = BuiltinImporter
    for name in ("__file__", "__cached__"):
        main.__dict__.pop(name, None)
    exec(compile(text, "<string>", "exec", dont_inherit=True), main.__dict__)  # noqa: S102


def _leave(program: Callable[[], None]) -> None:
    """Run it, and end as the interpreter would: with its code, its traceback, or by SIGINT."""
    code = 0
    try:
        program()
    except SystemExit:
        raise
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next  # it begins with the program's own frames
        error.__traceback__ = trace
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
        with contextlib.suppress(BaseException):
            sys.excepthook(type(error), error, trace)
        if isinstance(error, KeyboardInterrupt):
            _interrupted()
        code = 1
    raise SystemExit(code)


def _interrupted() -> None:
    import atexit
    import threading

    threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter does on its way out
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
