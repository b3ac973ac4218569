"""``python -m kit STEP …``: one step of a solution, in the folder of its code."""

import argparse
from pathlib import Path

from kit.study import STEPS, Study


def main() -> None:
    parser = argparse.ArgumentParser(prog="kit")
    parser.add_argument("step", choices=sorted(STEPS))
    parser.add_argument("--run", required=True)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--size", choices=["tiny", "default", "full"], default="default")
    parser.add_argument("--plant", choices=["", "leak", "labels", "baseline", "checksum"], default="")
    parser.add_argument("--download", action="store_true")
    given = parser.parse_args()
    import solution  # here, after the words were understood, and in this way: what it imports can be seen beforehand

    study = Study(
        Path.cwd(),
        run=given.run,
        bucket=given.bucket,
        size=given.size,
        plant=given.plant,
        download=given.download,
    )
    STEPS[given.step](study, solution)


main()
