"""What this machine has: GPUs, memory, disk. Asks NVML and the system; loads no model and imports no torch."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil

from steadyvoice.provision.gpus import Gpu, gpus

__all__ = ["Gpu", "free_disk_bytes", "gpus", "ram_bytes"]


def ram_bytes() -> tuple[int, int]:
    """(total, available)."""
    memory = psutil.virtual_memory()
    return memory.total, memory.available


def free_disk_bytes(folder: Path) -> int:
    """Free space where `folder` is, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
