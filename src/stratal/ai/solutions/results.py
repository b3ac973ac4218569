"""What the newest run of a solution left in its project: result, report and picture, as objects of its bucket."""

from collections.abc import AsyncIterator

from stratal.data.objects.model import ObjectVersion
from stratal.data.objects.service import Objects
from stratal.identity.model import Principal
from stratal.kernel.errors import NotFound

LATEST = {"result": "latest/result.json", "report": "latest/report.html", "picture": "latest/picture.svg"}


class Results:
    """Reads through `objects`, as whoever asks: no one sees more of a run than of the bucket it is kept in."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def find(self, who: Principal, project_id: str, project: str, part: str) -> ObjectVersion:
        """A part of the newest run: one of `LATEST`. Raises `NotFound` when the project holds no run."""
        try:
            bucket = await self._objects.bucket(who, project)
            if bucket.project_id == project_id:
                return await self._objects.head(who, bucket.name, LATEST[part])
        except NotFound:
            pass
        raise NotFound(
            f"No solution has been run in project {project!r}.",
            hint="Run one with: stratal solutions run NAME",
            reason="no_solution_run",
        )

    def read(self, who: Principal, version: ObjectVersion) -> AsyncIterator[bytes]:
        return self._objects.read(who, version)
