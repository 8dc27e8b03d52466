"""Which cards a worker will see, with NVML played by a stand-in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from steadyvoice.admission.capacity import capacity_for
from steadyvoice.provision.gpus import Gpu, gpus, visible

GB = 10**9
UUIDS = ("GPU-aaaa1111", "GPU-aaaa2222", "GPU-bbbb3333")
CARDS = [Gpu(f"card {index}", "580.1", 24 * GB, 6 * GB, uuid) for index, uuid in enumerate(UUIDS)]


class FakeNvml:
    """Cards of so many GB; `speeds` are their clocks, `parts` the GB of the first MIG part of a card by number."""

    def __init__(self, *sizes: int, speeds: tuple[int, ...] = (), parts: dict[int, int] | None = None) -> None:
        self.sizes, self.speeds, self.parts = sizes, speeds, parts or {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
        answers: dict[str, Any] = {
            "Init": lambda: None,
            "Shutdown": lambda: None,
            "SystemGetDriverVersion": lambda: "580.1",
            "DeviceGetCount": lambda: len(self.sizes),
            "DeviceGetHandleByIndex": lambda index: index,
            "DeviceGetHandleByUUID": self.by_uuid,
            "DeviceGetName": lambda handle: f"card {handle}",
            "DeviceGetMemoryInfo": self.memory,
            "DeviceGetUUID": lambda handle: UUIDS[handle] if isinstance(handle, int) else handle,
            "DeviceGetNumGpuCores": lambda handle: 1_000,
            "DeviceGetMaxClockInfo": lambda handle, _: self.speeds[handle] if self.speeds else 1,
            "DeviceGetMigMode": lambda handle: (int(handle in self.parts), 0),
            "DeviceGetMaxMigDeviceCount": lambda _: 7,
            "DeviceGetMigDeviceHandleByIndex": self.part,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(pynvml, f"nvml{name}", answer)

    def by_uuid(self, uuid: str) -> int | str:
        for index in range(len(self.sizes)):
            if uuid == UUIDS[index]:
                return index
            if index in self.parts and uuid == f"MIG-{index}":
                return uuid
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def part(self, handle: int, index: int) -> str:
        if index != 2:  # the first places are empty
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return f"MIG-{handle}"

    def memory(self, handle: int | str) -> SimpleNamespace:
        size = self.sizes[handle] if isinstance(handle, int) else self.parts[int(handle[4:])]
        return SimpleNamespace(total=size * GB, free=size * GB // 4)


def sizes(found: list[Gpu]) -> list[int]:
    return [card.total // GB for card in found]


@pytest.mark.parametrize(
    ("named", "seen"),
    [
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("0", (0,)),
        ("1", (1,)),
        ("2,0", (2, 0)),
        (" 1 , 2 ", (1, 2)),
        ("1,3,0", (1,)),
        ("0,-1,1", (0,)),
        ("3", ()),
        ("1,1", ()),
        ("GPU-bbbb3333", (2,)),
        ("GPU-b,GPU-aaaa1", (2, 0)),
        ("GPU-aaaa", ()),  # two begin like that
        ("GPU-b,1", (2,)),
        ("GPU-b,GPU-bbbb", ()),
        ("1,GPU-b", (1,)),
    ],
)
def test_what_cuda_visible_devices_names_is_seen_in_its_order(named: str, seen: tuple[int, ...]) -> None:
    assert visible(CARDS, named) == [CARDS[index] for index in seen]


def test_the_card_that_is_named_decides_how_many_requests_are_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(80, 8).install(monkeypatch)
    for named, concurrency in (("0", 2), ("1", 1), (UUIDS[1], 1), ("1,0", 1), ("", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        total = next((card.total for card in gpus()), None)
        assert capacity_for(None, None, None, total).concurrency == concurrency


def test_the_fastest_card_comes_first_unless_the_order_of_the_bus_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(8, 80, 24, speeds=(1_000, 3_000, 2_000)).install(monkeypatch)
    assert sizes(gpus()) == [80, 24, 8]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert sizes(gpus()) == [24]
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert sizes(gpus()) == [80]


def test_of_a_card_in_parts_only_the_part_counts(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    FakeNvml(24, 80, parts={1: 10}).install(monkeypatch)
    assert sizes(gpus()) == [24, 10]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1,MIG-0")
    assert sizes(gpus()) == [10]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-none")
    assert gpus() == []
    assert "names MIG-none, which is not found" in caplog.text
