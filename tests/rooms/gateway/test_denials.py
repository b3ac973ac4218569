"""Which refused requests go on record, as whose, and as what."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from stratal.gateway.denials import put_on_record
from stratal.kernel.asking import Asking
from stratal.ledger.audit import Audit, Denial

pytestmark = pytest.mark.fast

EVIL, VISIT = (b"origin", b"http://evil.example"), (b"cookie", b"a=1; __Host-stratal_visit=x")
KEY = (b"authorization", b"Bearer st1k00000000000000000000.secret")


@pytest.mark.parametrize(
    ("door", "status", "headers", "as_whom"),
    [
        ("native", 401, [], None),  # told to bring one
        ("native", 401, [KEY], "unknown:st1k00000000000000000000"),
        ("native", 403, [], "unknown"),
        ("workspaces", 401, [], None),
        ("workspaces", 401, [VISIT], "unknown"),
        ("workspaces", 403, [VISIT, EVIL], "unknown"),
    ],
)
def test_a_denial_is_recorded_unless_nothing_was_brought(
    door: str, status: int, headers: list[tuple[bytes, bytes]], as_whom: str | None
) -> None:
    told: list[Denial] = []
    scope: dict[str, Any] = {
        "method": "GET",
        "raw_path": b"/api/kernels",
        "query_string": b"",
        "headers": [(b"host", b"eda-1.user.localhost:8484"), *headers],
    }
    audit = cast("Audit", SimpleNamespace(deny=told.append))
    put_on_record(audit, None, Asking(door, "10.0.0.1"), scope, status)
    assert [one.actor for one in told] == ([] if as_whom is None else [as_whom])
    at = "//eda-1.user.localhost:8484" if door == "workspaces" else ""
    assert all(one.asked == f"GET {at}/api/kernels" for one in told)
