"""A step that is a job of its own: asks the journal what to do, does it, tells how it went."""

import os
import sys
import traceback

from stratal.sdk.pipelines import lake, loading
from stratal.sdk.pipelines.doors import Doors, PlatformLake, Refused
from stratal.sdk.pipelines.values import decode
from stratal.sdk.pipelines.worker import outcome


def main() -> int:
    """Do the step that the environment names. Ends with 0 when its end is in the journal, whatever that end is."""
    loading.settle_paths()
    doors = Doors.of_environment()
    run_id, name = os.environ["STRATAL_PIPELINE_RUN"], os.environ["STRATAL_STEP"]
    from urllib.parse import quote

    place = doors.path(f"/pipelines/runs/{run_id}/steps/{quote(name, safe='')}")
    try:
        task = doors.json("POST", f"{place}/begin", {})
    except Refused as error:
        print(f"This step is not ours to do: {error}", file=sys.stderr)
        return 0
    os.environ["STRATAL_STEP_ATTEMPT"] = str(task["attempt"])
    lake.use(PlatformLake(doors, run_id, name, task["attempt"]))
    try:
        step = loading.step_of(loading.load(task["file"]), task["step"])
        how = outcome(step, decode(task["arguments"]))
    except Exception as error:
        traceback.print_exc()
        how = {"state": "failed", "error": f"{type(error).__name__}: {error}"[:2000]}
    sys.stdout.flush()
    try:
        doors.json("POST", f"{place}/finish", {"attempt": task["attempt"], "log": "", **how})
    except Refused as error:
        print(f"This step is not ours any more: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
