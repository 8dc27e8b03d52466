"""A recording of a speaker -> the reference that a model imitates: mono, trimmed, long enough and not too long.

A bad recording gives a bad voice in every answer, so it is refused here, once. Knows nothing of where recordings are kept.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from steadyvoice.errors import InvalidInput, TooLarge
from steadyvoice.media.decode import DecodeLimits, decode_steps
from steadyvoice.media.sliced_work import Steps, complete
from steadyvoice.protocol import PcmArray

REFERENCE_RATE = 22_050  # Hz
DECODED = DecodeLimits(max_seconds=60.0)  # before the silence is cut off
MIN_S, MAX_S = 1.0, 15.0  # below, nothing to imitate; above, a model's memory grows and the likeness does not
FRAME = REFERENCE_RATE // 50  # samples: 20 ms
MARGIN = 5  # frames that stay at either end, since words begin and end softly
QUIET = 0.02  # of the loudest frame
MIN_LOUDNESS_DB = -50.0  # below full scale
FULL_SCALE = 32_768
CLIPPED = 0.99  # of full scale: resampling makes waves of what was cut flat
MAX_CLIPPED = 0.001  # of the samples


def read_reference(file: BinaryIO) -> PcmArray:
    """Decode a recording and check it; see `reference_steps`."""
    return complete(reference_steps(file))


def reference_steps(file: BinaryIO) -> Steps[PcmArray]:
    """Decode a recording in steps, cut off the silence at both ends and check what is left.

    Args:
        file: open, seekable and at most as large as the upload limit; read from its start.

    Returns:
        int16 [n], mono at `REFERENCE_RATE`, `MIN_S` to `MAX_S` long.

    Raises:
        UnsupportedMedia: no decoder recognises audio in it.
        TooLarge: it is longer than it may be.
        InvalidInput: it is too short, silent or clipped.
    """
    samples = yield from decode_steps(file, DECODED, REFERENCE_RATE)
    # 32,768 and not 32,767: a file of 16 bits at this rate comes out as it went in.
    pcm = trim(np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16))
    seconds = len(pcm) / REFERENCE_RATE
    loudness_db = 20 * np.log10(max(float(pcm.std()), 1.0) / FULL_SCALE)
    clipped = float(np.mean(np.abs(pcm.astype(np.int32)) >= CLIPPED * FULL_SCALE))
    if loudness_db < MIN_LOUDNESS_DB:
        raise InvalidInput(
            f"the recording is silent: its loudness is {loudness_db:.0f} dBFS, at least {MIN_LOUDNESS_DB:g} is needed",
            param="file",
        )
    if seconds < MIN_S:
        raise InvalidInput(
            f"the recording has {seconds:.2f} s of sound; {MIN_S:g} to {MAX_S:g} s are needed, best 5 to 10", param="file"
        )
    if seconds > MAX_S:
        raise TooLarge(f"the recording has {seconds:.2f} s of sound; the limit is {MAX_S:g} s", param="file")
    if clipped > MAX_CLIPPED:
        raise InvalidInput(
            f"the recording is clipped: {clipped:.2%} of its samples are at full scale, the limit is {MAX_CLIPPED:.2%}; "
            "record it again with less gain",
            param="file",
        )
    return pcm


def trim(pcm: PcmArray) -> PcmArray:
    """int16 [n] at `REFERENCE_RATE` -> without the frames at both ends that are quiet against the loudest one.

    What is trimmed already stays as it is.
    """
    frames = pcm[: len(pcm) // FRAME * FRAME].reshape(-1, FRAME)
    if not len(frames):
        return pcm
    loudness = frames.std(axis=1)  # around the mean: what a microphone adds to every sample is no sound
    loud = np.flatnonzero(loudness >= QUIET * loudness.max())
    first, last = max(0, int(loud[0]) - MARGIN), int(loud[-1]) + 1 + MARGIN
    return pcm[first * FRAME : last * FRAME]
