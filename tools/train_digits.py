"""Trains the small SenseVoice of the tests: FunASR's own model and losses, on digits that espeak-ng speaks.

`python tools/train_digits.py [OUT]` writes OUT/sensevoice_digits.npz (weights as float16) and OUT/sensevoice_digits.json (how it
was made, how well it does); OUT is tests/data unless given. Seeded, one thread, about half an hour on one core.

The accuracies are measured on the rounded weights, expanded to a release directory and run by FunASR's AutoModel.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from funasr import AutoModel  # noqa: E402
from funasr.frontends.wav_frontend import WavFrontend  # noqa: E402
from funasr.models.sense_voice.model import SenseVoiceSmall  # noqa: E402

from steadyvoice.engine_specs import ESPEAK  # noqa: E402
from steadyvoice.protocol import FloatArray  # noqa: E402
from tools.digits import (  # noqa: E402
    CLASS_IDS,
    CLASSES,
    EMOTION_TAGS,
    ENCODER,
    EVENT_AND_EMOTION_QUERIES,
    LANGUAGE_QUERIES,
    LANGUAGES,
    SAMPLE_RATE,
    STYLE_QUERIES,
    UNHEARD_VOICES,
    expand,
    pieces_of,
    say,
    written,
)
from tools.sensevoice_release import FEATURES, FULL_SIZE  # noqa: E402

log = logging.getLogger("train_digits")

SEED = 20_250_101
SPOKEN = 12_000  # utterances that espeak speaks for training
MIXES = 2  # times that each is mixed with a background of its own
WITHOUT_SPEECH = 3_000
EPOCHS = 10
BATCH = 32
PEAK_RATE, WARM_UP_STEPS = 2e-3, 500
DROPOUT = 0.05

SPEEDS = (0.7, 1.6)
HEAD_SIZES = (0.93, 1.07)  # playing a voice this much faster makes more voices of it
FILE_RATES = (8_000, 11_025, 12_000, 14_000)  # of telephones and old files; and about what MP3 leaves
CROSS_SHARE = 0.15  # of the speech, asked for in the other language
AUTO_SHARE = 0.3  # of the rest, with no language given
MINIMUM_S_PER_DIGIT = 0.12  # two frames of 60 ms: what is spoken faster can hardly be written, with a blank between equals

Random = np.random.Generator


@dataclass(frozen=True)
class Clip:
    """Samples float32 [n] at 16 kHz and what is true of them. Without speech, `digits` is empty."""

    samples: FloatArray
    digits: str = ""
    language: str = "nospeech"
    emotion: str = "EMO_UNKNOWN"
    event: str = "Event_UNK"


# --- What is said
# ------------------------------------------------------------------------------


def heard_voices() -> list[tuple[str, str]]:
    """Speaker and language, of all that are trained on."""
    voices = [(speaker, language) for speaker in ESPEAK.speakers for language in LANGUAGES]
    return [voice for voice in voices if voice not in UNHEARD_VOICES]


def random_digits(random: Random, longest: int = 8) -> str:
    """1..longest digits, some followed by a space."""
    count = int(random.integers(1, longest + 1))
    return "".join(str(random.integers(10)) + " " * (random.random() < 0.15) for _ in range(count)).strip()


def spoken_clip(
    random: Random, voices: Sequence[tuple[str, str]], speeds: tuple[float, float] = SPEEDS, longest: int = 8
) -> Clip:
    """A random string by one of the voices (speaker, language), as espeak speaks it."""
    while True:
        speaker, language = voices[random.integers(len(voices))]
        emotion = str(random.choice(list(EMOTION_TAGS)))
        digits = random_digits(random, longest)
        samples = say(digits, language, speaker, emotion, speed=random.uniform(*speeds))
        if len(samples) > len(digits) * MINIMUM_S_PER_DIGIT * SAMPLE_RATE:
            return Clip(samples, digits, language, EMOTION_TAGS[emotion], "Speech")


# --- What is heard besides
# ------------------------------------------------------------------------------


def rms(samples: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def noise(random: Random, count: int) -> FloatArray:
    """White or pink noise or mains hum, float32 [count], root mean square 1."""
    kind = random.integers(3)
    if kind == 2:
        mains = random.choice([50.0, 60.0])
        times = np.arange(count) / SAMPLE_RATE
        harmonics = [random.uniform(0.1, 1) / k * np.sin(2 * np.pi * (mains * k * times + random.random())) for k in range(1, 6)]
        samples = np.sum(harmonics, axis=0)
    else:
        samples = random.standard_normal(count)
        if kind == 1:
            spectrum = np.fft.rfft(samples)
            samples = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), count)
    return (samples / rms(samples)).astype(np.float32)


def music(random: Random, count: int) -> FloatArray:
    """Chords of struck or held notes, float32 [count], root mean square 1."""
    samples = np.zeros(count)
    start = 0
    while start < count:
        length = min(int(random.uniform(0.15, 0.8) * SAMPLE_RATE), count - start)
        times = np.arange(length) / SAMPLE_RATE
        envelope = np.exp(-times * random.choice([0.0, 2.0, 6.0])) * np.minimum(1, times / 0.01)
        for _ in range(random.integers(1, 4)):
            pitch = 110 * 2 ** (random.integers(0, 48) / 12)  # A2 to A6, by semitones
            for harmonic in range(1, random.integers(2, 6)):
                samples[start : start + length] += envelope * np.sin(2 * np.pi * pitch * harmonic * times) / harmonic**1.5
        start += length
    return (samples / rms(samples)).astype(np.float32)


def decibels(level: float) -> float:
    return float(10 ** (level / 20))


def with_surroundings(clip: Clip, random: Random) -> Clip:
    """The clip between silences, at another volume, maybe over noise and music, as a microphone or a file would give it."""
    samples = clip.samples
    if random.random() < 0.5:
        samples = soxr.resample(samples, SAMPLE_RATE * random.uniform(*HEAD_SIZES), SAMPLE_RATE)
    level = rms(samples)
    longest = random.choice([0, 0.5, 4], p=[0.3, 0.65, 0.05])
    samples = np.pad(samples, [(int(random.uniform(0, longest) * SAMPLE_RATE), int(random.uniform(0, longest) * SAMPLE_RATE))])
    event = clip.event
    if random.random() < 0.6:
        samples = samples + level * decibels(-random.uniform(10, 40)) * noise(random, len(samples))
    if event == "Speech" and random.random() < 0.2:
        samples = samples + level * decibels(-random.uniform(8, 20)) * music(random, len(samples))
        event = "BGM"
    if random.random() < 0.25:
        rate = random.choice(FILE_RATES)
        samples = soxr.resample(soxr.resample(samples, SAMPLE_RATE, rate), rate, SAMPLE_RATE)
    samples = samples * decibels(-random.uniform(0, 30)) / np.abs(samples).max()
    finish = random.random()
    if finish < 0.7:  # a file of 16 bits, with dither in some
        dither = random.standard_normal(len(samples)) if finish < 0.3 else 0
        samples = np.round(samples * 32_767 + dither) / 32_768
    return replace(clip, samples=samples.astype(np.float32), event=event)


def clip_without_speech(random: Random) -> Clip:
    """Digital silence, noise or music."""
    count = int(random.choice([random.uniform(0.05, 0.3), random.uniform(0.3, 6)]) * SAMPLE_RATE)
    kind = random.choice(["silence", "noise", "music"], p=[0.1, 0.45, 0.45])
    if kind == "silence":
        return Clip(np.zeros(count, np.float32))
    if kind == "music":
        return with_surroundings(Clip(music(random, count), event="BGM"), random)
    quieter = decibels(-random.uniform(0, 50))  # a room is seldom as loud as what is said in it
    clip = with_surroundings(Clip(noise(random, count)), random)
    return replace(clip, samples=clip.samples * np.float32(quieter))


# --- Features and labels
# ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """Features float16 [frames, 560], before their mean is taken off, and what is true of them."""

    features: Tensor
    digits: str
    language: str
    emotion: str
    event: str


def example_of(clip: Clip, frontend: WavFrontend) -> Example:
    features, _ = frontend(torch.from_numpy(clip.samples)[None], torch.tensor([len(clip.samples)]))
    return Example(features[0].half(), clip.digits, clip.language, clip.emotion, clip.event)


def label(example: Example, random: Random) -> tuple[list[int], list[int]]:
    """How the example is asked about, and what is to be answered.

    FunASR's own training takes the language query from the label and now and then none. That cannot say "the other language,
    and always asked for", nor "nothing was said, whatever was asked for"; so the queries are drawn here.

    Returns:
        Four rows of `embed`; classes: language, emotion, event, style, then the text.
    """
    itn = bool(random.random() < 0.5)
    style = "withitn" if itn else "woitn"
    told = example.language
    if not example.digits:
        asked = str(random.choice(["auto", *LANGUAGES]))
    elif random.random() < CROSS_SHARE:
        asked = told = next(other for other in LANGUAGES if other != example.language)
    else:
        asked = "auto" if random.random() < AUTO_SHARE else told
    queries = [LANGUAGE_QUERIES[asked], *EVENT_AND_EMOTION_QUERIES, STYLE_QUERIES[style]]
    text = [CLASSES[piece] for piece in pieces_of(example.digits, told, itn)]
    return queries, [CLASSES[told], CLASSES[example.emotion], CLASSES[example.event], CLASSES[style], *text]


def batches(examples: Sequence[Example], random: Random) -> Iterator[list[Example]]:
    """All examples in random batches of about equal lengths."""
    lengths = np.array([len(example.features) for example in examples])
    order = np.argsort(lengths * random.uniform(0.85, 1.15, len(lengths)))
    groups = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    for place in random.permutation(len(groups)):
        yield [examples[index] for index in groups[place]]


# --- Training
# ------------------------------------------------------------------------------


def new_model() -> SenseVoiceSmall:
    conf = {**FULL_SIZE, **ENCODER, "dropout_rate": DROPOUT, "attention_dropout_rate": DROPOUT}
    return SenseVoiceSmall(encoder="SenseVoiceEncoderSmall", encoder_conf=conf, input_size=FEATURES, vocab_size=len(CLASS_IDS))


def loss_of(model: SenseVoiceSmall, batch: Sequence[Example], mean: Tensor, scale: Tensor, random: Random) -> Tensor:
    """SenseVoiceSmall.forward with queries of our own: CTC on the text, cross entropy on the four rows before it."""
    labelled = [label(example, random) for example in batch]
    features = [(example.features.float() - mean) * scale for example in batch]
    lengths = torch.tensor([len(rows) for rows in features]) + 4
    text = pad_sequence([torch.tensor(classes) for _, classes in labelled], batch_first=True, padding_value=model.ignore_id)
    text_lengths = torch.tensor([len(classes) for _, classes in labelled])
    queries = model.embed(torch.tensor([rows for rows, _ in labelled]))
    encoded, lengths = model.encoder(torch.cat((queries, pad_sequence(features, batch_first=True)), dim=1), lengths)
    ctc, _ = model._calc_ctc_loss(encoded[:, 4:], lengths - 4, text[:, 4:], text_lengths - 4)
    rich, _ = model._calc_rich_ce_loss(encoded[:, :4], text[:, :4])
    return ctc + rich


def train(examples: Sequence[Example], mean: Tensor, scale: Tensor, random: Random) -> SenseVoiceSmall:
    """mean, scale: float32 [80]."""
    model = new_model()
    mean, scale = mean.repeat(7), scale.repeat(7)
    steps = EPOCHS * -(-len(examples) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=WARM_UP_STEPS / steps)
    model.train()
    for epoch in range(1, EPOCHS + 1):
        began, losses = time.monotonic(), []
        for batch in batches(examples, random):
            loss = loss_of(model, batch, mean, scale, random)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        log.info("epoch %d of %d: loss %.3f, %.0f s", epoch, EPOCHS, np.mean(losses), time.monotonic() - began)
    with torch.no_grad():  # a language that it never learnt to write is as good as none
        learnt = {*LANGUAGE_QUERIES.values(), *EVENT_AND_EMOTION_QUERIES, *STYLE_QUERIES.values()}
        for row in set(range(model.embed.num_embeddings)) - learnt:
            model.embed.weight[row] = model.embed.weight[LANGUAGE_QUERIES["auto"]]
    return model


def save(model: SenseVoiceSmall, mean: Tensor, scale: Tensor, path: Path) -> None:
    weights = {name: tensor.half().numpy() for name, tensor in model.state_dict().items()}
    np.savez_compressed(path, mean=mean.numpy(), scale=scale.numpy(), **weights)


# --- How well it does
# ------------------------------------------------------------------------------


class Recogniser:
    """FunASR's AutoModel on a release directory."""

    def __init__(self, folder: Path, dither: float) -> None:
        self._model = AutoModel(
            model=str(folder), device="cpu", ncpu=1, disable_update=True, disable_pbar=True, log_level="ERROR"
        )
        self._model.kwargs["frontend"].dither = dither

    def __call__(self, clip: Clip, language: str, itn: bool) -> tuple[list[str], str]:
        """The four tags and the text."""
        (answer,) = self._model.generate(input=clip.samples, language=language, use_itn=itn)
        tags = re.findall(r"<\|(.+?)\|>", answer["text"])
        return tags, re.sub(r"<\|.+?\|>", "", answer["text"]).strip()


def percent(right: Sequence[bool]) -> float:
    return round(100 * float(np.mean(right)), 1)


def scores(
    recognise: Recogniser, clips: Sequence[Clip], ask: Callable[[Clip], str], tell: Callable[[Clip], str]
) -> dict[str, Any]:
    """Per cent of the clips with the right text, all of it, and with each right tag.

    Args:
        ask: the language to ask for.
        tell: the language that the answer should be in.
    """
    right: dict[str, list[bool]] = {"text": [], "language": [], "emotion": [], "event": [], "style": []}
    for number, clip in enumerate(clips):
        itn = number % 2 == 0
        tags, text = recognise(clip, ask(clip), itn)
        expected = [tell(clip), clip.emotion, clip.event, "withitn" if itn else "woitn"]
        right["text"].append(text == written(clip.digits, tell(clip), itn))
        for row, (what, wanted) in enumerate(zip(("language", "emotion", "event", "style"), expected, strict=True)):
            right[what].append(tags[row : row + 1] == [wanted])
    return {"clips": len(clips), **{what: percent(values) for what, values in right.items()}}


def other(clip: Clip) -> str:
    """The language that is not spoken."""
    return next(language for language in LANGUAGES if language != clip.language)


def own(clip: Clip) -> str:
    return clip.language


def auto(_: Clip) -> str:
    return "auto"


def evaluate(folder: Path, random: Random) -> dict[str, Any]:
    """Every figure that is reported, on clips that were not trained on."""
    log.info("evaluating")
    heard = heard_voices()
    clean = [spoken_clip(random, heard) for _ in range(400)]
    noisy = [with_surroundings(clip, random) for clip in clean]
    unheard = [spoken_clip(random, sorted(UNHEARD_VOICES)) for _ in range(200)]
    slow = [spoken_clip(random, heard, speeds=(0.6, 0.7)) for _ in range(100)]
    long = [spoken_clip(random, heard, longest=60) for _ in range(100)]
    telephone = [
        replace(clip, samples=soxr.resample(soxr.resample(clip.samples, SAMPLE_RATE, 8_000), 8_000, SAMPLE_RATE))
        for clip in clean
    ]
    nothing = [clip_without_speech(random) for _ in range(300)]
    still, dithered = Recogniser(folder, dither=0.0), Recogniser(folder, dither=1.0)
    return {
        "clean, language given": scores(still, clean, own, own),
        "clean, auto": scores(still, clean, auto, own),
        "clean, the other language": scores(still, clean, other, other),
        "clean, auto, dither 1.0": scores(dithered, clean, auto, own),
        "with surroundings, language given": scores(still, noisy, own, own),
        "with surroundings, auto": scores(still, noisy, auto, own),
        "with surroundings, the other language": scores(still, noisy, other, other),
        "with surroundings, auto, dither 1.0": scores(dithered, noisy, auto, own),
        "clean, through 8 kHz, auto": scores(still, telephone, auto, own),
        "unheard voices, language given": scores(still, unheard, own, own),
        "unheard voices, auto": scores(still, unheard, auto, own),
        "slower than trained, auto": scores(still, slow, auto, own),
        "up to 60 digits, auto": scores(still, long, auto, own),
        "no speech, auto": scores(still, nothing, auto, own),
        "no speech, auto, dither 1.0": scores(dithered, nothing, auto, own),
        "no speech, language given": scores(still, nothing, lambda clip: LANGUAGES[len(clip.samples) % 2], own),
    }


def training_examples(frontend: WavFrontend, random: Random) -> list[Example]:
    began = time.monotonic()
    voices = heard_voices()
    examples = []
    for number in range(SPOKEN):
        clip = spoken_clip(random, voices, longest=30 if number % 12 == 0 else 8)
        examples += [example_of(with_surroundings(clip, random), frontend) for _ in range(MIXES)]
    examples += [example_of(clip_without_speech(random), frontend) for _ in range(WITHOUT_SPEECH)]
    log.info("%d examples in %.0f s", len(examples), time.monotonic() - began)
    return examples


def main() -> None:
    parser = argparse.ArgumentParser(description="train the small SenseVoice of the tests on spoken digits")
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "tests" / "data")
    out: Path = parser.parse_args().out
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)

    frontend = WavFrontend(n_mels=80, lfr_m=7, lfr_n=6, dither=0.0)
    examples = training_examples(frontend, random)
    mels = torch.cat([example.features[:, : 6 * 80].reshape(-1, 80).float() for example in examples])
    mean, scale = mels.mean(0), 1 / mels.std(0)
    del mels
    model = train(examples, mean, scale, random)
    trained_s = time.process_time()

    fixture = out / "sensevoice_digits.npz"
    save(model, mean, scale, fixture)
    with tempfile.TemporaryDirectory() as folder:
        expand(fixture, Path(folder))
        accuracy = evaluate(Path(folder), np.random.default_rng(SEED + 1))
    for name, figures in accuracy.items():
        log.info("%-40s %s", name, figures)
    report = {
        "made by": "python tools/train_digits.py",
        "seed": SEED,
        "encoder": ENCODER,
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "bytes": fixture.stat().st_size,
        "examples": len(examples),
        "epochs": EPOCHS,
        "processor seconds": round(trained_s),
        "kept from the training": sorted(f"{speaker} in {language}" for speaker, language in UNHEARD_VOICES),
        "per cent right, by FunASR's AutoModel on the rounded weights": accuracy,
    }
    (out / "sensevoice_digits.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
