"""What a loaded model says of itself, and how an item or a batch of it fails."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from steadyvoice.protocol.cost import CostModel
from steadyvoice.protocol.wire import Payload


@dataclass(frozen=True)
class ModelInfo:
    """What a model says of itself once it is loaded."""

    name: str
    revision: str
    max_batch_items: int  # more than this in one batch gains nothing

    def __post_init__(self) -> None:
        if self.max_batch_items < 1:
            raise ValueError(f"a model with batches of {self.max_batch_items} items")


@dataclass(frozen=True)
class MemoryPlan:
    """What the app tells its worker about memory. Bytes."""

    padded_s: float = 0.0  # the most that one batch will hold, in padded seconds; 0: nothing is measured
    longest_s: float = 30.0  # of one item
    limit: int | None = None  # the model and its batches may take so much of the device; None: what is free
    reserve: int = 0  # of the device, to stay free for others
    trim: str = "pressure"  # always, pressure, never
    folder: str | None = None  # of measurements and claims; None: nothing is kept, and the device is not shared


@dataclass(frozen=True)
class BatchBudget:
    """What a loaded worker says of memory. Bytes."""

    bytes: float  # for one batch, beyond what the model takes at rest
    cost: CostModel
    recycle_bytes: float  # a worker that holds more than this is better replaced

    def __post_init__(self) -> None:
        values = (self.bytes, self.cost.fixed, self.cost.linear, self.cost.quadratic, self.recycle_bytes)
        if not all(value >= 0 for value in values):  # also refuses NaN
            raise ValueError(f"a budget below zero: {self}")


class Failure(enum.Enum):
    """Why a batch ended without answers for all of its items."""

    OUT_OF_MEMORY = "oom"
    ERROR = "error"  # the model raised
    DEATH = "death"  # the worker died, was killed because it hung, or has lost its device and must end


@dataclass(frozen=True)
class ItemError:
    """Why one item of a batch has no answer: the input is invalid, memory ran out, or the engine failed."""

    kind: Literal["invalid", "oom", "error"]
    message: str


Outcome = Payload | ItemError
Items = Sequence[Payload]
