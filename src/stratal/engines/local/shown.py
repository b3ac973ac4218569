"""What there is of zygotes, and of what waits for the next job, read off the keeper's folder, for `stratal status`."""

import json
from dataclasses import dataclass
from pathlib import Path

from stratal.engines.local import process
from stratal.engines.local.probe import Bubblewrap


@dataclass(frozen=True, slots=True)
class ShownZygote:
    """A zygote: its process, its environment's Python, the modules it has loaded; not `warm`: it is still loading."""

    pid: int
    python: str
    imports: tuple[str, ...]
    warm: bool
    pss_bytes: int


def why_no_zygotes(box: Bubblewrap, memory_bytes: int) -> str:
    """Why nothing can be forked from a warm interpreter here; "" where it can."""
    if not memory_bytes:
        return "STRATAL_ZYGOTE_MEMORY is 0"
    if not box.usable:
        return f"a fork cannot be fenced as a cold start is: {box.why_not}"
    if not box.users:
        return f"bubblewrap may make no namespaces of users: {box.why_not}"
    return "" if box.network else f"bubblewrap may make no networks of its own: {box.why_not}"


def zygotes(run_dir: Path) -> list[ShownZygote]:
    """Those that live now."""
    found = []
    for path in sorted(run_dir.glob("zygotes/*/zygote.json")):
        try:
            record = json.loads(path.read_bytes())
            pid, started = record["zygote"] if record["warm"] else record["outer"]
            if process.lives(pid, started):
                imports = tuple(name for name in record["imports"] if ":" not in name)
                memory = process.proportional(pid)
                found.append(ShownZygote(pid, record["python"], imports, record["warm"], memory))
        except (OSError, ValueError, KeyError, TypeError):  # going away this moment
            continue
    return found


def waiting(run_dir: Path) -> dict[int, str]:
    """The launchers that wait for the next job, each with its environment's Python."""
    found = {}
    for path in run_dir.glob("spares/*/spare.json"):
        try:
            record = json.loads(path.read_bytes())
            pid, started = record["launcher"]
            if process.lives(pid, started):
                found[int(pid)] = str(record["python"])
        except (OSError, ValueError, KeyError, TypeError):  # taken or going away this moment
            continue
    return found
