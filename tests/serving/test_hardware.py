from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from steadyvoice.serving.hardware import Admission, Gpu, admission, free_disk_bytes, gpus, ram_bytes

GB = 10**9


def card(total_gb: float) -> Gpu:
    return Gpu("a card", "1.0", int(total_gb * GB), int(total_gb * GB / 2))


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


# --- how many at once


@pytest.mark.parametrize(
    ("total_gb", "concurrency"), [(4, 1), (8, 1), (16, 1), (19.9, 1), (20, 2), (23.5, 2), (25.4, 2), (80, 2), (141, 2)]
)
def test_two_are_worked_on_at_once_on_a_24_gb_card_and_one_on_a_smaller(total_gb: float, concurrency: int) -> None:
    assert admission(None, None, None, [card(total_gb)]) == Admission(concurrency, 5)


def test_a_machine_without_a_card_works_on_two_at_once() -> None:
    assert admission(None, None, None, []) == Admission(concurrency=2, queue_size=5)


def test_the_first_card_decides() -> None:
    assert admission(None, None, None, [card(8), card(80)]).concurrency == 1
    assert admission(None, None, None, [card(80), card(8)]).concurrency == 2


@pytest.mark.parametrize(
    ("cards", "gpu_memory_gb", "concurrency"),
    [([card(80)], 8, 1), ([card(80)], 24, 2), ([card(8)], 24, 1), ([], 8, 1), ([], 24, 2), ([card(80)], 20, 2)],
)
def test_a_card_may_be_treated_as_smaller_than_it_is_but_never_as_larger(
    cards: list[Gpu], gpu_memory_gb: float, concurrency: int
) -> None:
    assert admission(None, None, gpu_memory_gb, cards).concurrency == concurrency


@pytest.mark.parametrize("cards", [[], [card(8)], [card(80)]])
def test_what_is_set_wins_over_what_is_found(cards: list[Gpu]) -> None:
    assert admission(queue_size=0, concurrency=3, gpu_memory_gb=None, cards=cards) == Admission(3, 0)


def test_as_many_may_be_inside_as_are_worked_on_and_wait() -> None:
    assert Admission(concurrency=2, queue_size=5).capacity == 7
    assert Admission(concurrency=1, queue_size=0).capacity == 1


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
