"""Values of an explanation. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Status(StrEnum):
    """`VERIFIED`: the bytes hash to what was recorded. `BROKEN`: they do not, or they are gone though nobody
    deleted them. `UNPROVEN`: there is nothing to compare with (deleted on purpose, or never recorded)."""

    VERIFIED = "verified"
    BROKEN = "broken"
    UNPROVEN = "unproven"


def worst(statuses: Iterable[Status]) -> Status:
    """Broken beats unproven beats verified; verified when there is none."""
    found = set(statuses)
    return next((s for s in (Status.BROKEN, Status.UNPROVEN) if s in found), Status.VERIFIED)


@dataclass(frozen=True, slots=True)
class Hash:
    """One comparison: what was hashed, the SHA-256 on record, the one found just now, and the outcome."""

    what: str
    recorded: str | None
    recomputed: str | None
    status: Status
    note: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """One link of the chain. `facts` are for people, in the order in which to show them."""

    kind: str
    id: str
    name: str
    facts: Sequence[tuple[str, str]] = ()
    hashes: Sequence[Hash] = ()
    claim: Status = Status.VERIFIED
    """What the link itself is worth when it carries no hashes (a run whose maker is unknown is unproven)."""
    readable: bool = True
    """May who asked look at what the link is about? Not at what is another project's and not lent."""

    @property
    def status(self) -> Status:
        return worst([self.claim, *(h.status for h in self.hashes)])


@dataclass(frozen=True, slots=True)
class Explanation:
    """The chain of one prediction, from the answer down to the data. `other_inputs` names what the training
    job could have read besides what is listed: empty means that nothing else was readable."""

    prediction_id: str
    project: str
    chain: Sequence[Link]
    other_inputs: Sequence[str] = field(default_factory=tuple)

    @property
    def status(self) -> Status:
        return worst(link.status for link in self.chain)

    @property
    def broken(self) -> list[tuple[Link, Hash]]:
        return [(link, h) for link in self.chain for h in link.hashes if h.status is Status.BROKEN]

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        count = sum(len(link.hashes) for link in self.chain)
        if self.status is Status.BROKEN:
            named = "; ".join(f"{h.what} of {link.kind} {link.name}" for link, h in self.broken[:3])
            more = len(self.broken) - 3
            return f"broken: {named}" + (f" and {more} more" if more > 0 else "")
        if self.status is Status.UNPROVEN:
            named = ", ".join(
                f"{link.kind} {link.name}" for link in self.chain if link.status is Status.UNPROVEN
            )
            return f"unproven: {named}"
        return f"verified: {count} hashes computed again, all as recorded"
