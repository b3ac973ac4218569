"""Times as text, whatever number a client said."""

import pytest

from stratal.kernel.clock import iso

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("milliseconds", "told"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_769_846_400_123, "2026-01-31T08:00:00.123Z"),
        (1_769_846_400_123_000_000, "9999-12-31T23:59:59.999Z"),  # nanoseconds
        (2**63 - 1, "9999-12-31T23:59:59.999Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (-(2**63), "1000-01-01T00:00:00.000Z"),
        (-62_135_596_800_001, "1000-01-01T00:00:00.000Z"),
    ],
)
def test_every_number_is_a_time(milliseconds: int, told: str) -> None:
    assert iso(milliseconds) == told
