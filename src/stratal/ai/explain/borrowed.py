"""What the project that asked a lent endpoint is told of how its answer came about.

The answer is its own. What stands behind it is the giving project's: each link of the chain is checked like ever, and
said to be there, but told only as far as it is lent, too: a model and a table by name, a run, a job, its code and
environment by id. Whose it is, and that it is read there only, stands in each such link.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from sqlalchemy import Connection, select

from stratal.ai.explain.model import Explanation, Hash, Link, Status, worst
from stratal.ai.models.tables import model_versions
from stratal.data.lake.tables import tables
from stratal.data.objects.tables import buckets
from stratal.identity.shares import is_lent
from stratal.kernel.database import Database

SHARED_BY = "shared by"
_BY_NAME = {"endpoint", "model version", "table snapshot"}


class Borrowed:
    def __init__(self, database: Database, name_of: Callable[[str], Awaitable[str]]) -> None:
        self._database = database
        self._name_of = name_of

    async def lasts(self, receiver_id: str, endpoint_id: str) -> bool:
        """Is the endpoint lent to the project still?"""
        return await self._database.read(lambda c: is_lent(c, receiver_id, "endpoint", endpoint_id))

    async def seen(self, told: Explanation, receiver_id: str, giver_id: str) -> Explanation:
        """An explanation as the giving project has it, as the receiving one may see it."""
        receiver, giver = await self._name_of(receiver_id), await self._name_of(giver_id)
        open_ = await self._database.read(
            lambda c: [_is_open(c, receiver_id, receiver, link) for link in told.chain]
        )
        chain = [
            _named(link, giver) if readable else _closed(link, giver)
            for link, readable in zip(told.chain, open_, strict=True)
        ]
        others = (f"what is told in project {giver}",) if told.other_inputs else ()
        return replace(told, project=receiver, chain=chain, other_inputs=others)

    def over(self, prediction: Link, receiver: str) -> Explanation:
        """Of an answer whose endpoint is lent no more, only the answer."""
        ended = (("not told", "the share has ended"),)
        rest = Link("endpoint", "none", "none", ended, claim=Status.UNPROVEN, readable=False)
        return Explanation(prediction.id, receiver, [prediction, rest], ("what the answer was made of",))


def _is_open(c: Connection, receiver_id: str, receiver: str, link: Link) -> bool:
    """May the receiving project read what the link is about?"""
    if (SHARED_BY, f"project {receiver}") in link.facts:
        return True  # its own, lent to the giver
    if link.kind in {"prediction", "endpoint"}:
        return True
    kind, query = "", None
    if link.kind == "model version":
        kind, query = "model", select(model_versions.c.model_id).where(model_versions.c.id == link.id)
    elif link.kind == "table snapshot":
        kind = "table"
        query = select(tables.c.id).where(tables.c.id == link.id.rpartition("@")[0])
    elif link.kind == "object":
        kind = "bucket"
        name = link.name.removeprefix("s3://").partition("/")[0]
        query = select(buckets.c.id).where(buckets.c.name == name)
    found = None if query is None else c.execute(query).scalar()
    return found is not None and is_lent(c, receiver_id, kind, found)


def _named(link: Link, giver: str) -> Link:
    """What is lent, called as the receiver calls it; what made it is the giver's to know."""
    if link.kind in {"prediction", "object"} or any(name == SHARED_BY for name, _ in link.facts):
        return link
    kept = {"files", "formats", "label", "libraries", "operation"}
    facts = [(name, value) for name, value in link.facts if name in kept]
    return replace(link, name=f"{giver}.{link.name}", facts=[(SHARED_BY, f"project {giver}"), *facts])


def _closed(link: Link, giver: str) -> Link:
    """That it is there, what it is called where that says nothing more, and whether its hashes still are as recorded."""
    told = dict(link.facts)
    third = SHARED_BY in told
    owner = told.get(SHARED_BY, f"project {giver}")
    name = link.id
    if link.kind in _BY_NAME and not third:
        name = f"{giver}.{link.name}"
    elif link.kind == "object":
        name = (
            "of a bucket of another project" if third else link.name.removeprefix("s3://").partition("/")[0]
        )
    elif link.kind == "table snapshot":
        name = "a table of another project"
    facts = (("read only in", f"project {giver}" if third else owner),)
    hashes = []
    if link.hashes:
        count, found = len(link.hashes), worst(one.status for one in link.hashes)
        hashes = [Hash(f"{count} hashes", None, None, found, f"told in project {giver}")]
    shown = link.id if not third else "none"
    return replace(link, id=shown, name=name, facts=facts, hashes=hashes, readable=False)
