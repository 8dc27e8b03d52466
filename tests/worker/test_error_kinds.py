from __future__ import annotations

import pytest
import torch

from steadyvoice.protocol.model_info import Failure
from steadyvoice.worker.error_kinds import failure_of


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no more"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_running_out_of_memory_is_known_in_all_its_forms(error: Exception) -> None:
    assert failure_of(error) is Failure.OUT_OF_MEMORY


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
    ],
)
def test_what_ends_a_cuda_context_ends_the_worker(message: str) -> None:
    assert failure_of(RuntimeError(message)) is Failure.DEATH


def test_everything_else_is_an_error() -> None:
    assert failure_of(RuntimeError("shapes do not match")) is Failure.ERROR
    assert failure_of(KeyError("language")) is Failure.ERROR
