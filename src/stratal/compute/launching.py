"""Making an attempt ready: its environment, its code in a folder of its own, its variables, its fences."""

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import anyio.to_thread

from stratal.compute import claims, records
from stratal.compute.checkpoints import Checkpoints
from stratal.compute.engine import Gang, WorkloadSpec, WorkloadStatus
from stratal.compute.environments import Environment, Environments, remove_tree
from stratal.compute.joblogs import JobLogs
from stratal.compute.model import Held, Job, JobSpec
from stratal.compute.snapshots import Snapshots
from stratal.identity.keys import Credential, Keys
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, StratalError

ClientEnv = Callable[[Credential, str], Mapping[str, str]]
"""The variables that point clients at this instance, for a credential and its project's name."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Launching:
    """What stands between a claim and a start. All of it may be done again after a restart."""

    def __init__(
        self,
        database: Database,
        keys: Keys,
        environments: Environments,
        snapshots: Snapshots,
        checkpoints: Checkpoints,
        logs: JobLogs,
        client_env: ClientEnv,
    ) -> None:
        self._database = database
        self._keys = keys
        self._environments = environments
        self._snapshots = snapshots
        self._checkpoints = checkpoints
        self._logs = logs
        self._client_env = client_env

    async def at_hand(self, spec: JobSpec) -> Environment | None:
        """The environment of a job that is being sent, when it is there already."""
        if spec.pinned_environment is not None or spec.upgrade_environment:
            return None
        with suppress(StratalError):  # it is the job's to fail of that, and to say so
            return await self._environments.at_hand(spec.requirements)
        return None

    async def prepare(self, held: Held, environment: Environment | None = None) -> WorkloadSpec:
        """The attempt as the engine is to start it. `environment`: it is at hand, and in the job's row.

        Raises `Invalid` when that can never be done, `Unavailable` when not now, `Superseded`.
        """
        job = held.job
        if (
            environment is None or not environment.whole
        ):  # it may have been cleared away before the job's row named it
            environment = await self._environment(job)
        noting = asyncio.ensure_future(self._note(held, environment))
        try:
            code, checkpoint = await self._lay_out(job)
            await noting
        finally:
            noting.cancel()
        return self._spec(held, environment, code, checkpoint)

    async def _note(self, held: Held, environment: Environment) -> None:
        if held.job.environment_id != environment.id:
            await self._database.write(lambda c: claims.set_environment(c, held, environment.id))

    async def _environment(self, job: Job) -> Environment:
        def progress(line: str) -> None:
            self._logs.say(job.attempt_id, line)

        if job.pinned_environment is not None:
            return await self._environments.get(job.pinned_environment, progress=progress)
        upgrade = job.upgrade_environment and job.environment_id is None
        return await self._environments.for_requirements(job.requirements, upgrade=upgrade, progress=progress)

    async def _lay_out(self, job: Job) -> tuple[Path, Path]:
        """The job's code in a folder of its own, and its checkpoint's folder. Code that is whole already, from before
        a restart, is kept: the process may just be starting in it."""
        folder = self._logs.folder(job.attempt_id)
        code, scratch, marker = folder / "code", folder / "code.new", folder / "boot"

        def put_in_place() -> None:
            try:
                (scratch / job.cwd).mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise Invalid(f"{job.cwd!r} is no folder of the job's code.", reason="bad_cwd") from error
            marker.write_text(_boot_id())
            scratch.rename(code)

        def begin() -> tuple[bool, Path]:
            checkpoint = self._checkpoints.prepare(job.id)
            # Of this boot: after a power cut, files may be whole in name only.
            if code.is_dir() and marker.is_file() and marker.read_text() == _boot_id():
                return True, checkpoint
            remove_tree(scratch)
            remove_tree(code)
            scratch.mkdir(mode=0o700, parents=True)
            if job.snapshot_id is None:
                put_in_place()
            return job.snapshot_id is None, checkpoint

        there, checkpoint = await anyio.to_thread.run_sync(begin)
        if not there and job.snapshot_id is not None:
            await self._snapshots.lay_out(job.project_id, job.snapshot_id, scratch)
            await anyio.to_thread.run_sync(put_in_place)
        return code, checkpoint

    def _spec(self, held: Held, environment: Environment, code: Path, checkpoint: Path) -> WorkloadSpec:
        job = held.job
        assert held.key_id is not None
        credential = Credential(held.key_id, self._keys.secret_of(held.key_id))
        platform = dict(self._client_env(credential, job.project))
        replaced = replaced_variables(job, platform)
        if replaced:
            self._logs.say(job.attempt_id, f"--env replaces the platform's own {', '.join(replaced)}")
        threads = str(max(1, math.ceil(job.cpus / (job.procs_per_node or 1))))
        env = {
            "PATH": f"{environment.path / 'bin'}:{_PATH}",
            "VIRTUAL_ENV": str(environment.path),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            # Numeric libraries would start a thread per processor of the machine, not of the job.
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime's, which has a thread of its own
            **platform,
            **job.env,
            "STRATAL_JOB_ID": str(job.id),
            "STRATAL_ATTEMPT": str(job.attempt),
            "STRATAL_CHECKPOINT_DIR": str(checkpoint),
            "CUDA_VISIBLE_DEVICES": ",".join(job.gpu_uuids),
        }
        if job.array_id is not None:
            env |= {"STRATAL_ARRAY_ID": f"a{job.array_id}", "STRATAL_ARRAY_INDEX": str(job.array_index)}
        return WorkloadSpec(
            attempt_id=job.attempt_id,
            argv=job.argv,
            env=env,
            cwd=code / job.cwd,
            python=environment.python,
            read_only=[environment.path],
            read_write=[code, checkpoint],
            cpus=job.cpus * job.size,
            memory_bytes=job.memory_bytes * job.size,
            gpus=job.gpu_uuids,
            gang=gang_of(job),
            wall_seconds=job.timeout_seconds,
            grace_seconds=job.grace_seconds,
            network=job.network,
        )

    def isolation(self, job: Job, status: WorkloadStatus) -> str:
        """What fenced the attempt, with what its sender let in, as it is recorded."""
        others = list(status.isolation.other_inputs)
        if job.network == "open" and status.isolation.network == "open":
            others = [
                *(o for o in others if o != "the network"),
                "the network (asked for with --network open)",
            ]
        replaced = replaced_variables(job, self._client_env(Credential("", ""), job.project))
        if replaced:
            others.append(f"whatever {', '.join(replaced)} lead to (given with --env)")
        return records.isolation_json(replace(status.isolation, other_inputs=others))


def gang_of(job: Job) -> Gang | None:
    """The gang that an attempt of the job is; None: it is a single process."""
    if job.nodes is None or job.procs_per_node is None:
        return None
    return Gang(job.nodes, job.procs_per_node, job.attempt - 1, job.retries, job.attempt_id)


def replaced_variables(job: Job, platform: Mapping[str, str]) -> list[str]:
    """The platform's own variables that the job's ``--env`` put something else into."""
    return sorted(set(job.env) & set(platform))


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
