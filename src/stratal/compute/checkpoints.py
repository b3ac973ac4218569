"""``$STRATAL_CHECKPOINT_DIR``: one folder per job that outlives its attempts.

It is made before the first attempt and shown to each. When the job has succeeded it is removed, and when
it has ended otherwise it is kept for a week. What lies in it is weighed while the job runs and after each attempt; a
job that puts more into it than the limit is ended.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from stratal.compute.environments import remove_tree

LIMIT_BYTES = 20 * 2**30
KEPT_MS = 7 * 86_400_000


class Checkpoints:
    """Folders below `root`, each of at most `limit` bytes. Every method reads the disk: call them off the event loop."""

    def __init__(self, root: Path, limit: int = LIMIT_BYTES) -> None:
        self._root = root
        self.limit = limit

    def folder(self, job_id: int) -> Path:
        return self._root / f"job-{job_id}"

    def prepare(self, job_id: int) -> Path:
        """The job's folder, made if need be."""
        folder = self.folder(job_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def weigh(self, job_id: int) -> int | None:
        """The bytes on disk below the job's folder; None when there is nothing in it."""
        folder = self.folder(job_id)
        total, seen = 0, False
        todo = [str(folder)]
        while todo:
            try:
                with os.scandir(todo.pop()) as entries:
                    for entry in entries:
                        seen = True
                        if entry.is_dir(follow_symlinks=False):
                            todo.append(entry.path)
                        else:
                            total += entry.stat(follow_symlinks=False).st_size
            except OSError:  # the job changes it meanwhile
                continue
        return total if seen else None

    def remove(self, job_id: int) -> None:
        remove_tree(self.folder(job_id))

    def stored(self) -> Collection[int]:
        """The jobs that have a folder."""
        if not self._root.is_dir():
            return []
        names = (folder.name.removeprefix("job-") for folder in self._root.iterdir())
        return [int(name) for name in names if name.isdecimal()]


def expired(ended_at: Mapping[int, int | None], stored: Collection[int], now: int) -> list[int]:
    """Which of the `stored` jobs' folders are to go: of jobs that there are no more, or that ended long ago.

    `ended_at` says for each job that there is when it ended, None: it has not.
    """
    gone = []
    for job_id in stored:
        if job_id not in ended_at:
            gone.append(job_id)
            continue
        ended = ended_at[job_id]
        if ended is not None and ended + KEPT_MS <= now:
            gone.append(job_id)
    return gone
