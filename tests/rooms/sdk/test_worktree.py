"""What is sent as a job's code: what git does not ignore, told apart from what it does."""

import base64
import os
import subprocess
from pathlib import Path

import pytest

from stratal.sdk import worktree
from stratal.sdk.worktree import TreeError, WorkTree, read_worktree, without_credentials

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def own_git(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A git that knows nobody's settings."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "t")
        monkeypatch.setenv(f"{name}_EMAIL", "t@t")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *words],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / "sub").mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    (root / ".gitignore").write_text("*.secret\ndata/\n")
    (root / "train.py").write_text("one\n")
    (root / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (root / "sub" / "run.sh").chmod(0o755)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "first")
    return root


def paths(tree: WorkTree) -> dict[str, str]:
    return {entry.path: entry.mode for entry in tree.entries}


def test_tracked_and_untracked_files_are_sent_and_ignored_ones_not(repository: Path) -> None:
    (repository / "new file ü.py").write_text("x")
    (repository / "keys.secret").write_text("x")
    (repository / "data").mkdir()
    (repository / "data" / "big").write_text("x")
    tree = read_worktree(repository)
    assert paths(tree) == {
        ".gitignore": "100644",
        "train.py": "100644",
        "sub/run.sh": "100755",
        "new file ü.py": "100644",
    }
    assert tree.source["untracked"] == ["new file ü.py"]
    assert (tree.cwd, tree.source["dirty"], tree.source["branch"]) == ("", True, "main")


def test_commit_diff_and_address_are_recorded(repository: Path) -> None:
    git(repository, "remote", "add", "origin", "https://joe:token@example.org/r.git?private=1")
    clean = read_worktree(repository).source
    assert (clean["dirty"], clean["diff"], clean["commit"]) == (
        False,
        "",
        git(repository, "rev-parse", "HEAD"),
    )
    assert clean["remote"] == "https://example.org/r.git"
    (repository / "train.py").write_text("two\n")
    (repository / "blob.bin").write_bytes(bytes(range(256)))
    git(repository, "add", "blob.bin")
    (repository / "sub" / "run.sh").unlink()
    tree = read_worktree(repository)
    diff = base64.b64decode(tree.source["diff"])
    assert b"-one\n+two" in diff
    assert b"GIT binary patch" in diff
    assert b"deleted file" in diff
    assert "sub/run.sh" not in paths(tree)
    git(repository, "stash")
    subprocess.run(["git", "apply", "--index"], cwd=repository, input=diff, check=True)
    assert (repository / "train.py").read_text() == "two\n"


def test_a_long_diff_is_cut_and_said_to_be(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worktree, "MAX_DIFF_BYTES", 100)
    (repository / "train.py").write_text("long\n" * 1000)
    source = read_worktree(repository).source
    assert (source["diff_truncated"], len(base64.b64decode(source["diff"]))) == (True, 100)


def test_from_a_folder_within_the_whole_repository_is_sent(repository: Path) -> None:
    tree = read_worktree(repository / "sub")
    assert (tree.cwd, set(paths(tree))) == ("sub", {".gitignore", "train.py", "sub/run.sh"})


def test_a_repository_without_commits_works(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("x")
    tree = read_worktree(tmp_path)
    assert set(paths(tree)) == {"a.py"}
    assert (tree.source["commit"], tree.source["dirty"]) == (None, True)


def test_a_folder_that_its_repository_ignores_stands_alone(repository: Path) -> None:
    (repository / "data").mkdir()
    (repository / "data" / "a.py").write_text("x")
    tree = read_worktree(repository / "data")
    assert (set(paths(tree)), tree.source["kind"]) == ({"a.py"}, "folder")


def test_submodules_and_repositories_within_are_sent_with_their_commits(
    repository: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    (other / "lib.py").write_text("x")
    (other / ".gitignore").write_text("hidden\n")
    git(other, "add", "-A")
    git(other, "commit", "-q", "-m", "x")
    git(repository, "submodule", "--quiet", "add", str(other), "vendor/lib")
    git(repository, "commit", "-q", "-m", "sub")
    (repository / "vendor/lib/hidden").write_text("x")
    (repository / "vendor/lib/more.py").write_text("x")
    tree = read_worktree(repository)
    assert {"vendor/lib/lib.py", "vendor/lib/more.py"} <= set(paths(tree))
    assert "vendor/lib/hidden" not in paths(tree)
    assert not any(".git" in path.split("/") for path in paths(tree))
    assert tree.source["submodules"] == {"vendor/lib": git(other, "rev-parse", "HEAD")}
    git(repository, "submodule", "--quiet", "deinit", "-f", "vendor/lib")
    tree = read_worktree(repository)
    assert "vendor/lib/lib.py" not in paths(tree)
    assert any("vendor/lib" in note for note in tree.notes)


def test_links_inside_stay_links_and_links_that_lead_out_are_refused(repository: Path) -> None:
    (repository / "sub" / "inner").symlink_to("../train.py")
    (repository / "dir").symlink_to("sub")
    tree = read_worktree(repository)
    assert paths(tree)["sub/inner"] == paths(tree)["dir"] == "120000"
    assert b"".join(next(e for e in tree.entries if e.path == "sub/inner").read()) == b"../train.py"
    for target in ("/etc/passwd", "../../x", "sub/../../x"):
        (repository / "out").symlink_to(target)
        with pytest.raises(TreeError, match="out"):
            read_worktree(repository)
        (repository / "out").unlink()


def test_elsewhere_all_files_but_those_that_are_never_code(tmp_path: Path) -> None:
    for name in (
        "a.py",
        ".env",
        "__pycache__/a.pyc",
        ".venv/x",
        "node_modules/y",
        "env/pyvenv.cfg",
        "env/z",
        "sub/.git",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    os.mkfifo(tmp_path / "pipe")
    tree = read_worktree(tmp_path)
    assert set(paths(tree)) == {"a.py", ".env"}
    assert "no git repository" in tree.notes[0]
    assert "node_modules" in tree.notes[0]
    assert any("pipe" in note for note in tree.notes)


def test_the_platforms_home_is_never_sent(tmp_path: Path) -> None:
    (tmp_path / ".stratal" / "keys").mkdir(parents=True)
    (tmp_path / ".stratal" / "keys" / "master.key").write_text("x")
    (tmp_path / "a.py").write_text("x")
    assert set(paths(read_worktree(tmp_path, without=tmp_path / ".stratal"))) == {"a.py"}


def test_a_home_folder_is_refused() -> None:
    with pytest.raises(TreeError):
        read_worktree(Path.home())
    with pytest.raises(TreeError):
        read_worktree(Path("/"))


def test_too_much_names_the_biggest(tmp_path: Path) -> None:
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(600 << 20)
    with pytest.raises(TreeError, match=r"weights\.bin \(600\.0 MiB\)"):
        read_worktree(tmp_path)


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"b\xffd")).write_text("x")
    with pytest.raises(TreeError, match="UTF-8"):
        read_worktree(tmp_path)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://joe:token@h/r.git", "https://h/r.git"),
        ("https://token@h:8443/r.git", "https://h:8443/r.git"),
        ("ssh://git:pw@h/r.git", "ssh://git@h/r.git"),
        ("git@github.com:o/r.git", "git@github.com:o/r.git"),
        ("/srv/r.git", "/srv/r.git"),
    ],
)
def test_credentials_never_leave(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
