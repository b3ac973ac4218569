"""A workspace's life: made, run, killed, idled, stopped, removed; who may look in; and no save that is lost."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from stratal.collab.workspaces.model import State, Wishes, check_path
from stratal.identity.model import Role
from stratal.identity.visits import TICKET_MS, VISIT_MS
from stratal.kernel.errors import (
    Conflict,
    Denied,
    Invalid,
    NotFound,
    StratalError,
    Unauthenticated,
    Unavailable,
)
from stratal.kernel.events import emit
from stratal.kernel.names import label_of

from .room import OWNER, PLACE, STRANGER, VIEWER, Room, until

Tell = Callable[..., Any]


def test_it_runs_with_its_own_credential_and_its_own_folder(tell: Tell) -> None:
    async def story(room: Room) -> None:
        seen = await room.made()
        of = seen.workspace
        (spec,) = room.world.engine.specs.values()
        assert (spec.network, spec.memory_bytes) == ("platform", Wishes().memory_bytes)
        assert spec.cwd == room.files
        assert spec.cwd.is_dir()
        who = await room.keys.authenticate(*spec.env["STRATAL_API_KEY"].split(".", 1))
        assert (who.workload, who.role, who.project) == (of.workload, "editor", "alpha")
        with pytest.raises(Conflict):
            await room.workspaces.create(OWNER, PLACE, "eda")
        assert [event.kind for event in await room.events("workspace.")] == [
            "workspace.created",
            "workspace.started",
        ]

    tell(story)


def test_what_is_killed_comes_back_and_what_runs_on_is_taken_over(tell: Tell) -> None:
    first: list[str] = []

    async def dies(room: Room) -> None:
        await room.made()
        (attempt,) = room.world.running
        room.world.kill(attempt)
        await until(lambda: room.world.running and room.world.running != [attempt])
        await room.state(State.RUNNING)
        first.extend(room.world.running)

    async def is_found(room: Room) -> None:
        await room.state(State.RUNNING)
        assert room.world.running == first

    tell(dies, is_found)


def test_stopped_it_stays_stopped_and_its_credential_ends(tell: Tell) -> None:
    tokens: list[str] = []

    async def stop(room: Room) -> None:
        await room.made()
        tokens.append(next(iter(room.world.engine.specs.values())).env["STRATAL_API_KEY"])
        seen = await room.workspaces.halt(OWNER, "prj_a", "eda")
        assert (seen.state, seen.workspace.stopped_why) == (State.STOPPED, "Stopped by ada.")
        assert room.world.running == []
        with pytest.raises(Unauthenticated):
            await room.keys.authenticate(*tokens[0].split(".", 1))
        with pytest.raises(Unavailable):
            await room.studio.upkeep.answering(room.live(), 5)

    async def start(room: Room) -> None:
        assert (await room.workspaces.get(OWNER, "prj_a", "eda")).state is State.STOPPED
        await room.workspaces.begin(OWNER, "prj_a", "eda")
        await room.state(State.RUNNING)
        newest = list(room.world.engine.specs.values())[-1].env["STRATAL_API_KEY"]
        assert newest != tokens[0]
        assert (await room.keys.authenticate(*newest.split(".", 1))).workload

    tell(stop, start)


def test_nobody_there_stops_it_but_not_while_it_computes(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.made(idle_seconds=0.001)
        (notebook,) = room.world.notebooks.values()
        notebook.busy = True
        live = room.live()
        live.used -= 10
        await room.studio.upkeep._look_at(live)
        assert live.state is State.RUNNING
        notebook.busy = False
        live.used -= 10
        await room.studio.upkeep._look_at(live)
        seen = await room.workspaces.get(OWNER, "prj_a", "eda")
        assert (seen.state, seen.workspace.stopped_why) == (State.STOPPED, "Nobody used it for a while.")

    tell(story)


def test_an_environment_that_cannot_be_built_is_told_and_tried_again(tell: Tell) -> None:
    async def story(room: Room) -> None:
        room.environments.failure = Invalid("No such package.")
        await room.workspaces.create(OWNER, PLACE, "eda", requirements="nosuch\n")
        assert (await room.state(State.FAILED)).failure == "No such package."
        room.environments.failure = None
        await room.workspaces.begin(OWNER, "prj_a", "eda")
        await room.state(State.RUNNING)

    tell(story)


@pytest.mark.fast
def test_it_is_for_editors_of_its_project(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.made()
        assert len(await room.workspaces.list(VIEWER, "prj_a")) == 1
        for who, error in ((VIEWER, Denied), (STRANGER, NotFound)):
            for call in (
                room.workspaces.create(who, PLACE, "more"),
                room.workspaces.begin(who, "prj_a", "eda"),
                room.workspaces.halt(who, "prj_a", "eda"),
                room.workspaces.remove(who, "prj_a", "eda"),
                room.workspaces.open(who, "prj_a", "eda", "a session"),
                room.workspaces.logs(who, "prj_a", "eda"),
                room.keep("a.txt", b"x", who=who),
                room.workspaces.restore(who, "prj_a", "eda", 1, None),
            ):
                with pytest.raises(error):
                    await call
        with pytest.raises(NotFound):
            await room.workspaces.get(STRANGER, "prj_a", "eda")

    tell(story)


# -- saves ---------------------------------------------------------------------------------------


def test_every_save_can_be_had_back_and_none_is_kept_twice(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.made()
        one, two = await room.keep("study.ipynb", b"first"), await room.keep("study.ipynb", b"second")
        assert (await room.keep("study.ipynb", b"second")).seq == two.seq
        copy = await room.keep("copy.ipynb", b"first")
        assert copy.seq != one.seq
        assert await room.studio.saves.weighed() == {"prj_a": len(b"firstsecond")}
        assert [await room.content(save.seq) for save in (one, two, copy)] == [b"first", b"second", b"first"]
        of_path = await room.workspaces.saves(VIEWER, "prj_a", "eda", path="study.ipynb")
        assert [save.seq for save in of_path] == [two.seq, one.seq]
        (room.files / "study.ipynb").write_bytes(b"not saved by anybody")
        newest, target = await room.workspaces.restore(OWNER, "prj_a", "eda", one.seq, None)
        assert (room.files / target).read_bytes() == b"first"
        listed = await room.workspaces.saves(OWNER, "prj_a", "eda", path="study.ipynb")
        assert [await room.content(save.seq) for save in listed] == [
            b"first",
            b"not saved by anybody",
            b"second",
            b"first",
        ]
        assert newest.seq == listed[0].seq
        await room.workspaces.restore(OWNER, "prj_a", "eda", two.seq, "sub/old.ipynb")
        assert (room.files / "sub" / "old.ipynb").read_bytes() == b"second"

    async def after_a_restart(room: Room) -> None:
        listed = await room.workspaces.saves(OWNER, "prj_a", "eda")
        assert len(listed) == 6
        with pytest.raises(NotFound):
            await room.content(999)

    tell(story, after_a_restart)


@pytest.mark.fast
def test_restoring_follows_no_link_out_of_the_workspace(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.made()
        save = await room.keep("a.txt", b"planted")
        outside = room.home / "secret"
        outside.mkdir()
        (outside / "key").write_bytes(b"secret")
        (room.files / "link").symlink_to(outside)
        (room.files / "file").symlink_to(outside / "key")
        (room.files / "folder").mkdir()
        for path in ("link/key", "file", "folder"):
            with pytest.raises(Conflict):
                await room.workspaces.restore(OWNER, "prj_a", "eda", save.seq, path)
        for path in ("../key", "/etc/passwd", "a//b", "", "a/./b", "a\0b"):
            with pytest.raises(Invalid):
                await room.workspaces.restore(OWNER, "prj_a", "eda", save.seq, path)
            with pytest.raises(Invalid):
                check_path(path)
        assert (outside / "key").read_bytes() == b"secret"
        assert not [
            save for save in await room.workspaces.saves(OWNER, "prj_a", "eda") if save.path != "a.txt"
        ]

    tell(story)


def test_removed_nothing_of_it_is_left_but_that_it_was(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.made()
        await room.keep("a.txt", b"one")
        place = room.files.parent
        await room.workspaces.remove(OWNER, "prj_a", "eda")
        assert room.world.running == []
        assert not place.exists()
        assert [keys async for keys in room.blobs.keys_after("blob_" + "0" * 26)] == []
        with pytest.raises(NotFound):
            await room.workspaces.get(OWNER, "prj_a", "eda")
        again = await room.made()
        assert again.workspace.label
        await room.workspaces.purge("prj_a")
        assert room.world.running == []
        assert await room.workspaces.list(OWNER, "prj_a") == []

    tell(story)


# -- visits --------------------------------------------------------------------------------------


@pytest.mark.fast
def test_a_ticket_opens_once_and_soon_and_one_workspace(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.made()
        await room.made("other")
        key = await room.keys.create(OWNER, "prj_a", name="me", role=Role.EDITOR)
        me = await room.keys.principal_of(key.id)
        of, ticket = await room.workspaces.open(me, "prj_a", "eda", None)
        with pytest.raises(Unauthenticated):
            await room.visits.enter(room.live("other").workspace, ticket)
        cookie = await room.visits.enter(of, ticket)
        with pytest.raises(Unauthenticated):
            await room.visits.enter(of, ticket)
        visit = await room.visits.visit(of, cookie)
        assert visit.who.name == "me"
        for wrong in (room.visits.visit(room.live("other").workspace, cookie), room.visits.visit(of, ticket)):
            with pytest.raises(Unauthenticated):
                await wrong
        _, late = await room.workspaces.open(me, "prj_a", "eda", None)
        room.world.now += TICKET_MS + 1
        with pytest.raises(Unauthenticated):
            await room.visits.enter(of, late)
        room.world.now += VISIT_MS
        with pytest.raises(Unauthenticated):
            await room.visits.visit(of, cookie)

    tell(story)


def test_a_visit_ends_with_what_it_stands_on_and_so_do_its_open_connections(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.made()
        key = await room.keys.create(OWNER, "prj_a", name="me", role=Role.EDITOR)
        me = await room.keys.principal_of(key.id)
        of, ticket = await room.workspaces.open(me, "prj_a", "eda", None)
        cookie = await room.visits.enter(of, ticket)
        over = asyncio.Event()
        room.visits.hold(of, cookie, me, over.set)
        await room.visits.check()
        assert not over.is_set()
        assert room.visits.visitors(of.id) == ("me",)
        await room.keys.revoke(OWNER, key.id)
        async with asyncio.timeout(60):
            await over.wait()
        with pytest.raises(StratalError):
            await room.visits.visit(of, cookie)
        assert room.visits.visitors(of.id) == ()

    tell(story)


@pytest.mark.fast
def test_whoever_was_in_it_and_leaves_takes_no_credential_along(tell: Tell) -> None:
    def left(room: Room, kind: str, name: str, **more: object) -> None:
        room.database.write_now(
            lambda c: emit(c, kind, "usr_1", actor="person:ada", project_id="prj_a", name=name, **more)
        )

    async def enter(room: Room) -> None:
        key = await room.keys.create(OWNER, "prj_a", name="me", role=Role.EDITOR)
        me = await room.keys.principal_of(key.id)
        of, ticket = await room.workspaces.open(me, "prj_a", "eda", None)
        await room.visits.enter(of, ticket)

    async def leaves(room: Room) -> None:
        await room.made()
        taken = next(iter(room.world.engine.specs.values())).env["STRATAL_API_KEY"]
        left(room, "member.removed", "me", accounts=[])  # before they ever were in it
        await enter(room)
        left(room, "member.removed", "somebody", accounts=["usr_9"])
        left(room, "member.changed", "me", role="editor")
        await asyncio.sleep(0.05)
        assert room.live().workspace.running
        left(room, "member.changed", "me", role="viewer")
        seen = await room.state(State.STOPPED)
        assert seen.workspace.stopped_why.startswith("me, who was in it, may open it no more")

        async def ended() -> bool:
            try:
                await room.keys.authenticate(*taken.split(".", 1))
            except Unauthenticated:
                return True
            return False

        await until(ended)
        await room.workspaces.begin(OWNER, "prj_a", "eda")
        await room.state(State.RUNNING)
        await enter(room)
        await room.studio.departures.close()  # as if killed before it could look
        left(room, "member.removed", "boss", accounts=["usr_1", "me"])

    async def is_found(room: Room) -> None:
        await room.state(State.STOPPED)

        async def ended() -> bool:
            return not room.world.running  # it is told to stop, and ends a moment later

        await until(ended)

    tell(leaves, is_found)


@pytest.mark.fast
def test_a_connection_ends_when_its_key_expires_and_nothing_else_happens(
    tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stratal.identity.visits._LOOK_SECONDS", 0.02)

    async def story(room: Room) -> None:
        await room.made()
        soon = room.world.now + 1000
        key = await room.keys.create(OWNER, "prj_a", name="me", role=Role.EDITOR, expires_at=soon)
        me = await room.keys.principal_of(key.id)
        of, ticket = await room.workspaces.open(me, "prj_a", "eda", None)
        cookie = await room.visits.enter(of, ticket)
        await asyncio.sleep(0.1)  # the last news is heard before the connection is made
        over = asyncio.Event()
        room.visits.hold(of, cookie, me, over.set)
        await asyncio.sleep(0.05)
        assert not over.is_set()
        room.world.now = soon
        async with asyncio.timeout(60):
            await over.wait()

    tell(story)


@pytest.mark.fast
@pytest.mark.parametrize("name", ["eda", "Müller.Study", "---", "a" * 100, "Über_alles"])
def test_a_label_is_a_host_names(name: str) -> None:
    label = label_of(name, "k3f9x2m4")
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label)
    assert label.endswith("-k3f9x2m4")


def test_saves_are_thinned_out_to_one_a_day_after_a_week(tell: Tell) -> None:
    async def story(room: Room) -> None:
        of = (await room.made()).workspace
        day = 24 * 3600 * 1000
        room.world.now = 100 * day
        begin = 50 * day
        times = [begin + n * day + hour * 3600 * 1000 for n in range(3) for hour in (1, 9, 23)]

        async def chunks(text: str) -> AsyncIterator[bytes]:
            yield text.encode()

        made = [
            await room.studio.saves.keep(OWNER, of, "study.ipynb", chunks(f"text {n}"), at)
            for n, at in enumerate(times)
        ]
        old = await room.studio.saves.keep(OWNER, of, "old.txt", chunks("never again"), times[0])
        twice = await room.studio.saves.keep(OWNER, of, "copy.txt", chunks("text 0"), times[8])
        room.world.now = begin + 2 * day + 1
        assert await room.studio.saves.thin() == 0  # within the week all stay
        room.world.now = times[8] + 7 * day + 1
        assert await room.studio.saves.thin() == 6
        left = [save.seq for save in await room.studio.saves.list(of)]
        assert sorted(left) == [made[2].seq, made[5].seq, made[8].seq, old.seq, twice.seq]
        assert await room.content(made[5].seq) == b"text 5"
        assert await room.content(old.seq) == b"never again"
        assert await room.content(twice.seq) == b"text 0"  # another save consists of these bytes
        kept = sum(len(text) for text in ("text 0", "text 2", "text 5", "text 8", "never again"))
        assert await room.studio.saves.weighed() == {"prj_a": kept}
        with pytest.raises(NotFound):
            await room.content(made[0].seq)
        restored, _ = await room.studio.saves.restore(OWNER, of, made[2].seq, None)
        assert await room.content(restored.seq) == b"text 2"
        assert await room.studio.saves.thin() == 0

    tell(story)
