from __future__ import annotations

import pytest

from steadyvoice.admission.upload_slots import SMALL_BYTES, UploadSlots
from steadyvoice.errors import Overloaded


@pytest.mark.parametrize("expected", [SMALL_BYTES + 1, None])
def test_there_are_so_many_slots_and_each_is_given_back(expected: int | None) -> None:
    slots = UploadSlots(1)
    for _ in range(3):
        with slots.slot(expected):
            with (
                pytest.raises(Overloaded, match="1 uploads over 1048576 bytes are being received") as refused,
                slots.slot(expected),
            ):
                raise AssertionError("a second one was let in")
            assert refused.value.retry_after_s
    with pytest.raises(ValueError), slots.slot(expected):
        raise ValueError
    with slots.slot(expected):
        pass


def test_a_small_upload_takes_no_slot() -> None:
    slots = UploadSlots(1)
    with slots.slot(None):
        with slots.slot(SMALL_BYTES), slots.slot(0):
            pass
        with pytest.raises(Overloaded), slots.slot(SMALL_BYTES + 1):
            raise AssertionError("a large one was let in")
