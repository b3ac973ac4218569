"""Keys: derived, checked, revoked at once; roles never grow."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratal.app.tables import metadata
from stratal.identity.founding import found
from stratal.identity.keys import Keys
from stratal.identity.master import MasterKey, load_or_create
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.permissions import ACTIONS, RANK, may, require
from stratal.identity.projects import Projects
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Denied, Internal, Invalid, NotFound, Unauthenticated

pytestmark = pytest.mark.fast


class Instance:
    def __init__(self, path: Path) -> None:
        self.now = 1_800_000_000_000
        self.database = Database(path / "t.db")
        self.database.write_now(metadata.create_all)
        self.keys = Keys(self.database, load_or_create(path / "master.key"), lambda: self.now)
        self.projects = Projects(self.database, lambda: self.now)
        self.admin_key = found(self.database, self.keys, lambda: self.now).credential

    async def admin(self) -> Principal:
        return await self.keys.authenticate(self.admin_key.id, self.admin_key.secret)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    made = Instance(tmp_path)
    yield made
    made.database.close()


def test_founding_happens_once(instance: Instance) -> None:
    again = found(instance.database, instance.keys, lambda: instance.now)
    assert not again.first
    assert again.credential == instance.admin_key


def test_a_key_opens_until_it_is_revoked(instance: Instance) -> None:
    async def story() -> None:
        admin = await instance.admin()
        made = await instance.keys.create(admin, admin.project_id, name="ci", role=Role.EDITOR)
        who = await instance.keys.authenticate(made.id, made.secret)
        assert (who.name, who.role, who.project) == ("ci", Role.EDITOR, "default")
        await instance.keys.revoke(admin, made.id)
        with pytest.raises(Unauthenticated, match="revoked"):
            await instance.keys.authenticate(made.id, made.secret)

    asyncio.run(story())


def test_a_key_expires(instance: Instance) -> None:
    async def story() -> None:
        admin = await instance.admin()
        with pytest.raises(Invalid):
            await instance.keys.create(
                admin, admin.project_id, name="x", role=Role.VIEWER, expires_at=instance.now
            )
        made = await instance.keys.create(
            admin, admin.project_id, name="x", role=Role.VIEWER, expires_at=instance.now + 1000
        )
        await instance.keys.authenticate(made.id, made.secret)
        instance.now += 1000
        with pytest.raises(Unauthenticated, match="expired"):
            await instance.keys.authenticate(made.id, made.secret)

    asyncio.run(story())


@pytest.mark.parametrize("key_id", ["", "st1k", "AKIAIOSFODNN7EXAMPLE", "st9k" + "0" * 20, "st1k" + "é" * 20])
def test_a_malformed_or_foreign_id_is_unauthenticated(instance: Instance, key_id: str) -> None:
    with pytest.raises(Unauthenticated):
        asyncio.run(instance.keys.authenticate(key_id, "x"))


def test_a_wrong_secret_is_refused_and_so_is_a_right_one_without_a_row(instance: Instance) -> None:
    with pytest.raises(Unauthenticated, match="wrong"):
        asyncio.run(instance.keys.authenticate(instance.admin_key.id, instance.admin_key.secret[:-1] + "ö"))
    unborn = "st1k" + "0" * 20
    with pytest.raises(Unauthenticated, match="no such key"):
        asyncio.run(instance.keys.authenticate(unborn, instance.keys.secret_of(unborn)))


def test_nobody_makes_a_key_stronger_than_their_own(instance: Instance) -> None:
    async def story() -> None:
        admin = await instance.admin()
        made = await instance.keys.create(admin, admin.project_id, name="own", role=Role.OWNER)
        owner = await instance.keys.authenticate(made.id, made.secret)
        with pytest.raises(Denied):
            await instance.keys.create(owner, owner.project_id, name="up", role=Role.ADMIN)

    asyncio.run(story())


def test_a_workload_key_is_at_most_editor_and_dies_with_its_workload(instance: Instance) -> None:
    async def story() -> None:
        admin = await instance.admin()
        made = await instance.database.write(
            lambda c: instance.keys.insert_for_workload(c, admin, admin.project_id, "job:1")
        )
        who = await instance.keys.authenticate(made.id, made.secret)
        assert (who.kind, who.role, who.workload, who.actor) == (Kind.WORKLOAD, Role.EDITOR, "job:1", "job:1")
        await instance.database.write(lambda c: instance.keys.end_workload(c, "job:1"))
        with pytest.raises(Unauthenticated, match="revoked"):
            await instance.keys.authenticate(made.id, made.secret)

    asyncio.run(story())


def test_projects_of_others_do_not_exist(instance: Instance) -> None:
    async def story() -> None:
        admin = await instance.admin()
        other = await instance.projects.create(admin, "other")
        with pytest.raises(Conflict):
            await instance.projects.create(admin, "other")
        made = await instance.keys.create(admin, admin.project_id, name="own", role=Role.OWNER)
        owner = await instance.keys.authenticate(made.id, made.secret)
        with pytest.raises(NotFound):
            await instance.projects.get(owner, "other")
        assert [p.name for p in await instance.projects.list(owner)] == ["default"]
        with pytest.raises(NotFound):
            await instance.keys.list(owner, other.id)
        theirs = await instance.keys.create(admin, other.id, name="theirs", role=Role.OWNER)
        with pytest.raises(NotFound):
            await instance.keys.revoke(owner, theirs.id)

    asyncio.run(story())


@pytest.mark.parametrize("name", ["", "..", "a..b", "-a", "a/b", "a\n", "ä", "a" * 101, "a\0b", " a"])
def test_bad_project_names_are_refused(instance: Instance, name: str) -> None:
    async def story() -> None:
        with pytest.raises(Invalid):
            await instance.projects.create(await instance.admin(), name)

    asyncio.run(story())


@pytest.mark.parametrize("action", sorted(ACTIONS))
@pytest.mark.parametrize("role", list(Role))
def test_permissions_are_the_table(action: str, role: Role) -> None:
    who = Principal(Kind.SERVICE, "x", "x", "p1", "p1", role)
    assert may(who, action, "p1") == (RANK[role] >= RANK[ACTIONS[action]])
    assert may(who, action, "p2") == (role is Role.ADMIN)
    if role is not Role.ADMIN:
        with pytest.raises(NotFound):
            require(who, action, "p2")


def test_a_damaged_master_key_is_said_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("1:abc\n")
    with pytest.raises(Internal, match="damaged"):
        load_or_create(path)
    assert path.read_text() == "1:abc\n"


def test_rotation_keeps_old_keys(tmp_path: Path) -> None:
    old = MasterKey({1: b"a" * 32})
    new = MasterKey({1: b"a" * 32, 2: b"b" * 32})
    assert new.current == 2
    assert old.secret_of("st1kx", 1) == new.secret_of("st1kx", 1) != new.secret_of("st1kx", 2)
