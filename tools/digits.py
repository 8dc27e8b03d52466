"""Strings of digits in English and Mandarin: what the small SenseVoice of the tests hears and writes.

Which pieces it knows at which ids, how a string of digits is spoken by espeak-ng and how it is written, and how the compact
file of its weights becomes a release directory. `tools/train_digits.py` makes that file.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import espeakng_loader
import numpy as np
import soxr
import torch

from steadyvoice.protocol import FloatArray, ItemError, Speech, SynthesizeItem
from steadyvoice.worker.synthesizers.espeak import EspeakSynthesizer
from tools.sensevoice_release import TAG_IDS, VOCABULARY, write_release

SAMPLE_RATE = 16_000
LANGUAGES = ("en", "zh")
WORDS = {
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "zh": tuple("零一二三四五六七八九"),
}
FULL_STOP = {"en": ".", "zh": "。"}
PAUSE = {"en": ", ", "zh": "，"}
EMOTION_TAGS = {"neutral": "NEUTRAL", "happy": "HAPPY", "sad": "SAD"}  # of espeak's emotions, those told apart by ear
# Speakers kept from the training in that language, to see how it does with strangers: it mistakes their emotions.
UNHEARD_VOICES = {("m2", "en"), ("Annie", "zh")}

# As FunASR's inference takes them: rows of `embed`.
LANGUAGE_QUERIES = {"auto": 0, "zh": 3, "en": 4}
EVENT_AND_EMOTION_QUERIES = (1, 2)
STYLE_QUERIES = {"withitn": 14, "woitn": 15}

ENCODER = {"output_size": 64, "attention_heads": 4, "linear_units": 256, "num_blocks": 4, "tp_blocks": 2}

PIECES = (
    *"0123456789",
    *(f"▁{word}" for word in WORDS["en"]),
    *WORDS["zh"],
    *FULL_STOP.values(),
)
TAGS = (
    *("zh", "en", "nospeech", "NEUTRAL", "HAPPY", "SAD", "EMO_UNKNOWN"),
    *("Speech", "BGM", "Event_UNK", "withitn", "woitn"),
)
# Spread over all ids that are not special, from the first (3) to the last before the tags (24883), so that whoever confuses
# neighbouring or truncated ids is found out.
PIECE_IDS = {piece: 3 + 24_880 * place // (len(PIECES) - 1) for place, piece in enumerate(PIECES)}
# The model is trained with these classes alone; place in this list -> token id. 0 is CTC's blank.
CLASS_IDS = (0, *PIECE_IDS.values(), *(TAG_IDS[tag] for tag in TAGS))
CLASSES = {name: place for place, name in enumerate((*PIECES, *TAGS), start=1)}
NEVER = -1e4  # logit of every id that is no class


def say(digits: str, language: str, speaker: str = "f1", emotion: str = "neutral", speed: float = 1.0) -> FloatArray:
    """Speak a string of digits with espeak-ng.

    Args:
        digits: "0".."9"; a space is a pause.
        language: "en" or "zh".
        speaker: one of `steadyvoice.engine_specs.ESPEAK.speakers`; the model knows all but `UNHEARD_VOICES`, and does worst with
            Andrea's Mandarin, which is half again as fast as the others'.
        emotion: one of `EMOTION_TAGS`, at full strength.
        speed: 2.0 takes half the time.

    Returns:
        float32 [n] at 16 kHz in -1..1; espeak's pauses are near 0 but, after resampling, seldom exactly 0.
    """
    between = " " if language == "en" else ""
    groups = [between.join(WORDS[language][int(digit)] for digit in group) for group in digits.split()]
    item = SynthesizeItem(PAUSE[language].join(groups), language, speaker, emotion, emotion_strength=1.0, speed=speed)
    synthesizer = EspeakSynthesizer()
    ctypes.CDLL(espeakng_loader.get_library_path()).espeak_ng_SetRandSeed(ctypes.c_long(0))  # by itself, it takes the clock's
    (outcome,) = synthesizer.run([item.to_payload()])
    if isinstance(outcome, ItemError):
        raise ValueError(outcome.message)
    speech = Speech.from_payload(outcome)
    return soxr.resample(speech.samples.astype(np.float32) / 32_768, speech.sample_rate, SAMPLE_RATE)


def pieces_of(digits: str, language: str, itn: bool) -> list[str]:
    """The pieces that stand for a string of digits: "1", "2", "." with ITN, "▁one", "▁two" without. None for no digits."""
    spoken = digits.replace(" ", "")
    if not spoken:
        return []
    if itn:
        return [*spoken, FULL_STOP[language]]
    marker = "▁" if language == "en" else ""
    return [marker + WORDS[language][int(digit)] for digit in spoken]


def written(digits: str, language: str, itn: bool) -> str:
    """The text that stands for a string of digits: "12." or "12。" with ITN, "one two" or "一二" without."""
    return "".join(pieces_of(digits, language, itn)).replace("▁", " ").strip()


def expand(fixture: Path, folder: Path) -> None:
    """Make `folder` a release directory with the weights of `fixture`, as `tools/train_digits.py` wrote it.

    The fixture has the rows of the last layer that belong to `CLASS_IDS`; every other row is zero with a bias that never wins.
    """
    with np.load(fixture) as stored:
        weights = {name: torch.from_numpy(stored[name].astype(np.float32)) for name in stored.files}
    mean, scale = weights.pop("mean"), weights.pop("scale")
    ids = torch.tensor(CLASS_IDS)
    rows, bias = weights["ctc.ctc_lo.weight"], weights["ctc.ctc_lo.bias"]
    weights["ctc.ctc_lo.weight"] = torch.zeros(VOCABULARY, rows.shape[1]).index_copy(0, ids, rows)
    weights["ctc.ctc_lo.bias"] = torch.full((VOCABULARY,), NEVER).index_copy(0, ids, bias)
    write_release(folder, weights, {number: piece for piece, number in PIECE_IDS.items()}, ENCODER, mean, scale)
