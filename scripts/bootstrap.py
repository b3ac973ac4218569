"""Make .venv ready: needs nothing but a Python of at least 3.11. Quick when there is nothing to do.

Usage: python3 scripts/bootstrap.py demo|test|gpu

``demo`` installs the platform, what the demo uses and the light extras; ``test`` also the tools and every
real client; ``gpu`` the platform and what asks NVIDIA's driver.
Exact versions come from constraints.txt; packages come from the sources this machine's pip is
configured with (uv, which installs them, does not read pip's settings by itself).
"""

import hashlib
import os
import runpy
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
WANTED = {
    "demo": ["-e", ".[agents,demo,sweeps]"],
    "test": ["-e", ".[demo,postgres]", "--group", "test"],
    "gpu": ["-e", ".[gpu]"],
}


def main(goal: str) -> None:
    stamp = VENV / f".ready-{goal}"
    state = hashlib.sha256(
        (ROOT / "pyproject.toml").read_bytes()
        + (ROOT / "constraints.txt").read_bytes()
        + repr(WANTED).encode()
        + sys.version.encode()
    ).hexdigest()
    if stamp.exists() and stamp.read_text() == state:
        return
    python = VENV / "bin" / "python"
    if not python.exists():
        print("Creating .venv …", flush=True)
        try:
            venv.create(VENV, with_pip=True, symlinks=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(VENV, ignore_errors=True)
            sys.exit(
                f"{sys.executable} cannot make a virtual environment: install its venv package (python3-venv)."
            )
    if not (VENV / "bin" / "uv").exists():
        pinned = next(
            line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("uv==")
        )
        print(f"Installing {pinned} …", flush=True)
        run([str(python), "-m", "pip", "install", "--quiet", pinned], dict(os.environ))
    sources = runpy.run_path(str(ROOT / "src" / "stratal" / "compute" / "package_sources.py"))
    environ = {**os.environ, **sources["of_this_machine"](os.environ)}
    environ.pop("VIRTUAL_ENV", None)
    print(f"Installing Stratal and what `make {goal}` needs …", flush=True)
    command = [str(VENV / "bin" / "uv"), "pip", "install", "--quiet", "--python", str(python)]
    run([*command, "-c", "constraints.txt", *WANTED[goal]], environ)
    stamp.write_text(state)
    if goal == "test":
        (VENV / ".ready-demo").write_text(state)


def run(command: list[str], environ: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=ROOT, env=environ, check=False)
    if done.returncode:
        sys.exit(f"This failed: {' '.join(command)}")


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036  # it is run by whatever python3 is there
        sys.exit(
            f"Stratal needs Python 3.11 or newer, not {sys.version.split()[0]}. Try: make PYTHON=python3.11"
        )
    if len(sys.argv) != 2 or sys.argv[1] not in WANTED:
        sys.exit(f"Usage: {sys.argv[0]} {'|'.join(WANTED)}")
    main(sys.argv[1])
