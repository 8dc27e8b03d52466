"""The NVIDIA cards that a worker will see, in its order. Asks NVML; imports no torch.

NVML knows every card of the machine by its place on the PCI bus. CUDA, and with it the worker, sees what `CUDA_VISIBLE_DEVICES`
names, and numbers cards as `CUDA_DEVICE_ORDER` says.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pynvml

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA card, or a MIG part of one. Bytes; `free` is what no process holds at this moment."""

    name: str
    driver: str
    total: int
    free: int
    uuid: str = ""
    speed: int = 0  # cores times clock; only to be compared


def gpus() -> list[Gpu]:
    """What a worker will see. Empty without a driver; a card that does not answer is left out with a warning."""
    with _nvml() as driver:
        if driver is None:
            return []
        cards = _by_device_order(list(_cards(driver)))
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        if named is None:
            return [_first_part(card) for card in cards if card is not None]
        if named.strip().startswith("MIG-"):
            return _part(named.split(",")[0].strip(), driver)
        return [_first_part(card) for card in visible(cards, named)]


def visible(cards: Sequence[Gpu | None], named: str) -> list[Gpu]:
    """The cards that CUDA shows when `CUDA_VISIBLE_DEVICES` is `named`, in this order.

    Each is named by its number or by the beginning of its UUID. What stands behind a name that is no card is not seen, and none
    is where one is named twice, as in torch (torch/cuda/__init__.py, `_parse_visible_devices`). None is a card that does not
    answer.
    """
    found: list[Gpu | None] = []
    names = [name.strip() for name in named.split(",")]
    for name in names:
        matching: list[Gpu | None]
        if names[0].startswith("GPU-"):
            is_uuid = name.startswith("GPU-")
            matching = [card for card in cards if is_uuid and card is not None and card.uuid.startswith(name)]
        else:
            number = re.match(r"\+?\d+", name)
            matching = list(cards[int(number[0]) :][:1]) if number else []
        if len(matching) != 1:
            break
        if matching[0] is not None and matching[0] in found:
            return []
        found += matching
    return [card for card in found if card is not None]


def _by_device_order(cards: list[Gpu | None]) -> list[Gpu | None]:
    """CUDA puts the fastest card first unless it is told to keep the order of the bus. How it compares them is not documented."""
    if os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or None in cards:
        return cards
    return sorted(cards, key=lambda card: -card.speed if card else 0)


# --- NVML


@contextmanager
def _nvml() -> Iterator[str | None]:
    """The driver's version while NVML is open; None where there is no driver that answers."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        try:
            driver = pynvml.nvmlSystemGetDriverVersion()
        except pynvml.NVMLError as error:
            log.warning("the NVIDIA driver does not answer: %s", error)
            driver = None
        yield driver
    finally:
        pynvml.nvmlShutdown()


def _cards(driver: str) -> Iterator[Gpu | None]:
    """Every card in the order of the bus. None keeps the place of one that does not answer."""
    try:
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        log.warning("the NVIDIA driver does not answer: %s", error)
        return
    for index in range(count):
        try:
            yield _read(pynvml.nvmlDeviceGetHandleByIndex(index), driver)
        except pynvml.NVMLError as error:
            log.warning("GPU %d does not answer: %s", index, error)
            yield None


def _read(handle: Any, driver: str) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    card = Gpu(pynvml.nvmlDeviceGetName(handle), driver, int(memory.total), int(memory.free))
    try:
        card = replace(card, uuid=pynvml.nvmlDeviceGetUUID(handle))
        clock = pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)
        return replace(card, speed=pynvml.nvmlDeviceGetNumGpuCores(handle) * clock)
    except pynvml.NVMLError:  # of a virtual card, or a MIG part
        return card


def _first_part(card: Gpu) -> Gpu:
    """Of a card in MIG mode, CUDA shows its first part and no more."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(card.uuid)
        if pynvml.nvmlDeviceGetMigMode(handle)[0]:
            for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
                try:
                    return _read(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index), card.driver)
                except pynvml.NVMLError:
                    continue  # a place where no part was made
    except pynvml.NVMLError:
        pass  # the card knows no MIG
    return card


def _part(uuid: str, driver: str) -> list[Gpu]:
    """The MIG part of this name. CUDA shows one to a process, the first that is named."""
    try:
        return [_read(pynvml.nvmlDeviceGetHandleByUUID(uuid), driver)]
    except pynvml.NVMLError as error:
        log.warning("CUDA_VISIBLE_DEVICES names %s, which is not found: %s", uuid[:64], error)
        return []
