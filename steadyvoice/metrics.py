"""Prometheus metrics of one app. Each app has a registry of its own, so that two can live in one process (as in tests).

Knows names and labels only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from steadyvoice.memory import MemorySample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
ITEMS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """All metrics of one app."""

    def __init__(self, app: str) -> None:
        self.registry = CollectorRegistry()
        labels: dict[str, Any] = {"registry": self.registry, "namespace": "steadyvoice"}
        Gauge("app_info", "Which app this is", ["app"], **labels).labels(app).set(1)
        self.requests = Counter("requests", "Requests by route and HTTP status", ["route", "status"], **labels)
        self.request_seconds = Histogram("request_seconds", "From request to last byte", ["route"], buckets=SECONDS, **labels)
        self.in_progress = Gauge("requests_in_progress", "Requests in flight, at work or waiting", **labels)
        self.queue_seconds = Histogram("queue_seconds", "From submit until the first batch", buckets=SECONDS, **labels)
        self.inference_seconds = Histogram("inference_seconds", "Spent by the worker per request", buckets=SECONDS, **labels)
        self.batch_items = Histogram("batch_items", "Items in one batch", buckets=ITEMS, **labels)
        self.batch_seconds = Histogram("batch_seconds", "Duration of one batch", buckets=SECONDS, **labels)
        self.batch_padded = Counter("batch_padded_audio_seconds", "Items times longest, summed over batches", **labels)
        self.audio_seconds = Counter("audio_seconds", "Audio recognised or spoken", **labels)
        self.tokens = Counter("tokens", "50 per second of audio", **labels)
        self.characters = Counter("speech_characters", "Characters of cleaned text that were spoken", **labels)
        self.defects = Counter("speech_defects", "Sentences still defective after a retry, by defect", ["defect"], **labels)
        self.retries = Counter("speech_retries", "Sentences that were retried because of a defect", **labels)
        self.reduced = Counter("speech_reduced", "Sentences synthesized with a simpler search, for lack of memory", **labels)
        self.cache_hits = Counter("result_cache_hits", "Requests answered from the result cache", **labels)
        self._batch_bytes = Gauge("batch_bytes", "Memory of the last batch: predicted, and used", ["kind"], **labels)
        self._memory = Gauge("memory_bytes", "Memory after the last step", ["process", "kind"], **labels)

    def observe_batch(self, report: Any) -> None:
        """`report` is a `BatchReport`."""
        self.batch_items.observe(report.items)
        self.batch_padded.inc(report.padded_s)
        self.batch_seconds.observe(report.seconds)
        for kind, value in (("predicted", report.predicted_bytes), ("used", report.used_bytes)):
            if value is not None:
                self._batch_bytes.labels(kind).set(value)

    def observe_memory(self, sample: MemorySample) -> None:
        for kind in ("rss", "allocated", "reserved", "peak", "free"):
            value = getattr(sample, kind)
            if value is not None:
                self._memory.labels(sample.process, kind).set(value)

    def observe_engine(self, status: Callable[[], Any], breaker: Callable[[], str]) -> None:
        """Read the engine's status and the breaker's state at every scrape. `status` gives an `EngineStatus`."""
        self.registry.register(_EngineCollector(status, breaker))

    def text(self) -> bytes:
        """Everything, in the exposition format."""
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    def __init__(self, status: Callable[[], Any], breaker: Callable[[], str]) -> None:
        self._status = status
        self._breaker = breaker

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        for name, help_text, value in (
            ("engine_ready", "1 while the model is loaded", status.state.value == "ready"),
            ("engine_jobs", "Jobs in the scheduler", status.jobs),
            ("engine_backlog_audio_seconds", "Audio seconds that wait", status.backlog_s),
            ("engine_largest_batch_items", "Most items in one batch so far", status.largest_batch),
            ("engine_budget_bytes", "Memory that one batch may take; 0 where it was not measured", status.budget_bytes or 0),
            ("engine_breaker_open", "1 while requests are refused because the engine keeps failing", self._breaker() == "opened"),
            ("engine_budget_share", "Of the batch budget in use: less than 1 after memory ran out", status.budget_share),
        ):
            yield GaugeMetricFamily(f"steadyvoice_{name}", help_text, value=float(value))
        for name, help_text, value in (
            ("engine_loads", "Times the model was loaded", status.loads),
            ("worker_restarts", "Workers that died or hung", status.restarts),
            ("batches", "Batches sent to the worker", status.batches),
        ):
            yield CounterMetricFamily(f"steadyvoice_{name}", help_text, value=float(value))
        events = CounterMetricFamily("steadyvoice_engine_events", "What happened to workers and batches", labels=["event"])
        for name, count in status.events.items():
            events.add_metric([name], count)
        yield events
