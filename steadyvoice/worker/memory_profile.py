"""What a batch costs in memory on this device: measured once on the real model, kept for the next start.

A few batches of noise are run, the most that each held is noted, and
`bytes = fixed + linear * items * longest + quadratic * items * longest^2` is fitted so that it covers every one
of them. Imports the standard library and numpy only.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from steadyvoice.protocol import MemoryPlan, Payload
from steadyvoice.protocol.cost import CostModel
from steadyvoice.protocol.model_info import BatchBudget, Failure
from steadyvoice.worker.device import Device
from steadyvoice.worker.device_sharing import SharedDevice
from steadyvoice.worker.error_kinds import failure_of
from steadyvoice.worker.registry import Model

log = logging.getLogger("steadyvoice.worker")

# (items, part of the longest item): enough to tell the three terms apart, in rising order, the longest item at the end, and over
# in a second or two even on a CPU.
SHAPES = ((1, 1 / 30), (1, 8 / 30), (3, 1 / 10), (1, 1.0))
MARGIN = 1.1  # on top of what was measured: other audio, other fragments of memory
BOUND_SLACK = 1.15  # torch may reserve so much of what it is expected to allocate, as memory comes in pieces
RECYCLE_BUDGETS, RECYCLE_SLACK = 2.0, 256_000_000  # over the model and so many batches and bytes, memory has crept away
LIMIT_SLACK = 1.05  # and over what is allowed by so much, in any case
NEGLIGIBLE = 1e-6  # of the largest point: a term that adds no more is none
EXACT = NEGLIGIBLE**2  # of the squares that are fitted: a smaller rest is rounding
VERSION = 3  # one more when the file's contents mean something else, or a network of ours takes other memory than before

Point = tuple[int, float, int]  # items, longest in seconds, bytes


def budget_of(model: Model, device: Device, shared: SharedDevice, plan: MemoryPlan, key: dict[str, Any]) -> BatchBudget | None:
    """What one batch may take, by what it was measured to take or the model knows of it, and by what is free.

    None where the model can neither be measured nor knows.

    Raises:
        MemoryError: not even one second of audio fits.
    """
    held, known = device.held(), getattr(model, "cost", None)
    if (known is None and not hasattr(model, "example")) or not plan.padded_s:
        shared.claim(0, device.name)  # it can be asked to leave
        return None
    longest = min(plan.longest_s, plan.padded_s)
    shapes = [(items, round(part * longest, 3)) for items, part in SHAPES]
    torch = sys.modules.get("torch")
    key |= {"model": model.info.name, "revision": model.info.revision, "device": device.name, "shapes": shapes}
    key |= {"precision": getattr(model, "precision", None), "torch": getattr(torch, "__version__", None)}
    room = device.free() - plan.reserve - shared.claimed_by_others(device.name)
    if plan.limit is not None:
        room = min(room, plan.limit - held)
    where = f"out of memory: beside the model's {held / 1e6:.0f} MB there are {max(0, room) / 1e6:.0f} MB"
    if room <= 0:
        raise MemoryError(f"{where} for a batch")  # nor for measuring one
    device.bound(held + room)
    folder = Path(plan.folder) / "profiles" if plan.folder else None
    cost = known or cost_of(key, folder, lambda: sweep(model, device, shapes, room))
    need = cost.fixed + plan.padded_s * (cost.linear + cost.quadratic * longest)
    size, smallest = min(need, room), cost.bytes(1, 1.0)
    if size < smallest:
        raise MemoryError(f"{where} for a batch, and one of one second takes {smallest / 1e6:.0f} MB")
    shared.claim(int(size), device.name)
    device.bound(int(min(held + size * BOUND_SLACK, held + room)))
    log.info("budget of a batch: %.0f MB of %.0f MB that are free; %s", size / 1e6, room / 1e6, cost)
    recycle = held + RECYCLE_BUDGETS * size + RECYCLE_SLACK
    if plan.limit is not None:
        recycle = min(recycle, LIMIT_SLACK * max(plan.limit, held + size))
    return BatchBudget(size, cost, recycle)


def sweep(model: Model, device: Device, shapes: Sequence[tuple[int, float]], room: float) -> tuple[list[Point], bool]:
    """Run a batch of noise of each shape: (items, seconds, the most bytes that it held), and whether all were run.

    Ends before the first shape that by those before it would not fit into `room` bytes. One that turns out not to fit is cut in
    halves until it does; what did not fit is a point too, of the most bytes that it may have wanted.

    Raises:
        Exception: the model fails on the first.
    """
    points: list[Point] = []
    for items, seconds in shapes:
        # One point says nothing of how memory grows, so the second shape is tried unless not even the first would fit.
        least = points[0][2] if len(points) == 1 else fit(points).bytes(items, seconds) if points else 0
        if least > room:
            return points, False
        used = _used_by(model, device, items, seconds, first=not points)
        if used is not None:
            points.append((items, seconds, used))
            continue
        single = [point for point in points if point[0] == 1]
        while items == 1 and seconds / 2 > single[-1][1]:
            used = _used_by(model, device, 1, seconds / 2)
            if used is not None:
                single.append((1, seconds / 2, used))
                points.append(single[-1])
                break
            seconds /= 2
        # How much it would have taken was not measured; no term grows faster than with the square of the length.
        _, known_s, known = single[-1]
        most = items * known * max(1.0, seconds / known_s) ** 2
        return [*points, (items, seconds, int(max(room, most)))], False
    return points, True


def _used_by(model: Model, device: Device, items: int, seconds: float, first: bool = False) -> int | None:
    """The most bytes that a batch of noise held; None where memory ran out, unless it is the first."""
    example: Callable[[float], Payload] = model.example  # type: ignore[attr-defined]
    device.start_measuring()
    try:
        for _ in model.run([example(seconds)] * items):
            pass
    except Exception as error:
        if first or failure_of(error) is not Failure.OUT_OF_MEMORY:
            raise
    else:
        return device.used()
    device.trim()  # only here the exception has let go of what there was
    return None


def cost_of(key: dict[str, Any], folder: Path | None, measure: Callable[[], tuple[Sequence[Point], bool]]) -> CostModel:
    """From the file that an earlier start left for the same `key`, else measured, and kept there if the measurement is complete.

    A file that cannot be read or written costs time and nothing else.
    """
    key = {**key, "version": VERSION}
    text = json.dumps(key, sort_keys=True)
    file = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json" if folder else None
    if file is not None:
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept["key"] == json.loads(text):
                fixed, linear, quadratic = (float(value) for value in kept["cost"])
                if all(0 <= value < float("inf") for value in (fixed, linear, quadratic)):
                    return CostModel(fixed, linear, quadratic)
        except (OSError, ValueError, KeyError, TypeError):
            pass
    began = time.monotonic()
    points, complete = measure()
    cost = fit(points)
    log.info("memory of a batch measured in %.1f s: %s", time.monotonic() - began, cost)
    if file is not None and complete:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps({"key": key, "cost": astuple(cost), "points": points}), encoding="utf-8")
            part.replace(file)
        except OSError as error:
            log.warning("the measurement is not kept: %s", error.strerror)
    return cost


def fit(points: Sequence[Point]) -> CostModel:
    """Least squares with no coefficient below zero, then raised until no point lies above, and by `MARGIN`.

    With three terms the best of the eight subsets is the non-negative solution (Lawson and Hanson, "Solving Least Squares
    Problems", 1974, find it with more steps). Where there are so few points that several are exact, it is the last of them, which
    grows fastest: what was not measured is rather taken for too much.
    """
    terms = np.array([(1.0, items * longest, items * longest**2) for items, longest, _ in points])
    measured = np.array([float(used) for *_, used in points])
    best, least = np.zeros(3), float("inf")
    exact = EXACT * float((measured**2).sum())
    counts = range(1, min(3, len(points)) + 1)
    for columns in itertools.chain.from_iterable(itertools.combinations(range(3), count) for count in counts):
        found = np.zeros(3)
        found[list(columns)] = np.linalg.lstsq(terms[:, columns], measured, rcond=None)[0]
        found[np.abs(terms * found).max(axis=0) < NEGLIGIBLE * measured.max()] = 0.0  # rounding may make it less than that
        rest = max(exact, float(((terms @ found - measured) ** 2).sum()))
        if (found >= 0).all() and rest <= least:
            best, least = found, rest
    guesses = terms @ best
    short = max((float(used / guess) for used, guess in zip(measured, guesses, strict=True) if guess > 0), default=1.0)
    return CostModel(*(float(value) for value in best * max(1.0, short) * MARGIN))
