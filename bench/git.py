"""git through Stratal beside git over file://, with the same repository.

    .venv/bin/python bench/git.py [--files 5000] [--repeat 3]

Needs a running platform (`stratal up --detach`). Makes a repository of many files and a history in a scratch
directory, and pushes, clones, clones shallowly and fetches it through both, in turn. Prints medians and the ratio
of speeds (git over file:// is 1): a ratio of 0.6 means that Stratal takes 1/0.6 of its time.
"""

import argparse
import base64
import os
import random
import secrets
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from stratal.sdk import Client

_QUIET = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
_NAMES = {
    f"GIT_{role}_{what}": f"bench{'@localhost' if what == 'EMAIL' else ''}"
    for role in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
}


class Git:
    def __init__(self, authorization: str) -> None:
        self.env = {**os.environ, **_QUIET, **_NAMES}
        self.authorization = authorization

    def __call__(self, *arguments: str, at: Path) -> float:
        """Run git; the seconds that it took."""
        header = ("-c", f"http.extraHeader=Authorization: {self.authorization}")
        started = time.perf_counter()
        done = subprocess.run(
            ["git", *header, *arguments], cwd=at, env=self.env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"git {' '.join(arguments)}: {done.stderr}")
        return time.perf_counter() - started


def make(git: Git, place: Path, files: int) -> None:
    """A repository of `files` files of a few KiB in some commits: half of each does not compress."""
    place.mkdir()
    git("init", "-q", "-b", "main", at=place)
    luck = random.Random(7)
    for number in range(files):
        path = place / f"part{number % 50:02}" / f"file{number:05}.txt"
        path.parent.mkdir(exist_ok=True)
        text = base64.b64encode(luck.randbytes(1500)) + b"\n" + b"the same line again\n" * 75
        path.write_bytes(text)
        if number % (files // 5) == files // 5 - 1:
            git("add", "-A", at=place)
            git("commit", "-q", "-m", f"up to {number}", at=place)


def change(git: Git, place: Path) -> None:
    for number in range(100):
        (place / f"part{number % 50:02}" / f"new{secrets.token_hex(4)}.txt").write_text("more\n" * 100)
    git("add", "-A", at=place)
    git("commit", "-q", "-m", "more", at=place)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--files", type=int, default=5000)
    options.add_argument("--repeat", type=int, default=3)
    given = options.parse_args()
    client = Client()
    git = Git(f"Bearer {client.key}")
    times: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source"
        make(git, source, given.files)
        for turn in range(given.repeat):
            repository = f"bench-{secrets.token_hex(4)}"
            client.post(client.path("/repositories"), {"name": repository})
            subprocess.run(["git", "init", "-q", "--bare", "-b", "main", folder / "bare.git"], check=True)
            places = {
                "file": f"file://{folder}/bare.git",
                "Stratal": f"{client.url}/git/{client.project}/{repository}.git",
            }
            order = list(places) if turn % 2 == 0 else list(places)[::-1]
            try:
                for what in ("push", "clone", "shallow clone", "push of a change", "fetch"):
                    if what == "push of a change":
                        change(git, source)
                    for where in order:
                        took = measure(git, folder, source, what, places[where], where)
                        times.setdefault(what, {}).setdefault(where, []).append(took)
            finally:
                client.request("DELETE", client.path(f"/repositories/{repository}"))
                for made in (*folder.glob("clone-*"), *folder.glob("shallow-*"), folder / "bare.git"):
                    shutil.rmtree(made, ignore_errors=True)
    print(f"{given.files} files; medians of {given.repeat}")
    print(f"{'':<18} {'Stratal s':>10} {'file:// s':>10} {'speed':>6}")
    for what, by in times.items():
        here, there = statistics.median(by["Stratal"]), statistics.median(by["file"])
        print(f"{what:<18} {here:>10.2f} {there:>10.2f} {there / here:>6.2f}")


def measure(git: Git, folder: Path, source: Path, what: str, address: str, where: str) -> float:
    match what:
        case "push" | "push of a change":
            return git("push", "-q", address, "main", at=source)
        case "clone":
            return git("clone", "-q", address, f"clone-{where}", at=folder)
        case "shallow clone":
            return git("clone", "-q", "--depth", "1", address, f"shallow-{where}", at=folder)
        case _:
            return git("fetch", "-q", at=folder / f"clone-{where}")


if __name__ == "__main__":
    main()
