"""Settings that depend on the machine."""

import pytest

from stratal.app.settings import zygotes
from stratal.kernel.errors import Invalid

pytestmark = pytest.mark.fast


def test_interpreters_kept_warm_may_hold_a_part_of_the_machines_memory() -> None:
    assert zygotes({}, 4 << 30) == (240.0, 512 << 20, 128 << 20)
    assert zygotes({}, 24 << 30)[1:] == (24 << 26, 128 << 20)
    assert zygotes({}, 1 << 40)[1] == 2 << 30
    assert zygotes({"STRATAL_ZYGOTE_MEMORY": "1GiB", "STRATAL_ZYGOTE_IDLE": "5"}) == (5.0, 1 << 30, 1 << 28)
    with pytest.raises(Invalid):
        zygotes({"STRATAL_ZYGOTE_MEMORY": "much"})
