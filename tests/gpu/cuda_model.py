"""A model whose batches take CUDA memory by their padded seconds, and that can break its device. It runs in a real worker."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from steadyvoice.protocol import Items, ModelInfo, Outcome, Payload

BYTES_PER_S = 20_000_000
WEIGHT_BYTES = 500_000_000


class CudaModel:
    def __init__(self, lie: float = 1.0) -> None:
        """`lie`: batches that were not measured take so many times what the measured ones took."""
        self._lie = lie
        self._weights = torch.ones(WEIGHT_BYTES, dtype=torch.uint8, device="cuda")
        self.info = ModelInfo("cuda", "1", max_batch_items=64)

    def example(self, seconds: float) -> Payload:
        return Payload({"seconds": seconds, "measured": True})

    def run(self, items: Items) -> Iterator[Outcome]:
        if any(item.fields.get("do") == "assert" for item in items):
            table = torch.zeros(4, device="cuda")
            table[torch.tensor([9], device="cuda")].sum().item()  # a device-side assert, which no later call survives
        longest = max(float(item.fields["seconds"]) for item in items)
        measured = all(item.fields.get("measured") for item in items)
        size = int(len(items) * longest * BYTES_PER_S * (1.0 if measured else self._lie))
        activations = torch.ones(size, dtype=torch.uint8, device="cuda")
        for item in items:
            yield Payload({**item.fields, "sum": int(activations[:100].sum().item())})
