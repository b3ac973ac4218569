"""What the machine is found to allow: by trying it, and without meddling with what belongs to others."""

import os
from pathlib import Path

import pytest

from stratal.engines.local.cgroup import Group
from stratal.engines.local.probe import find_cgroup, probe, try_bubblewrap
from stratal.engines.local.sandbox import installation, url_address

from .conftest import PYTHON


def _hierarchy(root: Path, group: str, **files: str) -> Path:
    folder = root / group
    folder.mkdir(parents=True)
    for name, text in {"cgroup.procs": "", **files}.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def _own(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "own"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_probe_says_why_where_something_cannot_be_had() -> None:
    found = probe()
    assert found.bubblewrap.usable or found.bubblewrap.why_not
    assert found.cgroup.version or found.cgroup.why_not
    assert found.user_namespaces or found.why_no_user_namespaces
    assert found.landlock >= 0


def test_a_bubblewrap_that_is_missing_or_fails_is_not_usable(tmp_path: Path) -> None:
    assert "not installed" in try_bubblewrap(tmp_path / "bwrap").why_not
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    found = try_bubblewrap(broken)
    assert (found.usable, found.why_not) == (False, "bwrap: No permissions to create new namespace")


def test_a_bubblewrap_that_cannot_close_the_network_still_boxes(tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    partial.write_text('#!/bin/sh\ncase "$*" in *--unshare-net*) echo "loopback: no" >&2; exit 1;; esac\n')
    partial.chmod(0o755)
    found = try_bubblewrap(partial)
    assert (found.usable, found.users, found.network, found.why_not) == (True, True, False, "loopback: no")


def test_an_ordinary_users_own_group_is_taken_with_its_controllers(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    _hierarchy(root, "", cgroup__controllers="memory cpu")
    _hierarchy(root, "user", cgroup__controllers="memory cpu", cgroup__subtree_control="memory cpu")
    _hierarchy(root, "user/shell", cgroup__controllers="")
    me = os.getuid() or 1000
    for folder in (root, root / "user", root / "user/shell"):
        os.chown(folder, me if folder != root else os.getuid(), -1) if os.getuid() == 0 else None
    found = find_cgroup(root, _own(tmp_path, "0::/user/shell"), user=me)
    assert (found.version, found.path) == (2, root / "user")


def test_root_does_not_take_a_group_that_nobody_handed_over(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    _hierarchy(root, "", cgroup__controllers="memory")
    _hierarchy(root, "system/app", cgroup__controllers="memory", cgroup__subtree_control="memory")
    found = find_cgroup(root, _own(tmp_path, "0::/system/app"), user=0)
    assert found.version == 0
    assert "not handed over" in found.why_not
    first = _hierarchy(root, "memory/somebody/app")
    found = find_cgroup(root, _own(tmp_path, "4:memory:/somebody/app"), user=0)
    assert (found.version, str(first) in found.why_not) == (0, True)


def test_the_top_of_a_containers_view_is_its_own(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    files = {"cgroup__controllers": "memory", "cgroup__subtree_control": "memory", "cgroup__type": "domain"}
    _hierarchy(root, "", **files)
    assert find_cgroup(root, _own(tmp_path, "0::/"), user=0).version == 2
    first = tmp_path / "first"
    _hierarchy(first, "memory")
    assert find_cgroup(first, _own(tmp_path, "4:memory:/"), user=0).version == 1
    (first / "memory" / "release_agent").touch()
    assert find_cgroup(first, _own(tmp_path, "4:memory:/"), user=0).version == 0


@pytest.mark.parametrize(
    ("version", "written"),
    [
        (1, {"memory.limit_in_bytes": "1048576", "memory.memsw.limit_in_bytes": "1048576"}),
        (
            2,
            {
                "memory.max": "1048576",
                "memory.oom.group": "1",
                "cpu.max": "50000 100000",
                "memory.swap.max": "0",
            },
        ),
    ],
)
def test_a_groups_limits_are_written_as_the_kernel_wants_them(
    tmp_path: Path, version: int, written: dict[str, str]
) -> None:
    group = Group(version, str(tmp_path), "a1")
    group.create(1 << 20, 0.5)
    folder = tmp_path / "stratal-a1"
    assert {path.name: path.read_text() for path in folder.iterdir()} == written
    events = folder / ("memory.oom_control" if version == 1 else "memory.events")
    events.write_text("low 0\noom 1\noom_kill 0\n")
    assert not group.ran_out()
    events.write_text("low 0\noom 1\noom_kill 12\n")
    assert group.ran_out()


def test_a_pythons_installation_is_found_through_links_and_environments(tmp_path: Path) -> None:
    base = tmp_path / "pythons" / "cpython-3.11.9"
    (base / "bin").mkdir(parents=True)
    (base / "lib" / "python3.11").mkdir(parents=True)
    (base / "lib" / "python3.11" / "os.py").touch()
    (base / "bin" / "python3.11").touch()
    alias = tmp_path / "pythons" / "cpython-3.11"
    alias.symlink_to("cpython-3.11.9")
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(alias / "bin" / "python3.11")
    (venv / "pyvenv.cfg").write_text(f"home = {alias}/bin\nversion = 3.11.9\n")
    assert sorted(installation(str(venv / "bin" / "python"))) == sorted([str(alias), str(base)])


def test_a_python_in_somebodys_home_does_not_show_that_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").touch()
    (tmp_path / "lib" / "python3.11").mkdir(parents=True)
    (tmp_path / "lib" / "python3.11" / "os.py").touch()
    assert installation(str(tmp_path / "bin" / "python3")) == [
        str(tmp_path / "lib" / "python3.11"),
        str(tmp_path / "bin" / "python3"),
    ]


def test_our_own_interpreter_is_found() -> None:
    assert any(PYTHON.startswith(path + "/") for path in installation(PYTHON)) or PYTHON.startswith("/usr/")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8484", ("127.0.0.1", 8484)),
        ("https://ml.example.org/x", ("ml.example.org", 443)),
        ("http://localhost", ("localhost", 80)),
        ("", ("", 0)),
        ("unix:///x", ("", 0)),
        ("http://127.0.0.1:0", ("", 0)),
        ("http://127.0.0.1:99999", ("", 0)),
        ("http://[::1]:8484", ("", 0)),
    ],
)
def test_the_platforms_address_is_read_from_its_url(url: str, address: tuple[str, int]) -> None:
    assert url_address(url) == address
