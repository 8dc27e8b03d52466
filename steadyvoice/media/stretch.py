"""Speech made faster or slower with its pitch kept, by FFmpeg's atempo. For engines that cannot change their pace themselves."""

from __future__ import annotations

from fractions import Fraction

import av
import av.filter
import numpy as np

from steadyvoice.protocol import PcmArray

MIN_SPEED, MAX_SPEED = 0.5, 2.0  # beyond it atempo drops samples instead of blending them
TAIL_S = 0.2  # of silence behind the speech: what atempo still holds at the end is never given out


def stretch(pcm: PcmArray, sample_rate: int, speed: float) -> PcmArray:
    """int16 [n] -> int16 [round(n / speed)] at the same rate.

    Args:
        pcm: int16 [n], mono.
        sample_rate: in Hz.
        speed: 0.5 to 2; 2 takes half the time.

    Raises:
        ValueError: a speed outside of that.
    """
    if not MIN_SPEED <= speed <= MAX_SPEED:
        raise ValueError(f"speed is {speed:g}; allowed: {MIN_SPEED:g} to {MAX_SPEED:g}")
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=sample_rate, format="s16", layout="mono", time_base=Fraction(1, sample_rate))
    tempo = graph.add("atempo", f"{speed:.6f}")
    sink = graph.add("abuffersink")
    source.link_to(tempo)
    tempo.link_to(sink)
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
