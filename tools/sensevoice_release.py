"""Writes directories in the format of the SenseVoiceSmall release, where the released weights cannot be had.

What it writes is read by FunASR's `AutoModel(model=folder)` and by our own recogniser alike: config.yaml, configuration.json,
am.mvn, a sentencepiece model of 25,055 pieces with the tags at their released ids, and model.pt, a plain fp32 state dict.

`python tools/sensevoice_release.py FOLDER` writes one at full size (936 MB) with random weights: it says nothing of words, and
everything of speed, memory and equality.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from sentencepiece import sentencepiece_model_pb2 as spm_format
from torch import Tensor

VOCABULARY = 25_055
FEATURES = 560  # 80 mel bands x 7 stacked frames
QUERIES = 16  # rows of `embed`
BPE_MODEL = "chn_jpn_yue_eng_ko_spectok.bpe.model"

# As released; a smaller model overrides some of it.
FULL_SIZE = {
    "output_size": 512,
    "attention_heads": 4,
    "linear_units": 2048,
    "num_blocks": 50,
    "tp_blocks": 20,
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
    "attention_dropout_rate": 0.1,
    "input_layer": "pe",
    "pos_enc_class": "SinusoidalPositionEncoder",
    "normalize_before": True,
    "kernel_size": 11,
    "sanm_shfit": 0,
    "selfattention_layer_type": "sanm",
}

# fmt: off
TAG_IDS = {
    "zh": 24884, "en": 24885, "yue": 24888, "ja": 24892, "ko": 24896, "nospeech": 24992,
    "Speech": 24993, "/Speech": 24994, "BGM": 24995, "/BGM": 24996, "Laughter": 24997, "/Laughter": 24998,
    "Applause": 24999, "/Applause": 25000, "HAPPY": 25001, "SAD": 25002, "ANGRY": 25003, "NEUTRAL": 25004,
    "FEARFUL": 25005, "DISGUSTED": 25006, "SURPRISED": 25007, "OTHER": 25008, "EMO_UNKNOWN": 25009, "Cry": 25010,
    "Sneeze": 25011, "Breath": 25012, "Cough": 25013, "Sing": 25014, "Speech_Noise": 25015, "withitn": 25016,
    "woitn": 25017, "GBG": 25018, "Event_UNK": 25019,
}
# fmt: on
LANGUAGE_TAGS = range(24884, 24992)  # most stand for languages that the model was not trained to write


def write_release(
    folder: Path,
    weights: Mapping[str, Tensor],
    pieces: Mapping[int, str],
    encoder: Mapping[str, Any],
    mean: Tensor,
    scale: Tensor,
) -> None:
    """Make `folder` a release directory.

    Args:
        folder: made if it does not exist.
        weights: FunASR's state dict of SenseVoiceSmall, fp32; `ctc.ctc_lo.weight` is [25055, output_size].
        pieces: token id -> sentencepiece piece ("▁one", "一"); ids that are not named get a piece that nobody writes.
        encoder: what differs from `FULL_SIZE`.
        mean: float32 [80], subtracted from the log mel energies.
        scale: float32 [80], multiplied with them afterwards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "encoder": "SenseVoiceEncoderSmall",
        "encoder_conf": {**FULL_SIZE, **encoder},
        "model": "SenseVoiceSmall",
        "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
        "tokenizer": "SentencepiecesTokenizer",
        "tokenizer_conf": {"bpemodel": None, "unk_symbol": "<unk>", "split_with_space": True},
        "frontend": "WavFrontend",
        "frontend_conf": {
            "fs": 16_000,
            "window": "hamming",
            "n_mels": 80,
            "frame_length": 25,
            "frame_shift": 10,
            "lfr_m": 7,
            "lfr_n": 6,
            "cmvn_file": None,
        },
    }
    paths = {
        "init_param": "model.pt",
        "config": "config.yaml",
        "tokenizer_conf": {"bpemodel": BPE_MODEL},
        "frontend_conf": {"cmvn_file": "am.mvn"},
    }
    described = {"framework": "pytorch", "task": "auto-speech-recognition", "model": {"type": "funasr"}, "file_path_metas": paths}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    (folder / "configuration.json").write_text(json.dumps(described, indent=2), encoding="utf-8")
    (folder / "am.mvn").write_text(kaldi_mvn(mean, scale), encoding="utf-8")
    (folder / BPE_MODEL).write_bytes(sentencepiece_model(pieces))
    torch.save({name: tensor.float().contiguous() for name, tensor in weights.items()}, folder / "model.pt")


def kaldi_mvn(mean: Tensor, scale: Tensor) -> str:
    """Kaldi's nnet text of a shift and a scale of 560 values: the 80 given ones seven times."""
    rows = {"AddShift": (-mean).tolist() * 7, "Rescale": scale.tolist() * 7}
    layers = [
        f"<{name}> {FEATURES} {FEATURES}\n<LearnRateCoef> 0 [ {' '.join(f'{value:.7g}' for value in row)} ]"
        for name, row in rows.items()
    ]
    return f"<Nnet>\n<Splice> {FEATURES} {FEATURES}\n[ 0 ]\n" + "\n".join(layers) + "\n</Nnet>\n"


def sentencepiece_model(pieces: Mapping[int, str]) -> bytes:
    """A sentencepiece model with the given pieces, the tags at their released ids, and a word of its own at any other id."""
    model = spm_format.ModelProto()
    model.trainer_spec.model_type = spm_format.TrainerSpec.UNIGRAM
    model.trainer_spec.vocab_size = VOCABULARY
    tags = {number: f"<|{name}|>" for name, number in TAG_IDS.items()}
    languages = {number: f"<|lang{number}|>" for number in LANGUAGE_TAGS if number not in tags}
    special = {0: "<unk>", 1: "<s>", 2: "</s>"}
    kinds = spm_format.ModelProto.SentencePiece
    for number in range(VOCABULARY):
        piece = model.pieces.add()
        piece.score = -float(number)
        if number in special:
            piece.piece = special[number]
            piece.type = kinds.UNKNOWN if number == 0 else kinds.CONTROL
        elif number in tags or number in languages:
            piece.piece = tags.get(number) or languages[number]
            piece.type = kinds.USER_DEFINED
        else:
            piece.piece = pieces.get(number) or (f"▁w{number}" if number % 3 else f"x{number}")
            piece.type = kinds.NORMAL
    return model.SerializeToString()


def random_weights(encoder: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """FunASR's own initial weights for these dimensions, seeded."""
    from funasr.models.sense_voice.model import SenseVoiceSmall

    torch.manual_seed(seed)
    conf = {**FULL_SIZE, **encoder}
    model = SenseVoiceSmall(
        encoder="SenseVoiceEncoderSmall",
        encoder_conf=conf,
        input_size=FEATURES,
        vocab_size=VOCABULARY,
        length_normalized_loss=True,
    )
    return dict(model.state_dict())


def write_random_release(folder: Path, seed: int = 0, **encoder: Any) -> None:
    """A release directory with random weights; `encoder` overrides dimensions of `FULL_SIZE`."""
    # About what speech gives: log energies around 9 with a deviation of 5.
    write_release(folder, random_weights(encoder, seed), {}, encoder, torch.full((80,), 9.0), torch.full((80,), 0.2))


def main() -> None:
    parser = argparse.ArgumentParser(description="write a full-size SenseVoiceSmall release directory with random weights")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_random_release(options.folder, options.seed)


if __name__ == "__main__":
    main()
