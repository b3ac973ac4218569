"""``stratal up`` that dies at a chosen write of the journal: run as a script by the sweep, never imported.

A journal write is a transaction that changes a row of a ``pipeline_*`` table. The file named by KILL_AT, while it is
there, says which one from now on (1, 2, …) and how: ``before`` its COMMIT, ``after`` it with the answer
lost, ``worker``: everything that belongs to a run is killed right after it, the server is not, or ``both``.
"""

import os
import signal
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from stratal.kernel.database.sqlite import SqliteBackend

ORDER = Path(os.environ["KILL_AT"])
SEEN = ORDER.with_suffix(".seen")
touched = False
count = 0
order = ""


@event.listens_for(Engine, "before_cursor_execute")
def _note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    global touched
    if statement.startswith(("INSERT INTO pipeline_", "UPDATE pipeline_")):
        touched = True


@event.listens_for(Engine, "commit")
def _before(_connection: Any) -> None:
    if touched and _is_due("before"):
        os.kill(os.getpid(), signal.SIGKILL)


def _order() -> tuple[int, str]:
    """The number of the write to kill at, and how. A new order begins to count anew."""
    global count, order
    try:
        text = ORDER.read_text()
        number, how, _ = text.split()
    except (OSError, ValueError):
        return 0, ""
    if text != order:
        order, count = text, 0
    return int(number), how


def _is_due(how: str) -> bool:
    number, wanted = _order()
    return wanted == how and count + 1 == number


_run_group = SqliteBackend._run_group


def _after(self: SqliteBackend, connection: Any, group: Any) -> None:
    global touched, count
    _run_group(self, connection, group)
    if not touched:
        return
    touched = False
    if _is_due("after"):
        os.kill(os.getpid(), signal.SIGKILL)
    if _is_due("both"):
        _kill_workers()
        os.kill(os.getpid(), signal.SIGKILL)
    due = _is_due("worker")
    count += 1
    SEEN.write_text(str(count))
    if due:
        _kill_workers()


def _kill_workers() -> None:
    address = f"STRATAL_URL=http://127.0.0.1:{os.environ['KILL_PORT']}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if address in environment and any(v.startswith(b"STRATAL_PIPELINE_RUN=") for v in environment):
            os.kill(int(entry.name), signal.SIGKILL)


SqliteBackend._run_group = _after  # type: ignore[method-assign]

if __name__ == "__main__":
    from stratal.cli.main import main

    main()
