from __future__ import annotations

import pytest
import torch

from steadyvoice.engine.scheduler import Failure
from steadyvoice.worker.error_kinds import Fault, fault_of


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
    assert fault_of(error) is Fault.OUT_OF_MEMORY


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
    ],
)
def test_what_ends_a_cuda_context_is_sticky(message: str) -> None:
    assert fault_of(RuntimeError(message)) is Fault.STICKY


def test_everything_else_is_an_error() -> None:
    assert fault_of(RuntimeError("shapes do not match")) is Fault.ERROR
    assert fault_of(KeyError("language")) is Fault.ERROR


def test_what_is_told_to_the_app_is_what_the_scheduler_knows() -> None:
    assert {Failure(fault.value) for fault in Fault if fault is not Fault.STICKY} == {Failure.OUT_OF_MEMORY, Failure.ERROR}
