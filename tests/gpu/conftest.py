"""Without a CUDA device nothing here can be shown, and pytest says so in so many words."""

from __future__ import annotations

import pytest
import torch

NO_GPU = "NOT SHOWN: no CUDA device here, so real out-of-memory, VRAM slope, unloading, device faults and sharing were not tested"


@pytest.fixture(autouse=True)
def _cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip(NO_GPU)
