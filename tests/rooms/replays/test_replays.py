"""What counts as the same: numbers within limits, archives whatever they were packed at."""

import json
import math
import time
import zipfile
from pathlib import Path

import pytest

from stratal.ai.replays.contents import canonical
from stratal.ai.replays.model import Limits, same_value
from stratal.data.lake.held import aside, branch_of
from stratal.data.lake.model import Change, parse_table_name
from stratal.ledger.past import Past

pytestmark = pytest.mark.fast


def packed(path: Path, members: dict[str, bytes], at: float) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, time.gmtime(at)[:6]), data)
    return path


def skops(path: Path, address: int, data: bytes, at: float = 1e9) -> Path:
    """As skops writes it: objects by their addresses, arrays in members that are called by them."""
    state = {
        "__id__": address,
        "content": {"coef": {"__id__": address + 160, "file": f"{address + 160}.npy"}, "C": 1},
    }
    members = {f"{address + 160}.npy": data, "schema.json": json.dumps(state, indent=2).encode()}
    return packed(path, members, at)


def test_archives_are_the_same_whenever_and_wherever_they_were_made(tmp_path: Path) -> None:
    one = canonical(packed(tmp_path / "a.npz", {"x.npy": b"1", "y.npy": b"2"}, 1e9))
    assert one is not None
    assert one == canonical(packed(tmp_path / "b.npz", {"y.npy": b"2", "x.npy": b"1"}, 1.7e9))
    assert one != canonical(packed(tmp_path / "c.npz", {"x.npy": b"1", "y.npy": b"3"}, 1e9))
    assert one != canonical(packed(tmp_path / "d.npz", {"x.npy": b"1", "z.npy": b"2"}, 1e9))
    first = canonical(skops(tmp_path / "a.skops", 139_911_000_000, b"array"))
    assert first == canonical(skops(tmp_path / "b.skops", 140_022_000_064, b"array", at=1.7e9))
    assert first != canonical(skops(tmp_path / "c.skops", 139_911_000_000, b"other"))
    (tmp_path / "plain").write_bytes(b"no archive")
    assert canonical(tmp_path / "plain") is None


def test_numbers_are_the_same_within_the_tolerance() -> None:
    exact, near = Limits(), Limits(1e-6, ("system/*", "seconds"))
    assert exact.close(0.1, 0.1)
    assert not exact.close(0.1, 0.1 + 1e-12)
    assert near.close(0.1, 0.1 + 1e-12)
    assert exact.close(math.nan, math.nan)
    assert not exact.close(math.nan, 0.0)
    assert same_value({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2}]}, exact)
    assert not same_value({"a": 1}, {"a": 1, "b": None}, exact)
    assert not same_value(True, 1, exact)
    assert near.passes_over("system/cpu")
    assert not near.passes_over("score")


def test_a_held_workloads_commit_goes_to_a_branch_of_its_own() -> None:
    past = Past("job:7/3.1")
    updates = [
        {"action": "add-snapshot", "snapshot": {"snapshot-id": 5}},
        {"action": "set-current-schema", "schema-id": 1},
        {"action": "set-snapshot-ref", "ref-name": "main", "type": "branch", "snapshot-id": 5},
    ]
    needed = [{"type": "assert-table-uuid", "uuid": "u"}, {"type": "assert-ref-snapshot-id", "ref": "main"}]
    diverted = aside(past, Change(parse_table_name("a.b"), needed, updates))
    assert [one["type"] for one in diverted.requirements] == ["assert-table-uuid"]
    assert [one["action"] for one in diverted.updates] == ["add-snapshot", "set-snapshot-ref"]
    assert diverted.updates[1]["ref-name"] == branch_of(past) == "stratal-replay-job-7-3.1"
    other = Change(
        parse_table_name("a.b"), needed, [{"action": "set-snapshot-ref", "ref-name": "x", "snapshot-id": 5}]
    )
    assert aside(past, other) is other
