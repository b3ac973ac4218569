"""A search as rows, jobs and runs: begun, learned from, pruned, taken up again, closed."""

from collections.abc import Awaitable, Callable

import orjson
import pytest

from stratal.ai.sweeps.model import TrialState
from stratal.compute.quotas import Quota
from stratal.kernel.errors import Denied, Invalid, NotFound

from .room import LR, Room

InRoom = Callable[[Callable[[Room], Awaitable[None]]], None]


def test_a_search_runs_its_trials_as_jobs_and_registers_the_best(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        sweep = await room.begin(trials=3, parallel=2, register_as="churn", name="search")
        _, (one, two) = await room.has(sweep, running=2)
        await room.log(one, 0.1, 0.7, model=True)
        best = await room.log(two, 0.2, 0.9, model=True)
        spec = room.engine.specs[f"job-{two.job_id}-1"]
        assert spec.argv == ["python", "t.py", "--lr=0.02"]
        told = {
            name: spec.env[name] for name in ("MINE", "STRATAL_PARAM_LR", "STRATAL_TRIAL", "STRATAL_PARAMS")
        }
        assert told == {
            "MINE": "1",
            "STRATAL_PARAM_LR": "0.02",
            "STRATAL_TRIAL": "2",
            "STRATAL_PARAMS": '{"lr":0.02}',
        }
        assert spec.env["MLFLOW_EXPERIMENT_NAME"] == "search"
        await room.end(one)
        await room.end(two)
        _, trials = await room.has(sweep, running=1, succeeded=2)
        assert [len(study.trials) for study in room.advisor.asked] == [0, 1, 2]
        assert sorted(trial.value or 0 for trial in room.advisor.asked[2].trials)[1] in {0.7, 0.9}
        await room.log(trials[2], 0.5)
        await room.end(trials[2])
        found, trials = await room.has(sweep, state="succeeded")
        assert [(trial.state, trial.value) for trial in trials] == [
            (TrialState.SUCCEEDED, value) for value in (0.7, 0.9, 0.5)
        ]
        assert (found.sweep.best, found.sweep.version, found.sweep.reason) == (2, 1, "")
        version = await room.models.get(room.ann, "prj_a", "churn", "1")
        assert (version.run_id, version.tags["stratal.trial"]) == (best.id, "2")
        child = await room.runs.get(room.ann, "prj_a", best.id)
        parent = await room.runs.get(room.ann, "prj_a", found.sweep.run_id)
        assert child.tags["mlflow.parentRunId"] == parent.id
        assert child.params == {"lr": "0.02"}
        assert (parent.status, parent.experiment, parent.params) == ("FINISHED", "search", {"lr": "0.02"})
        course = await room.runs.series(room.ann, "prj_a", parent.id, "auc")
        assert sorted((point.step, point.value) for point in course.points()) == [
            (1, 0.7),
            (2, 0.9),
            (3, 0.5),
        ]
        context = orjson.loads(spec.env["MLFLOW_RUN_CONTEXT"])
        assert context == {"mlflow.parentRunId": parent.id, "stratal.sweep": str(sweep), "stratal.trial": "2"}

    in_room(story)


def test_after_the_server_died_the_search_goes_on_with_the_trials_there_were(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        sweep = await room.begin(trials=3, parallel=2)
        _, (one, two) = await room.has(sweep, running=2)
        await room.log(one, 0.4)
        await room.log(two, 0.6)
        await room.kill()
        room.engine.end(f"job-{one.job_id}-1")
        await room.start()
        _, trials = await room.has(sweep, running=2, succeeded=1)
        assert [trial.job_id for trial in trials][:2] == [one.job_id, two.job_id]
        await room.end(two)
        await room.log(trials[2], 0.5)
        await room.kill()
        await room.start()
        await room.end(trials[2])
        _, trials = await room.has(sweep, state="succeeded")
        jobs = (await room.jobs.list(room.ann, "prj_a")).jobs
        assert sorted(job.id for job in jobs) == [trial.job_id for trial in trials]
        assert [trial.value for trial in trials] == [0.4, 0.6, 0.5]
        kinds = [event.kind for event in await room.events.after(0) if event.kind.startswith("sweep.")]
        assert kinds.count("sweep.tried") == kinds.count("sweep.learned") == 3
        assert kinds.count("sweep.succeeded") == 1

    in_room(story)


def test_a_trial_that_falls_behind_is_stopped_and_counts_as_pruned(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        sweep = await room.begin(trials=2, prune=True)
        _, (one,) = await room.has(sweep, running=1)
        await room.log(one, 0.5, 0.8)
        await room.end(one)
        _, (_, two) = await room.has(sweep, running=1, succeeded=1)
        room.advisor.least = 0.4
        await room.log(two, 0.1)
        found, trials = await room.has(sweep, state="succeeded")
        assert (trials[1].state, trials[1].points) == (TrialState.PRUNED, [(0, 0.1)])
        assert room.engine.stopped == [f"job-{two.job_id}-1"]
        assert found.sweep.best == 1

    in_room(story)


def test_a_script_that_never_works_is_tried_five_times_only(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        sweep = await room.begin(trials=20)
        for number in range(5):
            _, trials = await room.has(sweep, running=1, failed=number)
            await room.end(trials[-1], code=3)
        found, trials = await room.has(sweep, state="failed")
        assert len(trials) == 5
        assert (
            f"the first 5 trials failed; the last, job {trials[-1].job_id}: exit code 3" in found.sweep.reason
        )
        parent = await room.runs.get(room.ann, "prj_a", found.sweep.run_id)
        assert parent.status == "FAILED"

    in_room(story)


def test_a_trial_without_the_metric_failed_and_a_search_without_a_value_too(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        sweep = await room.begin(trials=2, maximize=False)
        _, (one,) = await room.has(sweep, running=1)
        await room.log(one, 0.5, metric="loss")
        await room.end(one)
        _, (one, two) = await room.has(sweep, running=1, failed=1)
        assert one.reason == "it logged no finite value of the metric 'auc'"
        await room.log(two, float("nan"))
        await room.end(two)
        found, _ = await room.has(sweep, state="failed")
        assert found.sweep.reason.startswith("no trial came to a value of auc")

    in_room(story)


def test_the_least_is_best_where_less_is_better_and_no_model_is_said(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        sweep = await room.begin(trials=2, maximize=False, register_as="m")
        for value in (0.3, 0.9):
            _, trials = await room.has(sweep, running=1)
            await room.log(trials[-1], value)
            await room.end(trials[-1])
            await room.has(sweep, running=1 if value == 0.3 else 0, succeeded=len(trials))
        found, _ = await room.has(sweep, state="succeeded")
        assert (found.sweep.best, found.sweep.version) == (1, None)
        assert "the best was not registered: the best trial, 1 (job 1), logged no model" in found.sweep.reason

    in_room(story)


def test_stopping_ends_what_runs_and_begins_no_more(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        sweep = await room.begin(trials=9, parallel=2)
        _, (one, _) = await room.has(sweep, running=2)
        await room.log(one, 0.5)
        await room.end(one)
        await room.has(sweep, running=2, succeeded=1)
        await room.sweeps.stop(room.ann, "prj_a", sweep)
        found, trials = await room.has(sweep, state="stopped", running=0)
        assert (len(trials), found.best and found.best.number) == (3, 1)
        assert found.sweep.reason == "stopped by service:ann"
        again = await room.sweeps.stop(room.ann, "prj_a", sweep)
        assert again.sweep.state == "stopped"

    in_room(story)


def test_only_editors_of_the_project_search_and_others_see_nothing(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        sweep = await room.begin(trials=1)
        with pytest.raises(Denied):
            await room.sweeps.stop(room.viewer, "prj_a", sweep)
        with pytest.raises(NotFound):
            await room.sweeps.get(room.bob, "prj_b", sweep)
        assert await room.sweeps.list(room.bob, "prj_b") == []
        assert [one.sweep.id for one in await room.sweeps.list(room.viewer, "prj_a")] == [sweep]
        await room.sweeps.purge("prj_a")
        assert await room.sweeps.list(room.ann, "prj_a") == []

    in_room(story)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"space": []}, "needs a parameter"),
        ({"space": [LR, LR]}, "same name"),
        ({"metric": ""}, "needs a name"),
        ({"trials": 0}, "1 to 1000"),
        ({"parallel": 101}, "1 to 100"),
        ({"seed": -1}, "seed"),
        ({"register_as": "a/b"}, "cannot name a registered model"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(
    in_room: InRoom, asked: dict[str, object], says: str
) -> None:
    async def story(room: Room) -> None:
        with pytest.raises(Invalid, match=says):
            await room.begin(**asked)
        assert await room.sweeps.list(room.ann, "prj_a") == []

    in_room(story)


def test_a_sweep_that_can_begin_no_trial_any_more_says_why(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        sweep = await room.begin(trials=2)
        _, (one,) = await room.has(sweep, running=1)
        await room.log(one, 0.5)
        await room.quotas.set(room.admin, "prj_a", Quota(jobs=0))
        await room.end(one)
        found, _ = await room.has(sweep, state="failed")
        assert "trial 2 could not be begun: The project's quota allows 0 jobs" in found.sweep.reason

    in_room(story)
