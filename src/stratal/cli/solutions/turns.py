"""Whose turn it is: of several runs of one solution in one project only the newest may go on.

They write the same tables, so a run that goes on beside another would be judged on the other's data. Whether one is
under way is told by its jobs; who began last by an object of the bucket, looked at before each step.
"""

from stratal.kernel.errors import Conflict
from stratal.sdk import Client, jobs

_KEY = "runs/current"


class Turn:
    """The turn of `run` of `solution`, in the project that `client` acts in."""

    def __init__(self, client: Client, solution: str, bucket: str, run: str) -> None:
        self._client = client
        self._solution = solution
        self._bucket = bucket
        self._run = run

    def take(self, steps: tuple[str, ...]) -> None:
        """Raises `Conflict` while a job of another run waits or runs."""
        names = {f"{self._solution}-{step}" for step in steps}
        for job in jobs.list_jobs(self._client, states=("queued", "starting", "running")):
            if job["name"] in names:
                raise Conflict(
                    f"Another run of {self._solution} is under way: its job {job['id']} ({job['name']}) is {job['state']}.",
                    hint=f"Wait for it, or end it: stratal job stop {job['id']} --project {self._client.project}",
                    reason="run_under_way",
                )
        self._client.request("PUT", self._path(), params={"key": _KEY}, content=self._run.encode())

    def hold(self) -> None:
        """Raises `Conflict` when another run has begun since."""
        with self._client.stream("GET", self._path(), params={"key": _KEY}) as answer:
            newest = answer.read().decode()
        if newest != self._run:
            raise Conflict(
                f"Another run of {self._solution} ({newest}) began meanwhile: this one gives way to it.",
                hint="Nothing of this one was promoted.",
                reason="run_replaced",
            )

    def _path(self) -> str:
        return self._client.path(f"/buckets/{self._bucket}/object")
