"""Speech made faster or slower with its pitch kept, by FFmpeg's atempo. For engines that cannot change their pace themselves."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import av
import av.filter
import numpy as np

from steadyvoice.protocol import PcmArray

MIN_SPEED, MAX_SPEED = 0.5, 2.0  # of one atempo: beyond it, it drops samples instead of blending them
MAX_STEPS = 2  # one atempo after the other
TAIL_S = 0.2  # of silence behind the speech: what atempo still holds at the end is never given out


def stretch(pcm: PcmArray, sample_rate: int, speed: float) -> PcmArray:
    """int16 [n] -> int16 [round(n / speed)] at the same rate.

    Args:
        pcm: int16 [n], mono.
        sample_rate: in Hz.
        speed: 0.25 to 4; 2 takes half the time.

    Raises:
        ValueError: a speed outside of that.
    """
    slowest, fastest = MIN_SPEED**MAX_STEPS, MAX_SPEED**MAX_STEPS
    if not slowest <= speed <= fastest:
        raise ValueError(f"speed is {speed:g}; allowed: {slowest:g} to {fastest:g}")
    steps = [speed] if MIN_SPEED <= speed <= MAX_SPEED else [speed**0.5] * MAX_STEPS
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=sample_rate, format="s16", layout="mono", time_base=Fraction(1, sample_rate))
    chain = [source, *(graph.add("atempo", f"{step:.6f}") for step in steps), graph.add("abuffersink")]
    for before, after in pairwise(chain):
        before.link_to(after)
    graph.configure()

    padded = np.concatenate([pcm, np.zeros(round(TAIL_S * sample_rate), np.int16)])
    frame = av.AudioFrame.from_ndarray(padded[np.newaxis, :], format="s16", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = sample_rate, Fraction(1, sample_rate), 0
    graph.push(frame)
    graph.push(None)
    pieces = []
    while True:
        try:
            pieces.append(graph.pull().to_ndarray().reshape(-1))
        except EOFError:
            break
    stretched = np.concatenate(pieces)
    wanted = round(len(pcm) / speed)
    return np.pad(stretched[:wanted], (0, max(0, wanted - len(stretched))))
