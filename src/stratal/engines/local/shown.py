"""What there is of zygotes, read off the keeper's folder, for `stratal status`."""

import json
from dataclasses import dataclass
from pathlib import Path

from stratal.engines.local import process


@dataclass(frozen=True, slots=True)
class ShownZygote:
    """A zygote: its process, its environment's Python, the modules it has loaded; not `warm`: it is still loading."""

    pid: int
    python: str
    imports: tuple[str, ...]
    warm: bool
    pss_bytes: int


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
