"""Splitting an endpoint's requests between revisions: shares, their spelling, and who gets which. Pure.

A request's place on a scale of 0 to 9,999 is a hash of the endpoint and the request's *key* (what its sender
says that it belongs to, else the request's own id). Revisions besides the active one take the scale
from its beginning, in the order in which they were deployed; the active one takes the rest. So the same key
is always answered by the same revision, and stays with it when that one's share grows.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence

from stratal.ai.endpoints.model import Revision
from stratal.kernel.errors import Invalid

_SCALE = 10_000
_NAME = re.compile(r"([vr]?)(\d{1,9})\Z")


def place(endpoint_id: str, key: str) -> int:
    """Where on the scale a key lies."""
    digest = hashlib.blake2b(f"{endpoint_id}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _SCALE


def choose(shares: Mapping[int, int], active: int, at: int) -> int:
    """The `seq` of the revision that answers what lies at this place of the scale."""
    end = 0
    for seq in sorted(shares):
        end += shares[seq] * _SCALE // 100
        if at < end:
            return seq
    return active


def named(name: str, revisions: Sequence[Revision]) -> Revision:
    """The revision that ``v3`` (of the model's version 3, the newest such) or ``r2`` (the 2nd revision) names.

    `revisions` are newest first. Raises `Invalid`.
    """
    match = _NAME.match(name.strip())
    if match is None:
        raise Invalid(
            f"{name[:60]!r} names no revision.",
            hint="v3 is version 3 of the model, r2 the endpoint's 2nd revision.",
            reason="bad_traffic",
        )
    for revision in revisions:
        number = str(int(match[2]))
        if revision.number == int(number) if match[1] == "r" else revision.answers_for(number):
            return revision
    raise Invalid(
        f"{name[:60]!r} does not answer here; what does: {', '.join(map(called, revisions)) or 'nothing'}.",
        hint="Deploy it with a share: stratal deploy models:/NAME/VERSION --name ENDPOINT --traffic 10",
        reason="bad_traffic",
    )


def called(revision: Revision) -> str:
    return f"v{revision.model_version} (r{revision.number})"


def share_of(asked: Mapping[str, int], version: str, number: int) -> int | None:
    """The share that ``--traffic`` gives the revision being deployed; None: all. Raises `Invalid`."""
    if not asked:
        return None
    check_percentages(asked)
    if len(asked) > 1 or next(iter(asked)) not in ("", f"v{version}", f"r{number}", version):
        raise Invalid(
            f"This deploys version {version}, so its traffic is given as v{version}=PERCENT.",
            hint="The shares of revisions that answer already: stratal endpoint traffic NAME v1=50",
            reason="bad_traffic",
        )
    percent = next(iter(asked.values()))
    return None if percent == 100 else percent


def check_percentages(asked: Mapping[str, int]) -> None:
    for name, percent in asked.items():
        if isinstance(percent, bool) or not isinstance(percent, int) or not 0 <= percent <= 100:
            raise Invalid(f"The share of {name[:60]} is a whole percentage, 0 to 100.", reason="bad_traffic")


def shared_out(
    asked: Mapping[str, int], answering: Sequence[Revision], active: int, shares: Mapping[int, int]
) -> tuple[int, dict[int, int]]:
    """The traffic after `asked` (name → percent): who is active, and the others' shares. Raises `Invalid`.

    Those that are not named keep their share, the active one gets what is left; when it is named itself,
    what is left goes to the only one that is not named. One that is left with nothing answers no more,
    and where that is the active one, the one with the largest share takes its place.
    """
    check_percentages(asked)
    said: dict[int, int] = {}
    for name, percent in asked.items():
        seq = named(name, answering).seq
        if seq in said:
            raise Invalid(f"{name[:60]} is named twice.", reason="bad_traffic")
        said[seq] = percent
    everyone = {revision.seq for revision in answering}
    unnamed = everyone - said.keys()
    total = sum(said.values())
    if active in unnamed:
        kept = {seq: shares.get(seq, 0) for seq in unnamed if seq != active}
        if total == 100:
            kept = dict.fromkeys(kept, 0)
        result = {**said, **kept}
        result[active] = 100 - sum(result.values())
    elif total < 100 and len(unnamed) == 1:
        result = {**said, unnamed.pop(): 100 - total}
    else:
        result = {**said, **dict.fromkeys(unnamed, 0)}
    if min(result.values()) < 0 or sum(result.values()) != 100:
        raise Invalid(
            f"The shares make {sum(percent for seq, percent in result.items() if seq != active or seq in said)} %; "
            "all together must be 100.",
            hint="Leave one out, and it gets the rest.",
            reason="bad_traffic",
        )
    left = {seq: percent for seq, percent in result.items() if percent}
    first = active if active in left else max(left, key=lambda seq: (left[seq], seq))
    return first, {seq: percent for seq, percent in left.items() if seq != first}
