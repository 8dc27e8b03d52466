"""SenseVoiceSmall from a release directory, on our own forward pass: the same text as FunASR gives, several times as fast.

Reads config.yaml, am.mvn, the sentencepiece model and model.pt as they were released. Tells language, emotion and sound
events, and where each word is. Imports torch, numpy, sentencepiece and PyYAML only.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor

from steadyvoice.protocol import (
    ItemError,
    Items,
    ModelInfo,
    Outcome,
    Payload,
    Recognition,
    RecognizeItem,
    Scores,
    TokenScore,
    Word,
)
from steadyvoice.worker.recognizers.sensevoice.encoder import BLANK, QUERIES, EncoderConfig
from steadyvoice.worker.recognizers.sensevoice.filterbank import FilterBank, FilterBankConfig, read_mvn
from steadyvoice.worker.recognizers.sensevoice.tags import emotion_of, events_of, language_of
from steadyvoice.worker.recognizers.sensevoice.weights import choose_precision, load_network

log = logging.getLogger("steadyvoice.worker")

# Rows of `embed`, as FunASR's SenseVoiceSmall numbers them.
LANGUAGE_QUERIES = {"auto": 0, "zh": 3, "en": 4, "yue": 7, "ja": 11, "ko": 12}
EVENT_QUERY, EMOTION_QUERY = 1, 2
ITN_QUERIES = {True: 14, False: 15}

TAG = re.compile(r"<\|(.+)\|>")
WORD_START = "▁"
# Kana and Chinese characters: a word each. Hangul is written with spaces.
IDEOGRAPH = re.compile(r"[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
NO_SPEECH = "nospeech"  # one of the languages
PUNCTUATION = ' ,.?!;:、。，？！；：…「」“”"'

MAX_BATCH_ITEMS = {"cpu": 32, "cuda": 256}
# On a CPU a forward pass is as fast as it gets from here on, and padding only costs.
CPU_ROWS = 512
CPU_PADDING = 0.1  # of a forward's rows


@dataclass(frozen=True)
class Token:
    """One token of the greedy path and the rows [start, end) that it was read from, the first row after the queries being 0."""

    id: int
    start: int
    end: int


class SenseVoiceRecognizer:
    """See `steadyvoice.worker.registry.Model`. Not thread-safe."""

    def __init__(self, directory: str, precision: str = "auto", device: str = "auto", revision: str = "local") -> None:
        """
        Args:
            directory: the release.
            precision: auto, fp32, bf16, fp16 or int8; see `choose_precision`.
            device: cpu, cuda, or auto: the GPU if there is one, except for int8, which only CPUs compute.
            revision: of the release, if it is known.

        Raises:
            FileNotFoundError: the release lacks a file.
            ValueError: it is not a SenseVoiceSmall, or the device cannot compute in that precision.
            RuntimeError: the weights do not fit the configuration.
        """
        release = Path(directory)
        config = yaml.safe_load((release / "config.yaml").read_text(encoding="utf-8"))
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() and precision != "int8" else "cpu"
        self.device = torch.device(device)
        self.precision = choose_precision(precision, self.device)
        shift, scale = read_mvn(release / "am.mvn")
        known = FilterBankConfig.__dataclass_fields__
        front = FilterBankConfig(**{k: v for k, v in config["frontend_conf"].items() if k in known})
        self.filterbank = FilterBank(front, shift, scale, self.device)
        self.network = load_network(
            release / "model.pt", EncoderConfig.from_release(config["encoder_conf"]), self.precision, self.device
        )
        self._pieces = SentencePieceProcessor(model_file=str(_bpe_model(release)))
        if len(self._pieces) != self.network.vocabulary:
            raise ValueError(f"the sentencepiece model has {len(self._pieces)} pieces, the network {self.network.vocabulary}")
        names = (TAG.fullmatch(self._pieces.id_to_piece(number)) for number in range(len(self._pieces)))
        self._tags = {number: match[1] for number, match in enumerate(names) if match}
        self._no_speech = next((number for number, tag in self._tags.items() if tag == NO_SPEECH), None)
        self.info = ModelInfo("sensevoice", revision, MAX_BATCH_ITEMS[self.device.type])
        log.info("SenseVoiceSmall on %s in %s", self.device, self.precision)

    def run(self, items: Items) -> Iterator[Outcome]:
        """One outcome per item, in order; items of similar length share a forward pass."""
        outcomes: list[Outcome | None] = [None] * len(items)
        good: dict[int, RecognizeItem] = {}
        for index, payload in enumerate(items):
            item = RecognizeItem.from_payload(payload)
            outcomes[index] = _problem(item)
            if outcomes[index] is None:
                good[index] = item
        lengths = {index: len(item.samples) for index, item in good.items()}
        answered = 0
        for group in self._groups(lengths):
            for index, recognition in zip(group, self.recognize([good[index] for index in group]), strict=True):
                outcomes[index] = recognition.to_payload()
            while answered < len(items) and (outcome := outcomes[answered]) is not None:
                yield outcome
                answered += 1
        yield from (outcome for outcome in outcomes[answered:] if outcome is not None)

    def example(self, seconds: float) -> Payload:
        """Noise of that length, to measure on."""
        samples = np.random.default_rng(0).normal(0, 0.1, int(seconds * self.filterbank.config.fs))
        return RecognizeItem(samples.astype(np.float32)).to_payload()

    def recognize(self, items: Sequence[RecognizeItem]) -> list[Recognition]:
        """One forward pass."""
        features, rows = self._features(items)
        scored = self.network.scored(features, rows, queries_of(items, self.device))
        recognitions = []
        for item, (path, logprobs, told) in zip(items, scored, strict=True):
            no_speech = 0.0 if self._no_speech is None else float(told[self._no_speech])
            # Samples far beyond -1..1 give NaN, which is no score, and no JSON either.
            certainty = np.nan_to_num(logprobs.numpy())
            recognitions.append(self._recognition(item, path.numpy(), certainty, float(np.nan_to_num(no_speech))))
        return recognitions

    def token_paths(self, items: Sequence[RecognizeItem]) -> list[NDArray[np.int64]]:
        """The best token of every row of each item, blanks and the four rows of the queries included: int64 [4 + rows]."""
        features, rows = self._features(items)
        return [path.numpy() for path in self.network(features, rows, queries_of(items, self.device))]

    def _features(self, items: Sequence[RecognizeItem]) -> tuple[torch.Tensor, list[int]]:
        return self.filterbank([torch.tensor(item.samples) for item in items])  # off the pipe they are read-only

    def _groups(self, lengths: Mapping[int, int]) -> list[list[int]]:
        """Which items share a forward pass: on a GPU all, on a CPU those of similar length, and not too many of them."""
        if self.device.type != "cpu":
            return [list(lengths)] if lengths else []
        row = self.filterbank.config.fs * self.filterbank.row_s
        groups: list[list[int]] = []
        for index in sorted(lengths, key=lambda index: -lengths[index]):
            if groups:
                members = [lengths[member] for member in groups[-1]] + [lengths[index]]
                padded = members[0] * len(members)
                if padded / row <= CPU_ROWS and sum(members) >= (1 - CPU_PADDING) * padded:
                    groups[-1].append(index)
                    continue
            groups.append([index])
        return sorted(groups, key=min)  # so that the first answers leave first

    def _recognition(
        self, item: RecognizeItem, path: NDArray[np.int64], logprobs: NDArray[np.float32], no_speech: float
    ) -> Recognition:
        tokens = collapse(path)
        tags = [self._tags[token.id] for token in tokens if token.id in self._tags]
        text = [token for token in tokens if token.id not in self._tags]
        return Recognition(
            text=self._pieces.decode([token.id for token in text]).strip(),
            language=language_of(tags),
            emotion=emotion_of(tags),
            events=events_of(tags),
            words=tuple(self._words(text, len(item.samples) / self.filterbank.config.fs)),
            scores=self._scores(text, logprobs, no_speech, item.logprobs),
        )

    def _scores(self, tokens: Sequence[Token], logprobs: NDArray[np.float32], no_speech: float, each: bool) -> Scores:
        """`each`: of each token too. A token's log probability is the mean of the rows that it was read from."""
        rows = ((token.start + QUERIES, max(token.end, token.start + 1) + QUERIES) for token in tokens)
        means = [float(logprobs[start:end].mean()) for start, end in rows]
        return Scores(
            tokens=tuple(token.id for token in tokens),
            avg_logprob=round(float(np.mean(means)), 6) if means else 0.0,
            no_speech_prob=round(no_speech, 6),
            logprobs=tuple(
                TokenScore(self._pieces.id_to_piece(token.id).replace(WORD_START, " "), round(mean, 6))
                for token, mean in zip(tokens, means, strict=True)
                if each
            ),
        )

    def _words(self, tokens: Sequence[Token], seconds: float) -> Iterator[Word]:
        """Tokens -> words without punctuation.

        A row is centred on its time, so a token reaches half a row beyond its rows on either side, as FunASR's time stamps do.
        """
        row_s = self.filterbank.row_s
        for word in self._grouped_into_words(tokens):
            text = self._pieces.decode([token.id for token in word]).strip(PUNCTUATION)
            # A full stop is heard after the pause; the word ends before it.
            heard = [token for token in word if self._pieces.decode([token.id]).strip(PUNCTUATION)]
            if text and heard:
                start, end = ((rows - 0.5) * row_s for rows in (heard[0].start, heard[-1].end))
                yield Word(text, round(min(max(start, 0.0), seconds), 3), round(min(max(end, 0.0), seconds), 3))

    def _grouped_into_words(self, tokens: Sequence[Token]) -> Iterator[list[Token]]:
        word: list[Token] = []
        after_ideograph = False
        for token in tokens:
            piece = self._pieces.id_to_piece(token.id)
            ideograph = IDEOGRAPH.search(piece) is not None
            if word and (piece.startswith(WORD_START) or ideograph or after_ideograph):
                yield word
                word = []
            word.append(token)
            after_ideograph = ideograph
        if word:
            yield word


def collapse(path: NDArray[np.int64]) -> list[Token]:
    """CTC's greedy rule: a run of one token is one token, blanks are none. Tokens of the queries' rows count as at row 0."""
    starts = np.flatnonzero(np.diff(path, prepend=-1))
    ends = np.append(starts[1:], len(path))
    runs = zip(path[starts].tolist(), (starts - QUERIES).tolist(), (ends - QUERIES).tolist(), strict=True)
    return [Token(number, max(start, 0), max(end, 0)) for number, start, end in runs if number != BLANK]


def queries_of(items: Sequence[RecognizeItem], device: torch.device) -> torch.Tensor:
    """Int64 [items, 4]: language, event, emotion, text normalisation."""
    rows = [(LANGUAGE_QUERIES[item.language], EVENT_QUERY, EMOTION_QUERY, ITN_QUERIES[item.use_itn]) for item in items]
    return torch.tensor(rows, device=device)


def _problem(item: RecognizeItem) -> ItemError | None:
    if item.language not in LANGUAGE_QUERIES:
        return ItemError("invalid", f"language {item.language!r} is unknown; known: {', '.join(LANGUAGE_QUERIES)}")
    if not np.isfinite(item.samples).all():
        return ItemError("invalid", "the audio has samples that are not numbers")
    return None


def _bpe_model(release: Path) -> Path:
    found = sorted(release.glob("*.bpe.model"))
    if not found:
        raise FileNotFoundError(f"{release.name} has no sentencepiece model (*.bpe.model)")
    return found[0]
