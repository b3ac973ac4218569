"""The server's side: one worker, one question at a time, a line of JSON each way."""

import asyncio
import contextlib
import importlib.util
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson

from stratal.ai.sweeps.model import Parameter, ParameterKind, Study, Trial, TrialState, Value
from stratal.kernel.errors import Unavailable

log = logging.getLogger("stratal.sweeps")

_ANSWER_SECONDS = 120.0
_LONGEST_LINE = 64 << 20


class OptunaAdvisor:
    """An `Advisor`. Its worker is ended when nothing was asked for `idle_seconds`."""

    def __init__(self, *, idle_seconds: float = 30.0) -> None:
        self._idle_seconds = idle_seconds
        self._turn = asyncio.Lock()
        self._worker: asyncio.subprocess.Process | None = None
        self._ending: asyncio.TimerHandle | None = None

    def require(self) -> None:
        if importlib.util.find_spec("optuna") is None:
            raise Unavailable(
                "Sweeps need Optuna, which is not installed beside the platform.",
                hint="Install it where Stratal is: pip install 'stratal[sweeps]'",
                reason="no_optuna",
            )

    async def ask(self, study: Study) -> Mapping[str, Value]:
        found = await self._question({"op": "ask", **_study(study)})
        return {parameter.name: _exact(parameter, found[parameter.name]) for parameter in study.space}

    async def hopeless(self, study: Study, points: Sequence[tuple[int, float]]) -> bool:
        return bool(await self._question({"op": "hopeless", "points": list(points), **_study(study)}))

    async def close(self) -> None:
        async with self._turn:
            await self._end()

    @property
    def pid(self) -> int | None:
        """The worker's, while there is one."""
        return None if self._worker is None else self._worker.pid

    async def _question(self, question: dict[str, Any]) -> Any:
        self.require()
        async with self._turn:
            if self._ending is not None:
                self._ending.cancel()
            worker = await self._started()
            assert worker.stdin is not None
            assert worker.stdout is not None
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    worker.stdin.write(orjson.dumps(question) + b"\n")
                    await worker.stdin.drain()
                    line = await worker.stdout.readline()
                answer = orjson.loads(line)
            except (OSError, ValueError, TimeoutError) as error:
                await self._end()
                raise Unavailable(
                    "The process that searches ended in the middle of a question.", reason="advisor_lost"
                ) from error
            except asyncio.CancelledError:
                await self._end()  # its answer would be taken for the next question's
                raise
            loop = asyncio.get_running_loop()
            self._ending = loop.call_later(self._idle_seconds, self._end_idle, worker)
        if "error" in answer:
            raise Unavailable(
                f"The next trial could not be found: {answer['error']}", reason="advisor_failed"
            )
        return answer["answer"]

    async def _started(self) -> asyncio.subprocess.Process:
        if self._worker is not None and self._worker.returncode is None:
            return self._worker
        try:
            self._worker = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", "stratal.engines.optuna.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={
                    "PATH": os.defpath,
                    "LANG": "C.UTF-8",
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                },
                limit=_LONGEST_LINE,
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(f"The process that searches could not be started: {error.strerror}.") from error
        return self._worker

    def _end_idle(self, worker: asyncio.subprocess.Process) -> None:
        if worker is self._worker and worker.stdin is not None and not self._turn.locked():
            worker.stdin.close()  # it ends by itself when nothing more can come
            self._worker = None

    async def _end(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        worker, self._worker = self._worker, None
        if worker is not None and worker.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()


def _study(study: Study) -> dict[str, Any]:
    return {
        "maximize": study.maximize,
        "seed": study.seed,
        "space": [asdict(parameter) for parameter in study.space],
        "trials": [_trial(trial) for trial in study.trials if trial.state is not TrialState.STOPPED],
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "state": trial.state.value,
        "params": dict(trial.params),
        "value": trial.value,
        "points": [list(point) for point in trial.points],
    }


def _exact(parameter: Parameter, value: Any) -> Value:
    if parameter.kind is ParameterKind.CHOICE:
        return str(value)
    return int(value) if parameter.whole else float(value)
