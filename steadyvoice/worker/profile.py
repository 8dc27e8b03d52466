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
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger("steadyvoice.worker")

# (items, seconds): enough to tell the three terms apart, and over in a second or two even on a CPU.
SHAPES = ((1, 1.0), (1, 6.0), (4, 3.0), (1, 15.0), (2, 10.0), (1, 30.0))
MARGIN = 1.1  # on top of what was measured: other audio, other fragments of memory
VERSION = 1  # of the file's contents

Cost = tuple[float, float, float]  # fixed, linear, quadratic
Point = tuple[int, float, int]  # items, longest in seconds, bytes


def cost_of(key: dict[str, Any], folder: Path | None, measure: Callable[[], Sequence[Point]]) -> Cost:
    """From the file that an earlier start left for the same `key`, else measured and kept there.

    A file that cannot be read or written costs time and nothing else.
    """
    key = {**key, "version": VERSION, "shapes": SHAPES}
    text = json.dumps(key, sort_keys=True)
    file = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json" if folder else None
    if file is not None:
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept["key"] == json.loads(text):
                fixed, linear, quadratic = (float(value) for value in kept["cost"])
                return fixed, linear, quadratic
        except (OSError, ValueError, KeyError, TypeError):
            pass
    began = time.monotonic()
    points = list(measure())
    cost = fit(points)
    log.info("memory of a batch measured in %.1f s: %s", time.monotonic() - began, describe(cost))
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps({"key": key, "cost": cost, "points": points}), encoding="utf-8")
            part.replace(file)
        except OSError as error:
            log.warning("the measurement is not kept: %s", error.strerror)
    return cost


def fit(points: Sequence[Point]) -> Cost:
    """Least squares with no coefficient below zero, then raised until no point lies above, and by `MARGIN`.

    With three terms the best of the eight subsets is the non-negative solution (Lawson and Hanson, "Solving Least Squares
    Problems", 1974, find it with more steps).
    """
    terms = np.array([(1.0, items * longest, items * longest**2) for items, longest, _ in points])
    measured = np.array([float(used) for *_, used in points])
    best, least = np.zeros(3), float("inf")
    for columns in itertools.chain.from_iterable(itertools.combinations(range(3), count) for count in (1, 2, 3)):
        found = np.zeros(3)
        found[list(columns)] = np.linalg.lstsq(terms[:, columns], measured, rcond=None)[0]
        rest = float(((terms @ found - measured) ** 2).sum())
        if (found >= 0).all() and rest < least:
            best, least = found, rest
    predicted = terms @ best
    short = max((float(used / guess) for used, guess in zip(measured, predicted, strict=True) if guess > 0), default=1.0)
    fixed, linear, quadratic = (float(value) for value in best * max(1.0, short) * MARGIN)
    return fixed, linear, quadratic


def describe(cost: Cost) -> str:
    fixed, linear, quadratic = cost
    return f"{fixed / 1e6:.1f} MB + {linear / 1e6:.2f} MB per second + {quadratic / 1e6:.4f} MB per second squared"
