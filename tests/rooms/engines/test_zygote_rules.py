"""Which command lines a zygote may fork, what it is asked to load, and what stays out of it."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stratal.engines.local import invocation, zygote
from stratal.engines.local.nursery import Kind, Nursery, Zygote, _is_name, _is_part_of, _key
from stratal.engines.local.probe import Bubblewrap
from stratal.engines.local.shown import why_no_zygotes

pytestmark = pytest.mark.fast


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "env" / "bin").mkdir(parents=True)
    program = tmp_path / "env" / "bin" / "python"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "work").mkdir()
    return tmp_path


def spec(place: Path, *argv: str, **env: str) -> dict[str, Any]:
    own = place / "env" / "bin"
    return {
        "argv": list(argv),
        "env": {"PATH": f"{own}:/usr/bin", "LANG": "C.UTF-8", **env},
        "python": str(own / "python"),
        "cwd": str(place / "work"),
        "isolate": True,
    }


def test_plain_runs_of_the_environments_python_are_understood(place: Path) -> None:
    script = invocation.parse(spec(place, "python", "-u", "train.py", "--lr", "1"))
    assert script is not None
    assert (script.kind, script.target, script.arguments, script.options) == (
        "script",
        "train.py",
        ["--lr", "1"],
        "u",
    )
    module = invocation.parse(spec(place, str(place / "env/bin/python"), "-m", "pkg.main", "x"))
    assert module is not None
    assert (module.kind, module.target, module.arguments) == ("module", "pkg.main", ["x"])
    code = invocation.parse(spec(place, "python", "-c", "print(1)"))
    assert code is not None
    assert (code.kind, code.target) == ("code", "print(1)")


@pytest.mark.parametrize(
    "argv",
    [
        ["sh", "-c", "python train.py"],
        ["python"],
        ["python", "-"],
        ["python", "-X", "dev", "train.py"],
        ["python", "-O", "train.py"],
        ["python", "folder"],
        ["/usr/bin/python3", "train.py"],
    ],
)
def test_everything_else_starts_cold(place: Path, argv: list[str]) -> None:
    assert invocation.parse(spec(place, *argv)) is None


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "PYTHONHASHSEED", "PYTHONSTARTUP", "LC_ALL", "MALLOC_ARENA_MAX"]
)
def test_variables_that_an_interpreter_reads_as_it_starts_make_it_cold(place: Path, name: str) -> None:
    assert invocation.parse(spec(place, "python", "train.py", **{name: "1"})) is None
    assert invocation.parse(spec(place, "python", "train.py", PYTHONUNBUFFERED="1")) is not None


def test_variables_that_libraries_read_as_they_are_loaded_must_be_the_zygotes_own(place: Path) -> None:
    own = {
        "env": invocation.at_start(spec(place, "python", "x.py", OMP_NUM_THREADS="1")["env"]),
        "reads": ["DEVICE"],
    }
    assert invocation.differing(spec(place, "python", "x.py", OMP_NUM_THREADS="1", MINE="2"), own) == ""
    assert invocation.differing(spec(place, "python", "x.py", OMP_NUM_THREADS="2"), own)
    assert invocation.differing(spec(place, "python", "x.py"), own)
    assert (
        invocation.differing(spec(place, "python", "x.py", OMP_NUM_THREADS="1", DEVICE="cpu"), own)
        == "DEVICE"
    )


def test_what_looks_for_variables_by_their_beginning_depends_on_those_alone(place: Path) -> None:
    own = {"env": invocation.at_start(spec(place, "python", "x.py")["env"]), "reads": ["TQDM_*"]}
    assert invocation.differing(spec(place, "python", "x.py", MINE="2"), own) == ""
    assert invocation.differing(spec(place, "python", "x.py", TQDM_DISABLE="1"), own) == "TQDM_*"
    assert invocation.meant("TQDM_*", ["STRATAL_URL", "TQDM_MININTERVAL"]) == ["TQDM_MININTERVAL"]
    assert invocation.meant("HOME", ["HOMELY"]) == []


def test_what_all_of_a_platform_share_is_the_zygotes_too_and_an_own_value_asks_for_another(
    place: Path,
) -> None:
    def kind(**env: str) -> tuple[str, list[str]]:
        nursery = Nursery(str(place / "run"), lambda fd, heard: None, lambda fd: None)
        engine = {"zygotes": True, "bubblewrap": {"users": True, "network": True}, "landlock": None}
        one = spec(place, "python", "train.py", MLFLOW_TRACKING_URI="http://here", **env)
        seed = nursery.seed(one | {"network": "platform", "engine": engine})
        assert seed is not None
        return _key(seed), seed["varying"]

    shared = {"MLFLOW_DISABLE_TELEMETRY": "true", "HF_ENDPOINT": "http://here/hub"}
    assert kind(**shared)[1] == ["MLFLOW_TRACKING_URI"]
    assert kind(**shared) == kind(**shared)
    assert kind(**shared)[0] != kind(**shared, HF_HUB_OFFLINE="1")[0]


def test_who_reads_all_variables_is_named_with_those_that_cannot_do_without(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = place / "work"
    (work / "upper_one.py").write_text("import lower_one\n")
    (work / "lower_one.py").write_text("import os\nseen = dict(os.environ)\n")
    (work / "finding_one.py").write_text(
        "import os\n__name__ = 'tqdm.utils'\n"
        "def envwrap(prefix):\n    return {k: v for k, v in os.environ.items() if k.startswith(prefix)}\n"
        "found = envwrap('TQDM_')\n"
    )
    monkeypatch.syspath_prepend(str(work))
    monkeypatch.setattr(zygote, "_state", dict)
    monkeypatch.setattr(zygote._Watched, "read", set())
    monkeypatch.setattr(zygote._Watched, "readers", ())
    monkeypatch.setattr(zygote._Watched, "varying", frozenset())
    for name in ("upper_one", "lower_one", "finding_one"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    told = zygote._load(["finding_one", "upper_one"], {"STRATAL_URL"})
    assert told["unfit"][:3] == ["upper_one", "lower_one", "upper_one"]
    assert told["why"] == "it reads all variables when imported"
    told = zygote._load(["finding_one"], {"STRATAL_URL"})
    assert told["imports"] == ["finding_one"]
    monkeypatch.delitem(sys.modules, "finding_one")
    assert "TQDM_*" in zygote._load(["finding_one"], {"STRATAL_URL"})["reads"]
    monkeypatch.delitem(sys.modules, "finding_one")
    assert zygote._load(["finding_one"], {"TQDM_DISABLE"})["why"] == "it reads TQDM_DISABLE when imported"


def test_a_zygote_tells_thousands_of_names_in_a_part_of_a_message() -> None:
    names = [f"package.part_{number}.module" for number in range(6000)]
    assert len(zygote._packed(names)) < zygote.MESSAGE // 2
    assert zygote.unpacked(zygote._packed(names)) == set(names)
    assert zygote.unpacked("") == {""}


def test_what_comes_along_is_not_remembered_and_ones_own_modules_ask_for_no_other_zygote(place: Path) -> None:
    (place / "env" / "lib" / "python3.11" / "site-packages" / "torch").mkdir(parents=True)
    kind = Kind({"python": str(place / "env" / "bin" / "python")})
    assert kind.lacking({"torch.optim:SGD"})
    assert kind.lacking({"mine", "json.decoder"})
    assert not kind.lacking({"mine", "mine.part"})
    kind.remember(["torch"])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        kind.zygote = Zygote(kind, str(place), ours, os.getpid())
        kind.zygote.loaded = frozenset(("torch", "torch.nn", "numpy"))
        kind.remember(["torch", "torch.nn", "pandas"])
    assert list(kind.imports) == ["torch", "pandas"]


@pytest.mark.parametrize(
    "told",
    [
        b"[]", b"5", b"{", b"[" * 60_000, b"\xff", b'{"unfit": 5, "why": ""}', b'{"unfit": ["x"]}', b"{}",
        b'{"imports": [], "reads": [], "modules": [], "loaded": "AAAA"}', b'{"unfit": ["known"], "why": "again"}',
    ],
)  # fmt: skip
def test_a_zygote_that_tells_nonsense_is_given_up(place: Path, told: bytes) -> None:
    """What it was made to import can write to its channel."""
    nursery = Nursery(str(place / "run"), lambda fd, heard: None, lambda fd: None)
    kind = Kind({"python": str(place / "env" / "bin" / "python")})
    kind.unfit.add("known")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with theirs, subprocess.Popen(["sleep", "60"]) as outer:
        kind.zygote = Zygote(kind, str(place / "run" / "z"), ours, outer.pid)
        theirs.send(told)
        nursery._told(kind.zygote)
        assert kind.zygote is None
        assert outer.wait(60) == -signal.SIGKILL
    assert kind.not_before > 0


def test_an_environment_that_was_built_anew_at_its_place_is_another(place: Path) -> None:
    """What was loaded from the one before has lost its files."""
    nursery = Nursery(str(place / "run"), lambda fd, heard: None, lambda fd: None)
    engine = {"zygotes": True, "bubblewrap": {"users": True, "network": True}, "landlock": None}

    def kind() -> str:
        seed = nursery.seed(spec(place, "python", "train.py") | {"network": "platform", "engine": engine})
        assert seed is not None
        return _key(seed)

    before = kind()
    assert kind() == before
    (place / "env").rename(place / "going")
    (place / "env" / "bin").mkdir(parents=True)
    (place / "env" / "bin" / "python").write_text("#!/bin/sh\n")
    (place / "env" / "bin" / "python").chmod(0o755)
    assert kind() != before


def test_what_a_program_imports_is_read_off_its_lines_and_its_own_modules(place: Path) -> None:
    work = place / "work"
    (work / "train.py").write_text(
        "import numpy as np, os\nfrom sklearn.svm import SVC as S\nfrom mine import f\n"
        "def g():\n    import torch; x = 'import not_this'\n"
    )
    (work / "mine.py").write_text("import pandas\nfrom . import x\n")
    asked = spec(place, "python", "train.py")
    run = invocation.parse(asked)
    assert run is not None
    found = invocation.imports(asked, run)
    assert {"numpy", "os", "sklearn.svm", "sklearn.svm:SVC", "torch", "pandas"} <= set(found)
    assert not {"mine", "not_this"} & set(found)
    assert invocation.shadowed(asked, run, ["numpy", "json"]) == ""
    (work / "json.py").write_text("")
    assert invocation.shadowed(asked, run, ["numpy", "json"]) == "json"


@pytest.mark.parametrize(
    ("text", "later"),
    [
        ("import torch\noptimizer = torch.optim.SGD([], lr=1)", True),
        ("from torch import optim", True),
        ("from torch.nn.parallel import DistributedDataParallel", True),
        ("import torch\nprint(torch.ones(3))", False),
    ],
)
def test_what_a_module_imports_only_when_it_is_used_is_loaded_with_it(
    place: Path, text: str, later: bool
) -> None:
    asked = spec(place, "python", "-c", text)
    run = invocation.parse(asked)
    assert run is not None
    assert ("torch._dynamo" in invocation.imports(asked, run)) is later


def test_a_module_that_cannot_be_shared_takes_what_lies_below_it_along() -> None:
    assert _is_part_of("a.b", {"a"})
    assert _is_part_of("a.b:c", {"a.b"})
    assert _is_part_of("a", {"a"})
    assert not _is_part_of("a", {"a.b"})
    assert not _is_part_of("ab.c", {"a"})


@pytest.mark.parametrize("name", ["", "a..b", "a b", "a/b", "a-b", ".a", "a" * 200, 3, None])
def test_what_is_no_name_is_not_imported(name: object) -> None:
    assert not _is_name(name)
    assert _is_name("a.b")
    assert _is_name("a.b:C")


def test_why_there_are_no_zygotes_is_told() -> None:
    whole = Bubblewrap(Path("/usr/bin/bwrap"), usable=True, users=True, network=True)
    assert why_no_zygotes(whole, 1 << 20) == ""
    assert why_no_zygotes(whole, 0) == "STRATAL_ZYGOTE_MEMORY is 0"
    for lacking in (
        {"usable": False},
        {"usable": True, "network": True},
        {"usable": True, "users": True},
    ):
        assert why_no_zygotes(Bubblewrap(why_not="the kernel says no", **lacking), 1 << 20).endswith(
            ": the kernel says no"
        )
