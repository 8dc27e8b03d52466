"""IndexTTS2, 2.0 or 2.5, out of the user's own checkout and under its interpreter. Our part is what keeps it steady.

It holds one voice and one emotion at a time, by the path of their files, works on one text at a time, draws from the global
generators, and knows nothing of limits: each of these is met here. Its code and weights have a licence of their own and are not
part of this project. Imports the standard library, numpy and, out of the checkout, `indextts` only.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import random
import secrets
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steadyvoice.engine_specs import EMOTIONS, NATIVE_SPEEDS
from steadyvoice.protocol import ItemError, Items, ModelInfo, Outcome, Payload, Speech, SynthesizeItem
from steadyvoice.protocol.cost import CostModel

MODULES = {"2.0": "indextts.infer_v2", "2.5": "indextts.infer_v2_5"}
HALF = {"2.0": "use_fp16", "2.5": "use_bf16"}  # the argument that halves the precision
CODES_PER_SECOND = {"2.0": 50.1, "2.5": 25.1}  # of audio
MAX_CODES = 1_500  # its own limit
# Its other models, as a checkout may keep them below hf_cache; told where they are it looks for them nowhere else.
AUXILIARIES = {
    "w2v_bert": "w2v-bert-2.0",
    "semantic_codec": "semantic_codec_model.safetensors",
    "campplus": "campplus_cn_common.bin",
    "bigvgan": "bigvgan",
}
KV_BYTES = {True: 120 * 1024, False: 240 * 1024}  # per code and beam, in half precision or not
REST_BYTES = 300_000_000  # of one short utterance beyond the weights: what was reported, less its cache
MAX_EMOTION = 0.8  # the most that the eight may come to, as on the original's own page

# A text may take so much longer than expected, times and seconds, before it is cut; and be so much off before it is said again.
LONGEST, LONGEST_EXTRA_S = 2.0, 2.0
TOO_SHORT, SHORTEST_EXPECTED_S = 0.25, 1.0
PEAK_OF_SILENCE = 200  # of 32,767; below it nothing was said


class IndexTTS2Synthesizer:
    """See `steadyvoice.worker.registry.Model`. `cost` counts what the cache of keys and values comes to at the most."""

    def __init__(self, root: str, version: str, half: bool = True, beams: int = 3, qwen: bool = False) -> None:
        """
        Args:
            root: the checkout, which holds `checkpoints` and, unless it is installed, the package.
            version: 2.0 or 2.5.
            half: bf16 or fp16 for the part that takes most of the memory; on a CPU without effect.
            beams: of the search; each has a cache of its own.
            qwen: load the model that reads emotions out of a description.
        """
        os.chdir(root)  # on import it sets the folder of its other models relative to the working directory
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is here: that was looked at before the start
        sys.path.insert(0, root)
        checkpoints = Path(root) / "checkpoints"
        how: dict[str, Any] = {"cfg_path": str(checkpoints / "config.yaml"), "model_dir": str(checkpoints), HALF[version]: half}
        how |= {"use_qwen_emo": qwen, "use_cuda_kernel": False}  # which would be compiled for minutes
        auxiliaries = {name: checkpoints / "hf_cache" / path for name, path in AUXILIARIES.items()}
        if all(path.exists() for path in auxiliaries.values()):
            how["aux_paths"] = {name: str(path) for name, path in auxiliaries.items()}
        with _silenced():
            kind = importlib.import_module(MODULES[version]).IndexTTS2
            # Earlier 2.0 always loads Qwen and has arguments neither for that nor for paths; 2.5 has none for paths.
            known = inspect.signature(kind).parameters
            self._engine = kind(**{name: value for name, value in how.items() if name in known})
        self._version, self._beams = version, beams
        codes_per_s = CODES_PER_SECOND[version] * LONGEST
        per_code = KV_BYTES[half] * beams
        self.cost = CostModel(REST_BYTES + CODES_PER_SECOND[version] * LONGEST_EXTRA_S * per_code, codes_per_s * per_code)
        self.info = ModelInfo("indextts2", version, max_batch_items=1)

    def run(self, items: Items) -> Iterator[Outcome]:
        for payload in items:
            yield self._answer(SynthesizeItem.from_payload(payload), self._beams)

    def run_low_memory(self, items: Items) -> Iterator[Outcome]:
        """With one beam: less choice between words that are said a little differently, and a third of the cache."""
        for payload in items:
            outcome = self._answer(SynthesizeItem.from_payload(payload), beams=1)
            if isinstance(outcome, Payload) and self._beams > 1:
                outcome = replace(Speech.from_payload(outcome), reduced=True).to_payload()
            yield outcome

    def _answer(self, item: SynthesizeItem, beams: int) -> Outcome:
        """Say it, and once more with another seed if it has not come out right."""
        if item.reference is None:
            return ItemError("invalid", "IndexTTS2 has no voice of its own: it needs a recording of one")
        seed = secrets.randbits(32) if item.seed is None else item.seed
        try:
            speech = self._say(item, seed, beams)
            if speech.defect is not None:
                speech = replace(self._say(item, seed + 1, beams), retried=True)
        except RuntimeError as error:
            if "non-empty list" in str(error):  # what it raises where normalising leaves nothing of a text
                return ItemError("invalid", "there is nothing in it that IndexTTS2 can say")
            raise
        return speech.to_payload()

    def _say(self, item: SynthesizeItem, seed: int, beams: int) -> Speech:
        seed_everything(seed)
        longest = LONGEST * item.expected_s + LONGEST_EXTRA_S
        codes = MAX_CODES if not item.expected_s else min(MAX_CODES, math.ceil(longest * CODES_PER_SECOND[self._version]))
        native = self._version == "2.5"
        speed = min(max(item.speed, NATIVE_SPEEDS[0]), NATIVE_SPEEDS[1]) if native else 1.0
        how = {"lang": item.language, "duration_factor": 1 / speed} if native else {}
        with _silenced(), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            answer = self._engine.infer(
                spk_audio_prompt=item.reference,
                text=item.text,
                output_path=None,
                interval_silence=0,
                num_beams=beams,
                max_mel_tokens=codes,
                **how,
                **_emotion(item),
            )
        if answer is None:
            raise RuntimeError("IndexTTS2 gave no audio")
        rate, samples = answer
        speech = Speech(np.ascontiguousarray(np.asarray(samples, np.int16).reshape(-1)), int(rate), speed)
        cut_off = any("max_mel_tokens" in str(warning.message) for warning in said)
        return replace(speech, defect="cut_off" if cut_off else _defect(speech, item.expected_s / speed))


def _defect(speech: Speech, expected_s: float) -> str | None:
    """What is wrong with it, as far as its level and length tell."""
    if np.abs(speech.samples.astype(np.int32)).max(initial=0) < PEAK_OF_SILENCE:
        return "silent"
    if expected_s >= SHORTEST_EXPECTED_S and speech.duration_s < TOO_SHORT * expected_s:
        return "too_short"
    return None  # one that is too long was cut off


def _emotion(item: SynthesizeItem) -> dict[str, Any]:
    """The arguments for it. Where several are given the original takes text before vector before recording, and so do we."""
    if item.emotion_text is not None:
        return {"use_emo_text": True, "emo_text": item.emotion_text, "emo_alpha": item.emotion_strength}
    vector = item.emotion_vector
    if vector is None and item.emotion_reference is None and item.emotion != "neutral":
        vector = tuple(float(name == item.emotion) for name in EMOTIONS if name != "neutral")
    if vector is not None:
        scale = min(1.0, MAX_EMOTION / max(sum(vector), MAX_EMOTION))
        return {"emo_vector": [value * scale for value in vector], "emo_alpha": item.emotion_strength}
    if item.emotion_reference is not None:
        return {"emo_audio_prompt": item.emotion_reference, "emo_alpha": item.emotion_strength}
    return {}


def seed_everything(seed: int) -> None:
    """Set every generator that it may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed % 2**63)  # of every device


def _silenced() -> redirect_stdout[Any]:
    """It prints the text that it was given, and a user's text has no place in a log."""
    return redirect_stdout(_Nowhere())


class _Nowhere:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass
