"""Command lines that are a plain run of an environment's Python: those a zygote can carry out by forking.

Everything else (other programs, unusual options, variables that the interpreter or a C library reads while it
starts) is started cold; being listed here means that a fork behaves as a fresh interpreter would.
Standard library only.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

_OPTIONS = frozenset("uBI")
_OWN = frozenset(("PATH", "VIRTUAL_ENV", "LANG"))
_SHARED = ("HF_ENDPOINT", "HF_HUB_", "MLFLOW_DISABLE_TELEMETRY")
"""… that all workloads of a platform get with the same value, and that libraries read when they are imported."""
_HANDLED = frozenset(("PYTHONUNBUFFERED", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE"))
_AT_LOAD = (
    *("OMP_", "GOMP_", "KMP_", "OPENBLAS_", "GOTO_", "MKL_", "BLIS_", "VECLIB_", "NUMEXPR_", "NUMBA_"),
    *("ARROW_", "TORCH_", "ORT_"),
)
"""What variables begin with that libraries' C code reads when it is loaded."""
_AT_START = ("LD_", "PYTHON", "MALLOC_", "GLIBC_", "LC_")
"""… and that the interpreter or what loads it reads: a workload with one of these is started cold."""


class Invocation:
    """One run of Python, `called` by this word. `kind` is ``script``, ``module`` or ``code``, `target` its file,
    name or text.
    """

    __slots__ = ("arguments", "called", "executable", "kind", "options", "target")

    def __init__(
        self, called: str, executable: str, options: str, kind: str, target: str, arguments: Sequence[str]
    ):
        self.called = called
        self.executable = executable
        self.options = options
        self.kind = kind
        self.target = target
        self.arguments = list(arguments)


def parse(spec: Mapping[str, Any]) -> Invocation | None:
    """The invocation that this workload is; None when it is no plain run of its environment's Python."""
    argv = spec["argv"]
    if any(name.startswith(_AT_START) and name not in _HANDLED for name in spec["env"]):
        return None
    executable = _executable(spec) if spec["isolate"] and spec["python"] else None
    if executable is None:
        return None
    options = ""
    rest = list(argv[1:])
    while rest and rest[0].startswith("-") and len(rest[0]) > 1:
        word = rest.pop(0)
        if word in ("-m", "-c") and rest:
            kind = "module" if word == "-m" else "code"
            return Invocation(argv[0], executable, options, kind, rest[0], rest[1:])
        if not set(word[1:]) <= _OPTIONS:
            return None
        options += word[1:]
    if not rest or not rest[0].endswith(".py"):
        return None
    return Invocation(argv[0], executable, options, "script", rest[0], rest[1:])


def _executable(spec: Mapping[str, Any]) -> str | None:
    """The path that ``argv[0]`` leads to, when that is the environment's own interpreter."""
    name, own = spec["argv"][0], spec["python"]
    if not os.path.basename(name).startswith("python"):
        return None
    found = os.path.join(spec["cwd"], name) if "/" in name else _on_path(name, spec["env"].get("PATH", ""))
    if found is None or os.path.dirname(os.path.normpath(found)) != os.path.dirname(own):
        return None
    return found if os.path.realpath(found) == os.path.realpath(own) else None


def _on_path(name: str, path: str) -> str | None:
    for folder in path.split(":"):
        if folder.startswith("/") and os.access(os.path.join(folder, name), os.X_OK):
            return os.path.join(folder, name)
    return None


# -- variables -------------------------------------------------------------------------------------


def at_start(env: Mapping[str, str]) -> dict[str, str]:
    """The part of `env` that an interpreter and its libraries read when they start: a zygote's own variables."""
    return {
        name: value
        for name, value in env.items()
        if name in _OWN or name.startswith(_AT_LOAD) or name.startswith(_SHARED)
    }


def differing(spec: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Which variable, read while the zygote imported its modules, has another value for this workload; "": none."""
    env, own = spec["env"], report["env"]
    if at_start(env) != {name: value for name, value in own.items() if name != "HOME"}:
        return "variables that are read at the start"
    names = [name for name in report["reads"] if name != "HOME"]  # each has a fresh one of the same name
    return next((name for name in names if _told(name, env) != _told(name, own)), "")


def meant(read: str, names: Iterable[str]) -> list[str]:
    """Those of the variables `names` that `read` stands for: one of them, or all that begin so (``TQDM_*``)."""
    if read.endswith("*"):
        return [name for name in names if name.startswith(read[:-1])]
    return [read] if read in names else []


def _told(read: str, env: Mapping[str, str]) -> dict[str, str]:
    return {name: env[name] for name in meant(read, env)}


# -- modules ---------------------------------------------------------------------------------------


def search_folders(spec: Mapping[str, Any], run: Invocation) -> list[str]:
    """The folders that come before the standard library on the path of this run."""
    if "I" in run.options:
        return []
    first = spec["cwd"]
    if run.kind == "script":
        first = os.path.dirname(os.path.realpath(os.path.join(spec["cwd"], run.target)))
    more = [os.path.join(spec["cwd"], part) for part in spec["env"].get("PYTHONPATH", "").split(":") if part]
    return [first, *more]


def shadowed(spec: Mapping[str, Any], run: Invocation, modules: Sequence[str]) -> str:
    """A module that is loaded already although the workload's own folder holds one of that name; "": none."""
    loaded = set(modules)
    for folder in search_folders(spec, run):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            stem = name.partition(".")[0]
            if stem in loaded:
                return stem
    return ""


_FILES, _BYTES = 32, 256 << 10
_LATER = {"torch.optim": "torch._dynamo", "torch.nn.parallel": "torch._dynamo"}
"""What a module imports only as it is first used: a second of processor time, which each fork would spend again."""


def imports(spec: Mapping[str, Any], run: Invocation) -> list[str]:
    """What the program imports, as ``module`` or ``module:name``, read off its lines and those of its own modules.

    A hint of what to load beforehand, not the truth: wrong names cost nothing.
    """
    folders = search_folders(spec, run)
    found: dict[str, None] = {}
    if run.kind == "code":
        _scan(run.target, found)
    else:
        seen: set[str] = set()
        todo = [os.path.join(spec["cwd"], run.target)] if run.kind == "script" else []
        todo += _own_files(folders, run.target) if run.kind == "module" else []
        while todo and len(seen) < _FILES:
            path = todo.pop(0)
            if path not in seen:
                seen.add(path)
                told = len(found)
                _scan(_text(path), found)
                for name in list(found)[told:]:
                    todo += _own_files(folders, name.partition(":")[0])
    foreign = [name for name in found if not _own_files(folders, name.partition(":")[0])][:256]
    later = {_LATER[name] for name in (name.replace(":", ".") for name in foreign) if name in _LATER}
    return [*foreign, *sorted(later - set(foreign))]


def _own_files(folders: Sequence[str], name: str) -> list[str]:
    top = name.partition(".")[0]
    for folder in folders:
        if os.path.isfile(f"{folder}/{top}.py"):
            return [f"{folder}/{top}.py"]
        if os.path.isfile(f"{folder}/{top}/__init__.py"):
            names = sorted(n for n in os.listdir(f"{folder}/{top}") if n.endswith(".py"))
            return [f"{folder}/{top}/{n}" for n in names]
    return []


def _text(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        with open(fd, "rb") as file:
            return file.read(_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _scan(text: str, found: dict[str, None]) -> None:
    found.update(
        dict.fromkeys(name for name in _LATER if name in text)
    )  # also where it is reached by its package
    for line in text.replace(";", "\n").replace("\\\n", " ").splitlines():
        words = line.replace(",", " , ").replace("(", " ( ").split()
        if len(words) > 1 and words[0] == "import":
            names = " ".join(words[1:]).split(" , ")
            for name in names:
                _add(found, name.split(" ")[0])
        elif len(words) > 3 and words[0] == "from" and words[2] == "import":
            given = [word for word in words[3:] if word.isidentifier() and word != "as"]
            _add(found, words[1], *given)


def _add(found: dict[str, None], module: str, *names: str) -> None:
    if module and all(part.isidentifier() for part in module.split(".")):
        found[module] = None
        for name in names:
            found[f"{module}:{name}"] = None
