"""Sizes and times as people write them."""

import pytest

from stratal.sdk import amounts

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("512MiB", 2**29),
        ("512mb", 2**29),
        ("512M", 2**29),
        (" 1.5 G ", 3 * 2**29),
        ("7", 7),
        (7, 7),
        ("2TiB", 2**41),
    ],
)
def test_a_size(text: str | int, found: int) -> None:
    assert amounts.size(text) == found


@pytest.mark.parametrize(
    ("text", "found"), [("90", 90), (1.5, 1.5), ("2m", 120), ("1.5h", 5400), ("1d", 86400)]
)
def test_a_time(text: str | float, found: float) -> None:
    assert amounts.seconds(text) == found


@pytest.mark.parametrize("text", ["", "much", "-1", "1e9", "5 parsecs", "0x10", "1_000"])
def test_what_is_neither(text: str) -> None:
    for read in (amounts.size, amounts.seconds):
        with pytest.raises(ValueError, match="is not a"):
            read(text)
