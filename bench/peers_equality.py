"""Whether our fp32 says what FunASR's fp32 says, token for token: random segments, alone and in mixed batches.

In steadyvoice's own environment, where both live; FunASR without dither. Prints one JSON line. Started by bench/recognition.py.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from steadyvoice.testing.sensevoice_reference import our_logits, random_items, reference_logits  # noqa: E402
from steadyvoice.worker.recognizers.funasr_automodel import FunasrRecognizer  # noqa: E402
from steadyvoice.worker.recognizers.sensevoice.recognizer import SenseVoiceRecognizer  # noqa: E402

BATCH = 5  # segments of any length together


def main() -> None:
    release, count = sys.argv[1], int(sys.argv[2])
    funasr, ours = FunasrRecognizer(release, device="cpu"), SenseVoiceRecognizer(release, "fp32", "cpu")
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # FunASR asks for four, whatever there is
    items = random_items(count, seed=1)
    mixed = [path for first in range(0, count, BATCH) for path in ours.token_paths(items[first : first + BATCH])]
    difference, different = 0.0, {"alone": 0, "in_batches": 0}
    for item, in_batch in zip(items, mixed, strict=True):
        theirs, alone = reference_logits(funasr, item), our_logits(ours, item)
        expected = theirs.argmax(dim=-1).tolist()
        difference = max(difference, float((alone - theirs).abs().max()))
        different["alone"] += alone.argmax(dim=-1).tolist() != expected
        different["in_batches"] += in_batch.tolist() != expected
    report = {
        "segments": count,
        "audio_s": sum(len(item.samples) for item in items) / 16_000,
        "token_rows": sum(map(len, mixed)),
        "different": different,
        "max_logit_difference": difference,
    }
    print("\n" + json.dumps(report))


if __name__ == "__main__":
    main()
