"""The shared state of one app, made for this machine: with the engine that can work here and the capacity of its card."""

from __future__ import annotations

from steadyvoice.admission.capacity import capacity_for
from steadyvoice.engine.worker_process import WorkerSpec
from steadyvoice.provision.gpus import gpus
from steadyvoice.provision.select_engine import choose_recognizer, choose_synthesizer
from steadyvoice.service.service import Role, Service
from steadyvoice.settings import Settings


def create_service(settings: Settings, role: Role, worker: WorkerSpec | None = None) -> Service:
    """See `Service`. Raises NoEngine: the engine that was asked for cannot work here."""
    choice = choose_recognizer(settings) if role == "asr" else choose_synthesizer(settings)
    cards = gpus()
    capacity = capacity_for(settings.queue_size, settings.concurrency, settings.gpu_memory_gb, cards[0].total if cards else None)
    return Service(settings, role, choice, capacity, worker)
