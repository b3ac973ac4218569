"""What a borrower is told: each kind of link, lent and not lent, its own and a third project's."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import insert

from stratal.ai.explain.borrowed import Borrowed
from stratal.ai.explain.model import Explanation, Hash, Link, Status
from stratal.app.tables import metadata
from stratal.data.lake.tables import tables
from stratal.identity.projects import Project, insert_project
from stratal.identity.tables import shares
from stratal.kernel.database import Database

pytestmark = pytest.mark.fast

SECRET = "quagga"
GOOD, BAD = (
    Hash(f"data {SECRET}.parquet", "aa", "aa", Status.VERIFIED),
    Hash(f"part {SECRET}", "aa", "bb", Status.BROKEN),
)
TOLD = Explanation(
    "pr_1",
    "lab",
    [
        Link("prediction", "pr_1", "pr_1", [("asked by", "research/person:ada")], [GOOD]),
        Link("endpoint", "5", "scores revision 1", [("deployed", f"today by {SECRET}")]),
        Link("model version", "mv_1", "risk/1", [("registered", f"today by {SECRET}")], [GOOD, GOOD]),
        Link("run", "run1", SECRET, [("auc", "0.7")]),
        Link("job", "7", f"7 ({SECRET})", [("command", SECRET)]),
        Link("code", "abc", "abc", [("branch", SECRET)], [BAD]),
        Link("table snapshot", "tbl_lent@1", "clinic.open @ 1", [("committed", SECRET)], [GOOD]),
        Link("table snapshot", "tbl_shut@1", "clinic.shut @ 1", [("committed", SECRET)], [GOOD, BAD]),
        Link("table snapshot", "tbl_third@1", f"{SECRET}.x @ 1", [("shared by", "project third")], [GOOD]),
        Link("table snapshot", "tbl_own@1", "mine.y @ 1", [("shared by", "project research")], [GOOD]),
        Link("object", "ver_1", f"s3://bucket/{SECRET}", [("stored", SECRET)], [GOOD]),
    ],
    (f"mount /{SECRET}",),
)


def test_what_is_lent_is_shown_and_all_else_is_named_and_checked(tmp_path: Path) -> None:
    database = Database(tmp_path / "room.db")
    database.write_now(metadata.create_all)
    for name in ("lab", "research", "third"):
        database.write_now(lambda c, name=name: insert_project(c, Project(f"prj_{name}", name, 0), "test"))

    def fill(c: object) -> None:
        for table_id in ("tbl_lent", "tbl_shut", "tbl_third", "tbl_own"):
            row = {column.name: 0 for column in tables.columns if not column.nullable}
            row |= {"id": table_id, "project_id": "prj_lab", "name": table_id, "namespace": "n"}
            c.execute(insert(tables).values(row))  # type: ignore[attr-defined]
        for kind, object_id in (("table", "tbl_lent"), ("endpoint", "ep_1")):
            made = {"id": object_id, "project_id": "prj_lab", "receiver_id": "prj_research", "name": "x"}
            more = {"kind": kind, "object_id": object_id, "created_at": 0, "created_by": "x"}
            c.execute(insert(shares).values(**made, **more))  # type: ignore[attr-defined]

    database.write_now(fill)

    async def name_of(project_id: str) -> str:
        return project_id.removeprefix("prj_")

    async def story() -> None:
        borrowed = Borrowed(database, name_of)
        seen = await borrowed.seen(TOLD, "prj_research", "prj_lab")
        assert SECRET not in repr(
            [link for link in seen.chain if link.id not in {"pr_1", "tbl_lent@1", "tbl_own@1"}]
        )
        assert (seen.project, seen.other_inputs) == ("research", ("what is told in project lab",))
        assert [(link.name, link.readable, link.status) for link in seen.chain] == [
            ("pr_1", True, Status.VERIFIED),
            ("lab.scores revision 1", True, Status.VERIFIED),
            ("lab.risk/1", False, Status.VERIFIED),
            ("run1", False, Status.VERIFIED),
            ("7", False, Status.VERIFIED),
            ("abc", False, Status.BROKEN),
            ("lab.clinic.open @ 1", True, Status.VERIFIED),
            ("lab.clinic.shut @ 1", False, Status.BROKEN),
            ("a table of another project", False, Status.VERIFIED),
            ("mine.y @ 1", True, Status.VERIFIED),
            ("bucket", False, Status.VERIFIED),
        ]
        assert seen.chain[7].hashes[0].what == "2 hashes"
        assert await borrowed.lasts("prj_research", "ep_1")
        assert not await borrowed.lasts("prj_third", "ep_1")
        over = borrowed.over(TOLD.chain[0], "research")
        assert (over.status, SECRET in repr(over.chain[1:])) == (Status.UNPROVEN, False)

    asyncio.run(story())
    database.close()
