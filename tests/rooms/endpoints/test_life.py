"""An endpoint's life: deployed, asked, asleep, woken, redeployed, found again after a restart."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection

from stratal.ai.endpoints import records
from stratal.ai.endpoints.scoring import Inputs
from stratal.kernel.errors import Denied, Invalid, NotFound, Unavailable

from .room import OWNER, STRANGER, VIEWER, Room, World, ask, until


def test_a_deployed_model_answers_and_its_prediction_is_read_back(in_room: Callable[..., None]) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        value, prediction_id = await room.ask("sum", 1, 2, 3, who=VIEWER)
        assert value == 6
        found = await room.predictions.get(VIEWER, prediction_id)
        assert found.intact
        assert (found.endpoint, found.model_version_id, found.rows) == ("sum", "mv_m1", 1)
        assert found.inputs[0]["data"] == [[1, 2, 3]]
        assert found.outputs[0]["data"] == [6]
        assert found.actor == "service:vic"

    in_room(story)


def test_nothing_of_it_is_there_for_another_project(in_room: Callable[..., None]) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        _, prediction_id = await room.ask("sum", 1)
        with pytest.raises(NotFound):
            await room.ask("sum", 1, who=STRANGER)
        with pytest.raises(NotFound):
            await room.predictions.get(STRANGER, prediction_id)
        with pytest.raises(NotFound):
            await room.endpoints.remove(STRANGER, "prj_a", "sum")
        with pytest.raises(Denied):
            await room.endpoints.stop(VIEWER, "prj_a", "sum")
        assert await room.ask("sum", 1)

    in_room(story)


def test_a_new_revision_takes_over_when_it_is_ready_and_not_before(in_room: Callable[..., None]) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        room.world.hold_loading = asyncio.Event()
        await room.endpoints.deploy(OWNER, "prj_a", "sum", await room.models.add("m", b"two"))
        await until(lambda: len(room.world.started) == 2)
        answer = await room.serving.infer(OWNER, "prj_a", "sum", _row(1.0), None, request_id="r")
        assert answer.model_version == "1"
        room.world.hold_loading.set()
        await until(lambda: room.serving.find("prj_a", "sum").deploying is None)  # type: ignore[union-attr]
        answer = await room.serving.infer(OWNER, "prj_a", "sum", _row(1.0), None, request_id="r")
        assert (answer.model_version, answer.revision_number) == ("2", 2)
        await until(lambda: len([s for s in room.world.statuses.values() if s.state == "running"]) == 1)

    in_room(story)


def test_a_revision_that_fails_leaves_the_old_one_answering_and_says_why(
    in_room: Callable[..., None], world: World
) -> None:
    world.cannot_load[b"bad"] = "No module named 'sklearn'"

    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        await room.deployed("sum", await room.models.add("m", b"bad"))
        view = await room.endpoints.get(OWNER, "prj_a", "sum")
        assert view.latest.state == "failed"
        assert "No module named 'sklearn'" in view.latest.failure
        assert view.active is not None
        assert view.active.number == 1
        assert view.state == "ready"
        assert (await room.ask("sum", 2, 2))[0] == 4

    in_room(story)


def test_a_first_revision_that_fails_makes_a_failed_endpoint(
    in_room: Callable[..., None], world: World
) -> None:
    world.cannot_load[b"bad"] = "ValueError: no such estimator"

    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"bad"))
        assert await room.state("sum") == "failed"
        with pytest.raises(Unavailable, match="no such estimator"):
            await room.ask("sum", 1)
        await room.deployed("env", await room.models.add("e", b"x", requirements="impossible==1"))
        with pytest.raises(Unavailable, match="nothing satisfies impossible"):
            await room.ask("env", 1)

    in_room(story)


def test_a_revision_that_was_superseded_is_not_on_its_way_again(in_room: Callable[..., None]) -> None:
    async def story(room: Room) -> None:
        uri = await room.models.add("m", b"1")
        made = await room.endpoints.deploy(OWNER, "prj_a", "sum", uri)

        def overtaken(c: Connection) -> object:  # a newer one was wished while this one was being prepared
            records.supersede_pending(c, made.endpoint.id, "a newer revision")
            return records.advance(c, made.latest.seq, state="starting")

        assert await room.database.write(overtaken) is None
        await until(lambda: room.serving.find("prj_a", "sum").deploying is None)  # type: ignore[union-attr]
        (revision,) = await room.endpoints.revisions(OWNER, "prj_a", "sum")
        assert revision.state == "superseded"

    in_room(story)


def test_of_many_deployments_at_once_the_newest_wins(in_room: Callable[..., None]) -> None:
    async def story(room: Room) -> None:
        uris = [await room.models.add("m", b"%d" % i) for i in range(5)]
        await asyncio.gather(*(room.endpoints.deploy(OWNER, "prj_a", "sum", uri) for uri in uris))
        await until(lambda: room.serving.find("prj_a", "sum").deploying is None)  # type: ignore[union-attr]
        revisions = await room.endpoints.revisions(OWNER, "prj_a", "sum")
        assert [r.number for r in revisions] == [5, 4, 3, 2, 1]
        assert [r.state for r in revisions] == ["active", *["superseded"] * 4]
        answer = await room.serving.infer(OWNER, "prj_a", "sum", _row(1.0), None, request_id="r")
        assert answer.revision_number == 5

    in_room(story)


def test_at_zero_a_request_wakes_it_and_many_share_one_waking(in_room: Callable[..., None]) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"), idle_ms=30)
        await until(lambda: _is(room, "idle"))
        before = len(room.world.started)
        answers = await asyncio.gather(*(room.ask("sum", 1, i) for i in range(50)))
        assert [value for value, _ in answers] == [1 + i for i in range(50)]
        assert len(room.world.started) == before + 1
        assert len({prediction_id for _, prediction_id in answers}) == 50

    in_room(story)


def test_requests_over_the_bound_are_refused_with_a_time_to_come_back(in_room: Callable[..., None]) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"), idle_ms=30)
        await until(lambda: _is(room, "idle"))
        room.world.hold_loading = asyncio.Event()
        waiting = [asyncio.ensure_future(room.ask("sum", 1)) for _ in range(512)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable) as refused:
            await room.ask("sum", 1)
        assert refused.value.details["retry_after_seconds"] == 1
        room.world.hold_loading.set()
        assert {value for value, _ in await asyncio.gather(*waiting)} == {1}

    in_room(story)


def test_a_replica_that_dies_under_a_request_is_replaced_and_the_request_answered(
    in_room: Callable[..., None],
) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        room.engine.end(room.world.started[-1], 137)
        assert (await room.ask("sum", 3, 4))[0] == 7
        assert len(room.world.started) == 2

    in_room(story)


def test_a_request_that_kills_each_replica_is_given_up(in_room: Callable[..., None]) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        with pytest.raises(Unavailable, match="died while it was answering"):
            await room.ask("sum", -1)
        assert (await room.ask("sum", 3, 4))[0] == 7

    in_room(story)


def test_a_replica_that_falls_silent_is_replaced(in_room: Callable[..., None]) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        with pytest.raises(Unavailable, match="did not answer within"):
            await room.ask("sum", -2)
        await until(lambda: len(room.world.started) == 2)
        assert (await room.ask("sum", 1, 1))[0] == 2

    in_room(story, request_seconds=0.5)


def test_input_that_the_model_refuses_is_the_callers_mistake_and_is_not_recorded(
    in_room: Callable[..., None],
) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        with pytest.raises(Invalid, match="no -3, please"):
            await room.ask("sum", -3)
        assert room.spool.segments() == []

    in_room(story)


def test_stopped_it_refuses_and_started_it_answers(in_room: Callable[..., None]) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        await room.endpoints.stop(OWNER, "prj_a", "sum")
        assert await room.state("sum") == "stopped"
        with pytest.raises(Unavailable, match="is stopped"):
            await room.ask("sum", 1)
        await until(lambda: not _running(room.world))
        await room.endpoints.start(OWNER, "prj_a", "sum")
        assert (await room.ask("sum", 5))[0] == 5

    async def still_stopped(room: Room) -> None:
        await room.endpoints.stop(OWNER, "prj_a", "sum")

    async def after_restart(room: Room) -> None:
        assert await room.state("sum") == "stopped"
        await room.endpoints.start(OWNER, "prj_a", "sum")
        assert (await room.ask("sum", 5))[0] == 5

    in_room(story, still_stopped, after_restart)


def test_removed_it_is_gone_its_name_is_free_and_its_predictions_are_still_explained(
    in_room: Callable[..., None],
) -> None:
    async def story(room: Room) -> None:
        uri = await room.models.add("m", b"one")
        await room.deployed("sum", uri)
        _, prediction_id = await room.ask("sum", 1)
        await room.endpoints.remove(OWNER, "prj_a", "sum")
        with pytest.raises(NotFound):
            await room.ask("sum", 1)
        await until(lambda: not _running(room.world))
        assert (await room.predictions.get(OWNER, prediction_id)).intact
        await until(lambda: not list((room.folder / "models").iterdir()))
        await room.deployed("sum", uri)
        view = await room.endpoints.get(OWNER, "prj_a", "sum")
        assert view.latest.number == 1
        assert (await room.ask("sum", 9))[0] == 9

    in_room(story)


def test_a_purged_projects_rows_and_predictions_are_overwritten(in_room: Callable[..., None]) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        _, prediction_id = await room.ask("sum", 4321)
        await room.endpoints.purge("prj_a")
        with pytest.raises(NotFound):
            await room.predictions.get(OWNER, prediction_id)
        stored = b"".join(p.read_bytes() for p in (room.folder / "spool").iterdir())
        assert b"service:ada" not in stored
        assert not _running(room.world)

    in_room(story)


def test_a_restarted_server_takes_the_living_replica_over(in_room: Callable[..., None], world: World) -> None:
    kept: list[str] = []

    async def before(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        kept.append((await room.ask("sum", 1))[1])

    async def after(room: Room) -> None:
        assert (await room.ask("sum", 2, 2))[0] == 4
        assert len(room.world.started) == 1
        assert (await room.predictions.get(OWNER, kept[0])).intact

    in_room(before, after)


def test_after_the_replica_died_with_the_server_the_first_request_wakes_it(
    in_room: Callable[..., None], world: World
) -> None:
    async def before(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))

    async def after(room: Room) -> None:
        await until(lambda: _is(room, "idle"))
        assert (await room.ask("sum", 2, 2))[0] == 4

    in_room(before, after, reboot=True)


def test_a_rollout_that_a_kill_cut_off_goes_on(in_room: Callable[..., None], world: World) -> None:
    async def before(room: Room) -> None:
        room.world.hold_loading = asyncio.Event()
        await room.endpoints.deploy(OWNER, "prj_a", "sum", await room.models.add("m", b"one"))
        await until(lambda: len(room.world.started) == 1)

    async def after(room: Room) -> None:
        room.world.hold_loading = None
        await until(lambda: _is(room, "ready"))
        assert (await room.ask("sum", 2, 2))[0] == 4
        await until(lambda: len(_running(room.world)) == 1)

    in_room(before, after)


def test_damaged_model_bytes_are_not_served(in_room: Callable[..., None], world: World) -> None:
    async def story(room: Room) -> None:
        uri = await room.models.add("m", b"one")
        path = room.blobs.local_path(room.models.blob_of(uri))
        path.write_bytes(b"two")
        await room.deployed("sum", uri)
        view = await room.endpoints.get(OWNER, "prj_a", "sum")
        assert view.state == "failed"
        assert "not the ones that the model version pinned" in view.failure

    in_room(story)


def test_a_replica_that_read_other_bytes_than_pinned_does_not_answer(
    in_room: Callable[..., None], world: World
) -> None:
    world.tampered = True

    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        view = await room.endpoints.get(OWNER, "prj_a", "sum")
        assert view.state == "failed"
        assert "read other bytes" in view.failure
        assert list((room.folder / "models").iterdir()) == []

    in_room(story)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\0b", "a\nb", "x" * 2000, "a..b", "é"])
def test_names_that_could_harm_are_refused(in_room: Callable[..., None], name: str) -> None:
    async def story(room: Room) -> None:
        uri = await room.models.add("m", b"one")
        with pytest.raises(Invalid):
            await room.endpoints.deploy(OWNER, "prj_a", name, uri)
        with pytest.raises(NotFound):
            await room.endpoints.get(OWNER, "prj_a", name)

    in_room(story)


def test_what_cannot_be_served_is_refused_at_once(in_room: Callable[..., None]) -> None:
    async def story(room: Room) -> None:
        with pytest.raises(NotFound):
            await room.endpoints.deploy(OWNER, "prj_a", "sum", "models:/none/1")
        uri = await room.models.add("m", b"one", flavor="prophet")
        with pytest.raises(Invalid):
            await room.endpoints.deploy(OWNER, "prj_a", "sum", uri)
        assert await room.endpoints.list(OWNER, "prj_a") == []

    in_room(story)


def test_files_that_would_leave_the_models_folder_are_refused(
    in_room: Callable[..., None], tmp_path: Path
) -> None:
    async def story(room: Room) -> None:
        uri = await room.models.add("m", b"one", path="../../evil")
        await room.deployed("sum", uri)
        assert await room.state("sum") == "failed"
        assert not (tmp_path / "evil").exists()

    in_room(story)


def _row(value: float) -> Inputs:
    return ask(value)


async def _is(room: Room, state: str) -> bool:
    return await room.state("sum") == state


def _running(world: World) -> list[str]:
    return [s.attempt_id for s in world.statuses.values() if s.state == "running"]
