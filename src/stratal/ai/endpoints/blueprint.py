"""What a service is told of a revision: how its replicas are started, connected to and looked at."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio.to_thread

from stratal.ai.endpoints import records
from stratal.ai.endpoints.layout import Layouts
from stratal.ai.endpoints.model import Revision, Wishes
from stratal.ai.endpoints.runtime import Command, Replica, Runtime
from stratal.compute.engine import WorkloadSpec
from stratal.compute.environments import Environment, Environments
from stratal.compute.services.port import Dozer
from stratal.kernel.database import Database
from stratal.kernel.errors import Internal

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ModelBlueprint:
    """Of one revision (`stratal.compute.services.port.Blueprint`)."""

    def __init__(
        self,
        revision: Revision,
        wishes: Wishes,
        variables: Mapping[str, str],
        database: Database,
        environments: Environments,
        layouts: Layouts,
        runtime: Runtime,
    ) -> None:
        self._revision = revision
        self._wishes = wishes
        self._variables = variables
        self._database = database
        self._environments = environments
        self._layouts = layouts
        self._runtime = runtime
        self._told = (revision.interface, revision.loaded)

    async def spec(self, attempt_id: str, folder: Path) -> WorkloadSpec:
        return await self._ready(attempt_id, folder, None)

    async def doze(self, attempt_id: str, folder: Path, modules: Sequence[str]) -> WorkloadSpec:
        return await self._ready(attempt_id, folder, modules)

    async def _ready(self, attempt_id: str, folder: Path, doze: Sequence[str] | None) -> WorkloadSpec:
        revision = self._revision
        if revision.environment_id is None:
            raise Internal(f"Revision {revision.seq} has no environment.")
        environment = await self._environments.get(revision.environment_id)
        model = await self._layouts.ensure(revision)
        command = self._runtime.command(revision.plan, environment.python, model, folder, doze)
        await anyio.to_thread.run_sync(_lay_out, folder, command)
        return _spec(attempt_id, folder, environment, command, self._wishes, self._variables)

    async def connect(self, folder: Path) -> Replica:
        return await self._runtime.connect(folder)

    async def meet(self, folder: Path) -> Dozer[Replica]:
        return await self._runtime.meet(folder)

    async def welcome(self, replica: Replica) -> None:
        """What the replica read must be what was pinned. Raises `Internal`; the layout is then made anew next time."""
        revision = self._revision
        pinned = {file.path: file.sha256 for file in revision.files}
        greeting = replica.greeting
        wrong = [path for path, sha256 in greeting.loaded.items() if pinned.get(path) != sha256]
        if wrong or not greeting.loaded:
            await self._layouts.forget(revision.layout)
            raise Internal(
                f"The replica read other bytes of {', '.join(wrong[:3]) or 'the model'} than were pinned.",
                reason="model_damaged",
            )
        if self._told != (greeting.interface, greeting.loaded):
            await self._database.write(lambda c: records.greeted(c, revision.seq, greeting))
            self._told = (greeting.interface, greeting.loaded)


def _lay_out(folder: Path, command: Command) -> None:
    for name, content in command.files.items():
        (folder / name).write_bytes(content)


def _spec(
    attempt_id: str,
    folder: Path,
    environment: Environment,
    command: Command,
    wishes: Wishes,
    variables: Mapping[str, str],
) -> WorkloadSpec:
    # Requests come one behind the other; more threads of the numeric libraries would only wait for each other.
    threads = str(math.ceil(wishes.cpus or 1))
    return WorkloadSpec(
        attempt_id=attempt_id,
        argv=command.argv,
        env={
            "PATH": f"{environment.path / 'bin'}:{_PATH}",
            "VIRTUAL_ENV": str(environment.path),
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime's, which has a thread of its own
            **variables,
        },
        cwd=folder,
        python=environment.python,
        read_only=[environment.path, *command.readable],
        cpus=wishes.cpus,
        memory_bytes=wishes.memory_bytes,
        network="platform",
        durable=False,
    )
