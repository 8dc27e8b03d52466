from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steadyvoice.protocol import FloatArray, ItemError, Payload, Recognition, RecognizeItem
from steadyvoice.testing.sensevoice_reference import RATE, our_logits, random_items, reference_logits, speech
from steadyvoice.worker.recognizers.funasr_automodel import FunasrRecognizer
from steadyvoice.worker.recognizers.sensevoice.recognizer import (
    ITN_QUERIES,
    LANGUAGE_QUERIES,
    SenseVoiceRecognizer,
    collapse,
)
from steadyvoice.worker.registry import load_model

LOGITS_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def recognizer(random_release: Path) -> SenseVoiceRecognizer:
    return SenseVoiceRecognizer(str(random_release), "fp32", "cpu")


@pytest.mark.parametrize("count", [50, pytest.param(200, marks=pytest.mark.proof)])
def test_tokens_of_random_segments_are_funasr_s_alone_and_in_mixed_batches(
    recognizer: SenseVoiceRecognizer, funasr_on_random: FunasrRecognizer, count: int
) -> None:
    items = random_items(count, seed=1)
    mixed = [path for start in range(0, count, 5) for path in recognizer.token_paths(items[start : start + 5])]

    for item, in_batch in zip(items, mixed, strict=True):
        theirs = reference_logits(funasr_on_random, item)
        ours = our_logits(recognizer, item)
        assert (ours - theirs).abs().max() < LOGITS_TOLERANCE
        expected = theirs.argmax(dim=-1).tolist()
        assert ours.argmax(dim=-1).tolist() == expected
        assert in_batch.tolist() == expected


def test_text_and_tags_are_those_of_automodel_s_generate(
    recognizer: SenseVoiceRecognizer, funasr_on_random: FunasrRecognizer
) -> None:
    items = random_items(12, seed=2)

    ours = [Recognition.from_payload(o) for o in recognizer.run([i.to_payload() for i in items]) if isinstance(o, Payload)]
    theirs = [
        Recognition.from_payload(o) for o in funasr_on_random.run([i.to_payload() for i in items]) if isinstance(o, Payload)
    ]

    assert len(ours) == len(theirs) == 12
    for one, other in zip(ours, theirs, strict=True):
        assert (one.text, one.language, one.emotion, one.events) == (other.text, other.language, other.emotion, other.events)


@pytest.mark.parametrize("use_itn", ITN_QUERIES)
@pytest.mark.parametrize("language", LANGUAGE_QUERIES)
def test_each_item_asks_with_its_own_language_and_itn(
    recognizer: SenseVoiceRecognizer, funasr_on_random: FunasrRecognizer, language: str, use_itn: bool
) -> None:
    samples = speech()[: 2 * RATE]
    others = [RecognizeItem(samples, other, not use_itn) for other in LANGUAGE_QUERIES]

    paths = recognizer.token_paths([RecognizeItem(samples, language, use_itn), *others])

    raw = funasr_on_random.generate(RecognizeItem(samples, language, use_itn))["text"]
    assert recognizer._pieces.decode([token.id for token in collapse(paths[0])]) == raw
    assert any(path.tolist() != paths[0].tolist() for path in paths[1:])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(np.zeros(RATE, np.float32), id="silence"),
        pytest.param(np.zeros(0, np.float32), id="nothing"),
        pytest.param(np.zeros(1, np.float32), id="one sample"),
        pytest.param(np.ones(RATE // 20, np.float32), id="0.05 s at full scale"),
        pytest.param(np.random.default_rng(0).normal(0, 1, RATE).astype(np.float32), id="loud noise"),
        pytest.param(np.sin(np.arange(5 * RATE) / 8).astype(np.float32), id="a tone"),
        pytest.param(np.full(RATE, 1e30, np.float32), id="absurd samples"),
    ],
)
def test_whatever_is_not_speech_is_answered(random_release: Path, samples: FloatArray, precision: str) -> None:
    recognizer = SenseVoiceRecognizer(str(random_release), precision, "cpu")

    (outcome,) = recognizer.run([RecognizeItem(samples).to_payload()])

    assert isinstance(outcome, Payload)
    words = Recognition.from_payload(outcome).words
    assert all(0 <= word.start <= word.end <= len(samples) / RATE for word in words)


def test_a_bad_item_harms_no_other(recognizer: SenseVoiceRecognizer) -> None:
    good = RecognizeItem(speech()[:RATE])
    bad = RecognizeItem(np.array([0.1, np.nan, 0.2] * RATE, np.float32))
    unknown = RecognizeItem(speech()[:RATE], "tlh")

    outcomes = list(recognizer.run([item.to_payload() for item in (bad, good, unknown, good)]))

    assert isinstance(outcomes[0], ItemError)
    assert "not numbers" in outcomes[0].message
    assert isinstance(outcomes[2], ItemError)
    assert "tlh" in outcomes[2].message
    assert outcomes[1] == outcomes[3] == next(iter(recognizer.run([good.to_payload()])))


def test_answers_come_in_the_order_of_the_items_whatever_their_length(recognizer: SenseVoiceRecognizer) -> None:
    items = random_items(20, seed=3)

    together = list(recognizer.run([item.to_payload() for item in items]))

    assert together == [next(iter(recognizer.run([item.to_payload()]))) for item in items]


def test_no_item_is_no_work(recognizer: SenseVoiceRecognizer) -> None:
    assert list(recognizer.run([])) == []


def test_on_a_cpu_only_similar_lengths_share_a_forward_pass(recognizer: SenseVoiceRecognizer) -> None:
    lengths = dict(enumerate(int(seconds * RATE) for seconds in (10, 1, 1.02, 30, 0.98, 1, 9.8, 9.9, 9.9)))

    groups = recognizer._groups(lengths)

    assert sorted(index for group in groups for index in group) == list(lengths)
    assert sorted(sorted(group) for group in groups) == [[0, 7, 8], [1, 2, 4, 5], [3], [6]]


def test_collapse_drops_blanks_and_joins_runs() -> None:
    path = np.array([9, 9, 7, 5, 0, 3, 3, 0, 3, 4, 0])

    assert [(token.id, token.start, token.end) for token in collapse(path)] == [
        *[(9, 0, 0), (7, 0, 0), (5, 0, 0)],
        *[(3, 1, 3), (3, 4, 5), (4, 5, 6)],
    ]


def test_it_is_an_engine_of_the_worker(random_release: Path) -> None:
    model = load_model("sensevoice", {"directory": str(random_release), "revision": "abc", "precision": "auto", "device": "cpu"})

    assert (model.info.name, model.info.revision) == ("sensevoice", "abc")


@pytest.mark.parametrize("missing", ["config.yaml", "am.mvn", "model.pt", "*.bpe.model"])
def test_a_release_that_lacks_a_file_is_refused_by_that_name(random_release: Path, tmp_path: Path, missing: str) -> None:
    for file in random_release.iterdir():
        if not file.match(missing):
            (tmp_path / file.name).symlink_to(file)

    with pytest.raises(FileNotFoundError, match=missing.replace("*", r"\*")):
        SenseVoiceRecognizer(str(tmp_path), "fp32", "cpu")
