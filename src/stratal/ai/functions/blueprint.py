"""What replicas of a revision are made of: environment, code, credential, and the fences around them."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread

from stratal.ai.functions.layout import Layouts
from stratal.ai.functions.model import KIND, Function, Revision
from stratal.ai.functions.runtime import Program
from stratal.compute.engine import WorkloadSpec
from stratal.compute.environments import Environments
from stratal.compute.launching import ClientEnv
from stratal.compute.services.port import Replica
from stratal.identity.keys import Credential, Keys
from stratal.kernel.errors import Internal

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A function's worker is at one call at a time; threads of the numeric libraries would wait for each other.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Foundry:
    """Makes blueprints; what they all stand on."""

    def __init__(
        self,
        environments: Environments,
        layouts: Layouts,
        keys: Keys,
        program: Program[Any],
        client_env: ClientEnv,
    ) -> None:
        self.environments = environments
        self.layouts = layouts
        self.keys = keys
        self.program = program
        self.client_env = client_env

    def blueprint(self, function: Function, revision: Revision) -> "RevisionBlueprint":
        return RevisionBlueprint(self, function, revision)


class RevisionBlueprint:
    """A `stratal.compute.services.port.Blueprint` of one revision."""

    def __init__(self, foundry: Foundry, function: Function, revision: Revision) -> None:
        self._foundry = foundry
        self._function = function
        self._revision = revision

    async def spec(self, attempt_id: str, folder: Path) -> WorkloadSpec:
        revision, foundry = self._revision, self._foundry
        if revision.environment_id is None:
            raise Internal(f"Revision {revision.seq} has no environment.")
        environment = await foundry.environments.get(revision.environment_id)
        code = await foundry.layouts.ensure(self._function.project_id, revision)
        told = {
            "kind": self._function.kind,
            "function": self._function.name,
            "project": self._function.project,
            "revision": revision.number,
            "timeout": revision.wishes.timeout_seconds,
            "concurrency": revision.wishes.concurrency,
        }
        command = foundry.program.command(environment.python, revision.target, code, folder, told)
        await anyio.to_thread.run_sync(partial(_put, folder, command.files))
        credential = Credential(revision.key_id, foundry.keys.secret_of(revision.key_id))
        return WorkloadSpec(
            attempt_id=attempt_id,
            argv=command.argv,
            env={
                "PATH": f"{environment.path / 'bin'}:{_PATH}",
                "VIRTUAL_ENV": str(environment.path),
                "LANG": "C.UTF-8",
                **(_ONE_THREAD if self._function.kind == KIND else {}),
                "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime's, which has a thread of its own
                **foundry.client_env(credential, self._function.project),
                **revision.env,
                f"STRATAL_{self._function.kind.upper()}": self._function.name,
                "STRATAL_REVISION": str(revision.number),
            },
            cwd=folder,
            python=environment.python,
            read_only=[environment.path, *command.readable],
            memory_bytes=revision.wishes.memory_bytes,
            network="platform",
            durable=False,
        )

    async def connect(self, folder: Path) -> Replica:
        replica: Replica = await self._foundry.program.connect(folder)
        return replica

    async def welcome(self, replica: Replica) -> None:
        """Whatever loads is welcome: the code was checked when it was laid out."""


def _put(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
