from __future__ import annotations

import numpy as np
import pytest

from steadyvoice.worker import device as module
from steadyvoice.worker.device import Device

MB = 1_000_000


def test_used_is_the_most_that_was_held_at_a_time_and_not_what_is_left() -> None:
    device = Device()
    device.trim()
    device.at_rest()
    device.start_measuring()
    large = np.ones(200 * MB // 8)
    del large
    small = np.ones(50 * MB // 8)

    assert 195 * MB < device.used() < 300 * MB

    device.start_measuring()
    assert 45 * MB < device.used() < 80 * MB  # the peak before does not count, what is still held does
    del small


@pytest.mark.parametrize(
    ("policy", "short", "expected"), [("always", False, 1), ("never", True, 0), ("pressure", False, 0), ("pressure", True, 1)]
)
def test_memory_is_given_back_as_the_policy_says(
    policy: str, short: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_ram", lambda: 10 if short else 10**12)
    device, trims = Device(policy, reserve=1_000), []
    monkeypatch.setattr(device, "trim", lambda: trims.append(1))

    device.after_batch()

    assert len(trims) == expected


@pytest.mark.parametrize(("policy", "expected"), [("pressure", 1), ("never", 0)])
def test_on_a_cpu_what_malloc_has_over_goes_after_every_batch(
    policy: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[int] = []
    monkeypatch.setattr(module, "_malloc_trim", lambda: trims.append(1))

    Device(policy).after_batch()

    assert len(trims) == expected


def test_free_memory_is_no_more_than_the_cgroup_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"/proc/meminfo": "MemAvailable:  1000000 kB\n", "/sys/fs/cgroup/memory.max": "5000000\n"}
    texts["/sys/fs/cgroup/memory.current"] = "1000000\n"
    texts["/sys/fs/cgroup/memory.stat"] = "anon 100\nactive_file 200000\ninactive_file 300000\n"
    real = module._search

    def search(pattern: str, path: str) -> str | None:
        return module.re.search(pattern, texts[path], module.re.MULTILINE)[1] if path in texts else real(pattern, path)  # type: ignore[index]

    monkeypatch.setattr(module, "_search", search)
    assert Device().free() == 4_500_000  # the page cache is let go of when it is needed

    texts["/sys/fs/cgroup/memory.max"] = "9999999999999\n"
    assert Device().free() == 1_024_000_000
