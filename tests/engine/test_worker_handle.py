from __future__ import annotations

from pathlib import Path

import pytest

from steadyvoice.engine.worker_handle import WorkerHandle, WorkerSpec


def environment_of_a_worker() -> set[str]:
    handle = WorkerHandle(WorkerSpec("never:loaded"))
    try:
        return set(Path(f"/proc/{handle.pid}/environ").read_text().split("\0"))
    finally:
        handle.kill()


def test_torch_finds_its_allocator_and_tf32_set_whenever_a_worker_imports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"):
        monkeypatch.delenv(name, raising=False)

    assert {"PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1"} <= environment_of_a_worker()


def test_what_the_user_set_for_torch_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    monkeypatch.setenv("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "0")

    assert {"PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:64", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=0"} <= environment_of_a_worker()
