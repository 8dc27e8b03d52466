from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from steadyvoice.provision.hardware import Gpu, free_disk_bytes, gpus, ram_bytes

GB = 10**9


class FakeNvml:
    """As many cards as there are totals; a card whose total is None is lost."""

    def __init__(self, *totals: int | None) -> None:
        self.totals = totals
        self.open = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: setattr(self, "open", self.open + 1))
        monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: setattr(self, "open", self.open - 1))
        monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "580.1")
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(self.totals))
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda index: f"card {index}")
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", self.memory)
        return self

    def memory(self, index: int) -> SimpleNamespace:
        total = self.totals[index]
        if total is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return SimpleNamespace(total=total, free=total // 4)


# --- what there is


@pytest.mark.parametrize("reason", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_without_a_driver_there_are_no_cards(monkeypatch: pytest.MonkeyPatch, reason: int) -> None:
    def no_driver() -> None:
        raise pynvml.NVMLError(reason)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)

    assert gpus() == []


def test_each_card_is_told_with_its_memory_and_nvml_is_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(24 * GB, 8 * GB).install(monkeypatch)

    assert gpus() == [Gpu("card 0", "580.1", 24 * GB, 6 * GB), Gpu("card 1", "580.1", 8 * GB, 2 * GB)]
    assert nvml.open == 0


def test_a_lost_card_is_left_out_with_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    nvml = FakeNvml(None, 8 * GB).install(monkeypatch)

    with caplog.at_level(logging.WARNING):
        assert [gpu.name for gpu in gpus()] == ["card 1"]

    assert "GPU 0 does not answer" in caplog.text
    assert nvml.open == 0


def test_available_memory_is_a_part_of_the_total() -> None:
    total, available = ram_bytes()

    assert total == psutil.virtual_memory().total
    assert 0 < available < total


@pytest.mark.parametrize("below", [".", "not/yet/there", "cache_hub"])
def test_free_space_is_told_for_a_folder_that_is_yet_to_be_made(tmp_path: Path, below: str) -> None:
    assert free_disk_bytes(tmp_path / below) == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)


def test_free_space_is_told_for_a_relative_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    assert free_disk_bytes(Path("not/yet/there")) == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
