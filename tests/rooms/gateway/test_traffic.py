"""Whose bytes they are: the caller's, the workload's, the endpoint's or function's that was asked, or nobody's."""

from typing import Any

import pytest

from stratal.gateway.traffic import count_traffic
from stratal.identity.model import Kind, Principal, Role

pytestmark = pytest.mark.fast

ADA = Principal(Kind.PERSON, "per_1", "ada", "prj_a", "alpha", Role.EDITOR)
JOB = Principal(Kind.WORKLOAD, "job:7", "ada", "prj_a", "alpha", Role.EDITOR, workload="job:7")
BY_FUNCTION = Principal(
    Kind.WORKLOAD, "function:fn:3", "ada", "prj_a", "alpha", Role.EDITOR, workload="function:fn:3"
)


class Noted:
    def __init__(self) -> None:
        self.doors: list[tuple[Any, ...]] = []

    def count(self, door: tuple[str, ...], received: int, sent: int) -> None:
        self.doors.append((*door, received, sent))


@pytest.mark.parametrize(
    ("who", "door", "path", "status", "public_of", "expected"),
    [
        (ADA, "s3", b"/bucket/key", 200, None, ("prj_a", "ada", "s3", "s3", "s3", 5, 7)),
        (JOB, "s3", b"/bucket/key", 200, None, ("prj_a", "ada", "job:7", "", "s3", 5, 7)),
        (BY_FUNCTION, "s3", b"/bucket/key", 200, None, ("prj_a", "ada", "function:fn", "", "s3", 5, 7)),
        (
            *(ADA, "inference", b"/v2/models/a%20b/infer", 200, None),
            ("prj_a", "ada", "endpoint:a b", "a b", "inference", 5, 7),
        ),
        (
            *(ADA, "functions", b"/f/alpha/fn", 200, None),
            ("prj_a", "ada", "function:fn", "fn", "functions", 5, 7),
        ),
        # Without a key: the project pays whose function it is, and no person does.
        (None, "functions", b"/f/beta/fn", 200, "prj_b", ("prj_b", "", "function:fn", "fn", "functions", 5, 7)),
        (None, "functions", b"/f/beta/fn", 429, "prj_b", ("prj_b", "", "functions", "functions", "functions", 5, 7)),
        (None, "functions", b"/f/beta/none", 404, None, None),
        (None, "operations", b"/healthz", 200, None, None),
    ],
)  # fmt: skip
def test_bytes_are_put_down_to(
    who: Principal | None, door: str, path: bytes, status: int, public_of: str | None, expected: Any
) -> None:
    noted = Noted()
    state = {} if public_of is None else {"public_of": public_of}
    scope = {"method": "POST", "raw_path": path, "state": state}
    count_traffic(noted, who, door, scope, status, 5, 7)  # type: ignore[arg-type]
    assert noted.doors == ([] if expected is None else [expected])
