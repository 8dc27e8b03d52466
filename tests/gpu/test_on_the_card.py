"""The promises of memory on a real card: what a fake engine shows elsewhere, shown on the device."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pynvml

from steadyvoice import errors
from steadyvoice.engine.batch_budget import Budget
from steadyvoice.engine.engine_thread import Engine
from steadyvoice.engine.scheduler import Limits
from steadyvoice.engine.tickets import JobHandle, Task
from steadyvoice.engine.worker_policy import DEFAULT_POLICY, Policy
from steadyvoice.engine.worker_process import WorkerSpec
from steadyvoice.memory import MemoryLog, MemorySample
from steadyvoice.protocol import MemoryPlan, Payload
from tests.gpu.cuda_model import BYTES_PER_S, WEIGHT_BYTES

MODEL = "tests.gpu.cuda_model:CudaModel"
CONTEXT_BYTES = 1_200_000_000  # what CUDA itself takes of a card for one process, at most
WAIT_S = 120.0


def engine(
    folder: Path, *, policy: Policy = DEFAULT_POLICY, memory: MemoryLog | None = None, limit: int | None = None, **options: Any
) -> Engine:
    plan = MemoryPlan(padded_s=30.0, limit=limit, folder=str(folder))
    return Engine(WorkerSpec(MODEL, options, memory=plan), Limits(Budget(30.0), 1e6), memory, policy=policy)


def submit(running: Engine, *seconds: float, **fields: Any) -> JobHandle:
    tasks = [Task(Payload({"number": number, "seconds": s, **fields}), s) for number, s in enumerate(seconds)]
    return running.submit(tasks, caller="anna")


def numbers(job: JobHandle) -> list[int]:
    return [ticket.result(WAIT_S).payload.fields["number"] for ticket in job.tickets]


def card_free() -> int:
    pynvml.nvmlInit()
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).free)
    finally:
        pynvml.nvmlShutdown()


def test_a_real_out_of_memory_under_a_cap_is_survived_and_everybody_is_answered(tmp_path: Path) -> None:
    # Batches take four times what was measured, so full ones do not fit; a quarter of them does.
    with engine(tmp_path, limit=WEIGHT_BYTES + 31 * BYTES_PER_S, lie=4.0) as running:
        assert numbers(submit(running, *[3.0] * 100)) == list(range(100))

        status = running.status()
        assert status.events["oom_split"] > 0
        assert status.restarts == 0
        assert status.budget_share < 1.0


def test_an_item_that_does_not_fit_alone_is_refused_and_the_worker_lives(tmp_path: Path) -> None:
    with engine(tmp_path, limit=WEIGHT_BYTES + 31 * BYTES_PER_S, lie=4.0) as running:
        (ticket,) = submit(running, 29.0).tickets

        assert isinstance(ticket.exception(WAIT_S), errors.OutOfMemory)
        assert numbers(submit(running, 2.0)) == [0]
        assert running.status().restarts == 0


def test_a_thousand_requests_leave_nothing_behind_on_the_card(tmp_path: Path) -> None:
    samples: list[MemorySample] = []
    with engine(tmp_path, memory=MemoryLog(observe=samples.append)) as running:
        for round_ in range(100):
            numbers(submit(running, *[1.0 + (round_ + number) % 29 for number in range(10)]))

    allocated = [sample.allocated for sample in samples if sample.step == "batch"]
    assert len(set(allocated[len(allocated) // 2 :])) == 1


def test_an_idle_model_gives_back_all_that_it_took(tmp_path: Path) -> None:
    before, steps = card_free(), SimpleQueue[str]()
    with engine(tmp_path, policy=Policy(idle_unload_s=0.5), memory=MemoryLog(observe=lambda s: steps.put(s.step))) as running:
        numbers(submit(running, 5.0))
        while steps.get(timeout=WAIT_S) != "unload":
            pass

        assert before - card_free() < 50_000_000
        assert numbers(submit(running, 5.0)) == [0]


def test_a_device_side_assert_costs_one_worker_and_nobody_elses_answer(tmp_path: Path) -> None:
    with engine(tmp_path) as running:
        poison = submit(running, 5.0, do="assert")
        innocent = submit(running, *[5.0] * 5)

        assert isinstance(poison.tickets[0].exception(WAIT_S), errors.WorkerDied)
        assert numbers(innocent) == list(range(5))


def test_two_models_on_one_card_never_count_on_the_same_memory(tmp_path: Path) -> None:
    free = card_free()
    with engine(tmp_path) as first, engine(tmp_path) as second:
        loads = [running.load() for running in (first, second)]
        for load in loads:
            load.result(WAIT_S)

        budgets = [running.status().budget_bytes or 0.0 for running in (first, second)]
        assert min(budgets) >= 30 * BYTES_PER_S
        assert sum(budgets) + 2 * (WEIGHT_BYTES + CONTEXT_BYTES) < free
        for running in (first, second):
            assert numbers(submit(running, *[10.0] * 9)) == list(range(9))
