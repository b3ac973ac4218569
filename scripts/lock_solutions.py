"""Write each solution's requirements.txt from its requirements.in: every package pinned, wheels only.

Usage: .venv/bin/python scripts/lock_solutions.py [NAME …]     (all of them without names)
"""

import re
import subprocess
import sys
from pathlib import Path

from uv import find_uv_bin

from stratal.compute.package_sources import pip_config, uv_environment

SOLUTIONS = Path(__file__).parent.parent / "solutions"


def lock(name: str) -> None:
    folder = SOLUTIONS / name
    argv = [find_uv_bin(), "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version"]
    argv += [
        "3.11",
        "--only-binary",
        ":all:",
        "--no-emit-index-url",
        "--no-emit-find-links",
        "requirements.in",
    ]
    made = subprocess.run(argv, cwd=folder, env=SOURCES, capture_output=True, text=True, check=False)
    if made.returncode:
        raise SystemExit(f"{name}: {made.stderr}")
    pins = [line for line in made.stdout.splitlines() if line and not line.startswith(("#", "-"))]
    # A local version (torch's CPU build, ``+cpu``) is in no public index; without it both editions satisfy the pin.
    pins = [re.sub(r"\+[a-z0-9.]+$", "", line) for line in pins]
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in pins))
    print(f"{name}: {len(pins)} packages")


if __name__ == "__main__":
    import os

    SOURCES = {
        **uv_environment(os.environ, pip_config(os.environ)),
        "PATH": os.environ["PATH"],
        "HOME": str(Path.home()),
    }
    for one in sys.argv[1:] or sorted(path.parent.name for path in SOLUTIONS.glob("*/requirements.in")):
        lock(one)
