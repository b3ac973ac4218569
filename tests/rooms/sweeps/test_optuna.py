"""The real searcher in its process: it searches where it was told, learns, says the same again, and may be killed."""

import asyncio
import os
import signal

from stratal.ai.sweeps.model import Parameter, ParameterKind, Study, Trial, TrialState, Value
from stratal.engines.optuna.adapter import OptunaAdvisor
from stratal.kernel.errors import Unavailable

SPACE = [
    Parameter("lr", ParameterKind.LOG, 1e-4, 1e-1),
    Parameter("depth", ParameterKind.INT, 2, 8, 2),
    Parameter("wide", ParameterKind.INTLOG, 16, 4096),
    Parameter("rate", ParameterKind.FLOAT, 0, 1, 0.25),
    Parameter("kind", ParameterKind.CHOICE, choices=["a", "b"]),
]


def trial(number: int, params: dict[str, Value], value: float | None, state: TrialState) -> Trial:
    points = [] if value is None else [(0, value / 2), (1, value)]
    return Trial(number, state, params, number, None, value, points, "", None, 0, None)


def test_it_searches_where_told_and_learns() -> None:
    async def story() -> None:
        advisor = OptunaAdvisor()
        trials: list[Trial] = []
        for number in range(1, 31):
            params = dict(await advisor.ask(Study(SPACE, True, 5, trials)))
            assert 1e-4 <= float(params["lr"]) <= 1e-1
            assert params["depth"] in {2, 4, 6, 8}
            assert isinstance(params["wide"], int)
            assert 16 <= params["wide"] <= 4096
            assert params["rate"] in {0.0, 0.25, 0.5, 0.75, 1.0}
            assert params["kind"] in {"a", "b"}
            value = -abs(float(params["depth"]) - 6) - 2 * (params["kind"] == "b") + 10
            trials.append(trial(number, params, value, TrialState.SUCCEEDED))
        late = [(one.params["depth"], one.params["kind"]) for one in trials[15:]]
        assert late.count((6, "a")) >= 5  # guessing finds two
        study = Study(SPACE, True, 5, [*trials, trial(31, params, None, TrialState.RUNNING)])
        assert await advisor.ask(study) == await advisor.ask(study)
        assert await advisor.hopeless(study, [(0, -50.0)])
        assert not await advisor.hopeless(study, [(0, 50.0)])
        before = advisor.pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        try:
            again = await advisor.ask(study)
        except Unavailable:  # it was asked before its end was seen
            again = await advisor.ask(study)
        assert again == await advisor.ask(study)
        assert advisor.pid != before
        await advisor.close()
        assert advisor.pid is None

    asyncio.run(story())


def test_without_work_its_process_ends() -> None:
    async def story() -> None:
        advisor = OptunaAdvisor(idle_seconds=0.05)
        await advisor.ask(Study(SPACE, False, 1))
        async with asyncio.timeout(60):
            while advisor.pid is not None:
                await asyncio.sleep(0.01)
        await advisor.ask(Study(SPACE, False, 1))
        await advisor.close()

    asyncio.run(story())
