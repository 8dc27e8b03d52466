"""What one app shares between its requests: engine, admission, threads, memory log, metrics. Made once by the app's `main`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Literal

from steadyvoice.admission.admission import Admission
from steadyvoice.admission.capacity import Capacity
from steadyvoice.engine.batch_budget import Budget
from steadyvoice.engine.engine_thread import Engine
from steadyvoice.engine.scheduler import Limits, ServiceClass
from steadyvoice.engine.status import BatchReport
from steadyvoice.engine.tickets import JobHandle, Task
from steadyvoice.engine.worker_policy import Policy
from steadyvoice.engine.worker_process import WorkerSpec
from steadyvoice.engine_specs import EngineChoice, EngineSpec
from steadyvoice.memory import MemoryLog
from steadyvoice.metrics import Metrics
from steadyvoice.protocol import MemoryPlan
from steadyvoice.service.private_folder import PrivateFolder
from steadyvoice.service.thread_pool import ThreadPool
from steadyvoice.settings import Settings

log = logging.getLogger(__name__)

RESERVE_BYTES = 512_000_000  # of the device, left free for other processes and for unforeseen allocations

Role = Literal["asr", "tts"]


class Service:
    """One app's shared state. `close()` ends the worker and the threads."""

    def __init__(
        self, settings: Settings, role: Role, choice: EngineChoice, capacity: Capacity, worker: WorkerSpec | None = None
    ) -> None:
        """`worker` replaces the chosen engine's worker, for tests and for models of one's own."""
        self.settings = settings
        self.role: Role = role
        self.spec: EngineSpec = choice.spec
        self.examples = choice.examples
        self.metrics = Metrics(role)
        self.memory = MemoryLog(self.metrics.observe_memory)
        self.last_batch: BatchReport | None = None
        self.engine = Engine(
            worker or worker_spec(choice, settings),
            Limits(Budget(settings.batch_size_s), settings.max_backlog_s),
            self.memory,
            self._note_batch,
            policy=Policy(idle_unload_s=settings.idle_unload_s or float("inf")),
        )
        self.admission = Admission(capacity, lambda: self.engine.status().retry_after_s, self.metrics.in_progress.set)
        self.metrics.observe_engine(self.engine.status, lambda: self.admission.breaker.state)
        port = settings.asr_port if role == "asr" else settings.tts_port
        self.files = PrivateFolder(f"{role}-{port}", settings.max_stored_bytes)
        # Decoding and segmenting are CPU-bound: as many at once as requests are worked on at once.
        self.threads = ThreadPool(capacity.concurrency)
        log.info("%s: engine %s (%s)", role, choice.spec.name, choice.reason)
        if settings.preload:
            self.engine.load()

    def submit(self, tasks: Sequence[Task], caller: str, service_class: ServiceClass, spent_s: float = 0.0) -> JobHandle:
        """Hand tasks to the engine, unless it keeps failing. `spent_s` seconds of the request's time have passed already.

        Raises:
            EngineUnavailable: by the circuit breaker, without asking the engine.
            SteadyvoiceError: as `Engine.submit`.
        """
        breaker = self.admission.breaker
        token = breaker.admit()
        timeout_s = self.settings.request_timeout_s - spent_s
        try:
            job = self.engine.submit(tasks, caller=caller, service_class=service_class, timeout_s=timeout_s)
        except BaseException:
            breaker.abandon(token)
            raise
        breaker.watch(token, job.tickets)
        return job

    def _note_batch(self, report: BatchReport) -> None:
        self.last_batch = report
        self.metrics.observe_batch(report)

    @property
    def revision(self) -> str:
        """Of the loaded model; "unloaded" before the first load."""
        model = self.engine.status().model
        return model.revision if model else "unloaded"

    def close(self) -> None:
        self.admission.limit.drain()
        self.engine.close()
        self.threads.close()
        self.files.close()


def worker_spec(choice: EngineChoice, settings: Settings) -> WorkerSpec:
    """How to start the chosen engine's worker, under its own interpreter if it has one."""
    return WorkerSpec(choice.spec.name, choice.options, choice.python or sys.executable, memory=memory_plan(settings))


def memory_plan(settings: Settings) -> MemoryPlan:
    """What the worker is told about memory."""
    return MemoryPlan(
        padded_s=settings.batch_size_s,
        longest_s=settings.max_segment_s,
        limit=None if settings.gpu_memory_gb is None else int(settings.gpu_memory_gb * 1e9),
        reserve=RESERVE_BYTES,
        trim=settings.trim,
        folder=str(settings.cache_hub / "memory"),
    )
