"""What the server of a workspace is made of: environment, folder, credential, and the fences around it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import anyio.to_thread

from stratal.collab.workspaces.files import Folders
from stratal.collab.workspaces.model import Program, Workspace
from stratal.collab.workspaces.runtime import Notebook, Runtime
from stratal.compute.engine import WorkloadSpec
from stratal.compute.environments import Environments
from stratal.compute.launching import ClientEnv
from stratal.identity.keys import Credential, Keys
from stratal.kernel.errors import Internal

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Foundry:
    """Makes blueprints; what they all stand on."""

    def __init__(
        self,
        environments: Environments,
        folders: Folders,
        keys: Keys,
        runtimes: Mapping[Program, Runtime],
        client_env: ClientEnv,
    ) -> None:
        self.environments = environments
        self.folders = folders
        self.keys = keys
        self.runtimes = runtimes
        self.client_env = client_env

    def blueprint(self, of: Workspace) -> "WorkspaceBlueprint":
        return WorkspaceBlueprint(self, of)


class WorkspaceBlueprint:
    """A `stratal.compute.services.port.Blueprint` of one start of a workspace."""

    def __init__(self, foundry: Foundry, of: Workspace) -> None:
        self._foundry = foundry
        self._of = of

    async def spec(self, attempt_id: str, folder: Path) -> WorkloadSpec:
        of, foundry = self._of, self._foundry
        if of.environment_id is None or of.key_id is None:
            raise Internal(f"Workspace {of.id} was not prepared.")
        environment = await foundry.environments.get(of.environment_id)
        place = await foundry.folders.make(of.id)
        command = foundry.runtimes[of.program].command(environment.python, folder, place)
        await anyio.to_thread.run_sync(partial(_put, folder, command.files))
        credential = Credential(of.key_id, foundry.keys.secret_of(of.key_id))
        return WorkloadSpec(
            attempt_id=attempt_id,
            argv=command.argv,
            env={
                "PATH": f"{environment.path / 'bin'}:{_PATH}",
                "VIRTUAL_ENV": str(environment.path),
                "LANG": "C.UTF-8",
                "SHELL": "/bin/bash",
                **foundry.client_env(credential, of.project),
                "STRATAL_WORKSPACE": of.name,
            },
            cwd=place / "files",
            python=environment.python,
            read_only=[environment.path, *command.readable],
            read_write=[folder, place],
            memory_bytes=of.wishes.memory_bytes,
            cpus=of.wishes.cpus or None,
            network=of.wishes.network,
        )

    async def connect(self, folder: Path) -> Notebook:
        return await self._foundry.runtimes[self._of.program].connect(folder)

    async def welcome(self, replica: Notebook) -> None:
        """Whatever answers is welcome."""


def _put(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
