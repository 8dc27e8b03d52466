"""IndexTTS2 through a real worker under an interpreter of its own. The package is a stand-in; what it says can be heard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from steadyvoice import errors
from steadyvoice.engine import worker_lifecycle
from steadyvoice.engine.batch_budget import Budget
from steadyvoice.engine.engine_thread import Engine
from steadyvoice.engine.scheduler import Limits
from steadyvoice.engine.tickets import Task, Ticket
from steadyvoice.engine.worker_policy import DEFAULT_POLICY, Policy
from steadyvoice.engine.worker_process import WorkerSpec
from steadyvoice.engine_specs import EMOTIONS
from steadyvoice.protocol import MemoryPlan, Speech, SynthesizeItem
from steadyvoice.testing.indextts2_standin import KV_BYTES, REFERENCES, VOICES, code_of, number_of, seconds_of
from steadyvoice.testing.indextts2_tones import Heard, hear
from tests.conftest import MakeCheckout

WAIT_S = 30.0
TEXT = "the quick brown fox jumps over it"
VERSIONS = ["2.0", "2.5"]


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_lifecycle, "FIRST_BACKOFF_S", 0.0)


def engine_of(root: Path, version: str, policy: Policy = DEFAULT_POLICY, **options: object) -> Engine:
    python = str(root / ".venv" / "bin" / "python")
    plan = MemoryPlan(padded_s=30.0)
    spec = WorkerSpec("indextts2", {"root": str(root), "version": version, **options}, python=python, memory=plan)
    return Engine(spec, Limits(Budget(30.0), 1e6), policy=policy)


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(make_checkout: MakeCheckout, version: str) -> Iterator[Engine]:
    with engine_of(make_checkout(version), version, qwen=True) as running:
        yield running


@pytest.fixture
def item(recordings: list[Path]) -> SynthesizeItem:
    return SynthesizeItem(TEXT, "en", "anna", expected_s=seconds_of(TEXT), reference=str(recordings[0]), seed=1)


def submit(engine: Engine, item: SynthesizeItem, caller: str = "anna") -> Ticket:
    (ticket,) = engine.submit([Task(item.to_payload(), item.expected_s, str(item.reference))], caller=caller).tickets
    return ticket


def say(engine: Engine, item: SynthesizeItem) -> Speech:
    return Speech.from_payload(submit(engine, item).result(WAIT_S).payload)


def heard(speech: Speech) -> Heard:
    return hear(speech.samples / np.float32(32_768), speech.sample_rate)


def test_it_says_the_text_in_the_voice_of_the_recording(engine: Engine, item: SynthesizeItem, recordings: list[Path]) -> None:
    for path in recordings:
        speech = say(engine, replace(item, reference=str(path)))

        assert heard(speech).voice == number_of(path.read_bytes(), VOICES)
        assert heard(speech).code == code_of(TEXT)
        assert speech.sample_rate == 22_050
        assert speech.samples.dtype == np.int16
        assert speech.duration_s == pytest.approx(seconds_of(TEXT), abs=0.05)
        assert (speech.defect, speech.retried, speech.reduced) == (None, False, False)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_an_emotion_by_name_is_the_part_of_the_vector_that_has_its_name(
    engine: Engine, item: SynthesizeItem, emotion: str
) -> None:
    expected = [0.8 * 0.5 * (name == emotion) for name in EMOTIONS[1:]]

    assert heard(say(engine, replace(item, emotion=emotion, emotion_strength=0.5))).emotion == pytest.approx(expected, abs=0.05)


def test_the_eight_emotions_come_to_at_most_what_the_original_s_page_allows(engine: Engine, item: SynthesizeItem) -> None:
    mixed = say(engine, replace(item, emotion_vector=(1.0, 0, 0, 0, 0, 0, 0.6, 0), emotion_strength=1.0))
    faint = say(engine, replace(item, emotion_vector=(0.2, 0, 0, 0, 0, 0, 0.1, 0), emotion_strength=1.0))

    assert heard(mixed).emotion == pytest.approx([0.5, 0, 0, 0, 0, 0, 0.3, 0], abs=0.05)
    assert heard(faint).emotion == pytest.approx([0.2, 0, 0, 0, 0, 0, 0.1, 0], abs=0.05)


def test_an_emotion_is_taken_from_a_recording_and_from_a_description(
    engine: Engine, item: SynthesizeItem, recordings: list[Path]
) -> None:
    recorded = say(engine, replace(item, emotion_reference=str(recordings[1])))
    described = say(engine, replace(item, emotion_text="overjoyed", emotion_strength=1.0))

    assert heard(recorded).reference == number_of(recordings[1].read_bytes(), REFERENCES)
    assert heard(recorded).voice == number_of(recordings[0].read_bytes(), VOICES)
    assert heard(described).emotion[number_of(b"overjoyed", 8)] == pytest.approx(1.0, abs=0.05)


def test_the_same_seed_gives_the_same_samples_whatever_came_between(engine: Engine, item: SynthesizeItem) -> None:
    first = say(engine, item)
    for text in ("something else", "and more of it"):
        submit(engine, replace(item, text=text, seed=None), caller="ben")
    again, other, unset = say(engine, item), say(engine, replace(item, seed=2)), say(engine, replace(item, seed=None))

    assert np.array_equal(first.samples, again.samples)
    assert not np.array_equal(first.samples, other.samples)
    assert not np.array_equal(first.samples, unset.samples)


def test_only_the_later_version_changes_its_speed_itself(engine: Engine, version: str, item: SynthesizeItem) -> None:
    speech = say(engine, replace(item, speed=2.0))

    assert speech.speed == (2.0 if version == "2.5" else 1.0)
    assert speech.duration_s == pytest.approx(seconds_of(TEXT) / speech.speed, abs=0.05)
    assert heard(speech).code == code_of(TEXT)


def test_callers_with_different_voices_never_hear_each_others(
    engine: Engine, item: SynthesizeItem, recordings: list[Path]
) -> None:
    wanted = [replace(item, text=f"sentence number {n}", reference=str(recordings[n % 3])) for n in range(30)]

    tickets = [submit(engine, each, caller=f"caller {n % 7}") for n, each in enumerate(wanted)]

    for ticket, each in zip(tickets, wanted, strict=True):
        found = heard(Speech.from_payload(ticket.result(WAIT_S).payload))
        assert found.voice == number_of(Path(str(each.reference)).read_bytes(), VOICES)
        assert found.code == code_of(each.text)


@pytest.mark.parametrize(
    ("word", "defect"), [("silence", "silent"), ("tooshort", "too_short"), ("endless", "cut_off"), ("quietonce", None)]
)
def test_what_comes_out_wrong_is_said_again_and_then_reported(
    engine: Engine, item: SynthesizeItem, word: str, defect: str | None
) -> None:
    text = f"{TEXT} and {word}, which is no good"

    speech = say(engine, replace(item, text=text, expected_s=seconds_of(text)))

    assert speech.retried
    assert speech.defect == defect


def test_a_text_without_end_is_cut_at_what_it_may_take(engine: Engine, item: SynthesizeItem) -> None:
    text = f"{TEXT} endless"

    speech = say(engine, replace(item, text=text, expected_s=3.0))

    assert speech.duration_s == pytest.approx(2 * 3.0 + 2.0, abs=0.1)


@pytest.mark.parametrize(("change", "reason"), [({"reference": None}, "needs a recording"), ({"text": "?!"}, "nothing in it")])
def test_what_it_cannot_say_is_the_callers_fault(
    engine: Engine, item: SynthesizeItem, change: dict[str, object], reason: str
) -> None:
    with pytest.raises(errors.InvalidInput, match=reason):
        say(engine, replace(item, **change))  # type: ignore[arg-type]


def test_when_memory_stays_short_the_last_try_has_one_beam_and_says_so(engine: Engine, item: SynthesizeItem) -> None:
    speech = say(engine, replace(item, text="this oombeams sentence"))

    assert speech.reduced
    assert heard(speech).code == code_of("this oombeams sentence")
    assert not say(engine, item).reduced


def test_what_does_not_fit_even_then_is_refused_and_its_neighbours_are_answered(engine: Engine, item: SynthesizeItem) -> None:
    bad = submit(engine, replace(item, text="this oomalways sentence"))
    good = [submit(engine, replace(item, text=f"sentence {n}"), caller="ben") for n in range(4)]

    assert isinstance(bad.exception(WAIT_S), errors.OutOfMemory)
    assert not wait(good, WAIT_S).not_done
    assert [heard(Speech.from_payload(ticket.result().payload)).code for ticket in good] == [
        code_of(f"sentence {n}") for n in range(4)
    ]


@pytest.mark.parametrize("word", ["asserts", "dies"])
def test_what_loses_the_device_costs_a_worker_and_nobody_elses_answer(engine: Engine, item: SynthesizeItem, word: str) -> None:
    bad = submit(engine, replace(item, text=f"this {word} now {engine.status().restarts}"))
    good = submit(engine, item, caller="ben")

    assert isinstance(bad.exception(WAIT_S), errors.WorkerDied)
    assert heard(Speech.from_payload(good.result(WAIT_S).payload)).code == code_of(TEXT)


def test_what_never_ends_is_ended_and_its_neighbours_are_answered(make_checkout: MakeCheckout, item: SynthesizeItem) -> None:
    with engine_of(make_checkout("2.0"), "2.0", Policy(batch_limit_s=0.3, slowness=1.0)) as engine:
        bad = submit(engine, replace(item, text="this hangs"))
        good = submit(engine, item, caller="ben")

        assert isinstance(bad.exception(WAIT_S), errors.WorkerDied)
        assert heard(Speech.from_payload(good.result(WAIT_S).payload)).code == code_of(TEXT)


def test_an_exception_of_the_model_stays_in_the_log(engine: Engine, item: SynthesizeItem) -> None:
    error = submit(engine, replace(item, text="this raises")).exception(WAIT_S)

    assert isinstance(error, errors.ItemFailed)
    assert "secret" not in error.message


def test_its_budget_counts_the_cache_of_every_code_and_beam(engine: Engine, version: str) -> None:
    engine.load().result(WAIT_S)

    per_second = {"2.0": 50.1, "2.5": 25.1}[version] * 3 * KV_BYTES["half"]
    assert engine.status().budget_bytes == pytest.approx(300e6 + (2 * 30 + 2) * per_second, rel=0.01)


def test_the_text_of_a_user_is_in_no_log(make_checkout: MakeCheckout, item: SynthesizeItem, capfd: pytest.CaptureFixture) -> None:
    with engine_of(make_checkout("2.0"), "2.0") as engine:
        say(engine, item)

    said = capfd.readouterr()
    assert "quick brown fox" not in said.out + said.err
    assert "budget of a batch" in said.err  # there is a log


def test_it_runs_under_its_own_interpreter_in_its_own_folder_as_it_is_told(make_checkout: MakeCheckout, tmp_path: Path) -> None:
    root = make_checkout("2.0", log=str(tmp_path / "log"))
    with engine_of(root, "2.0", half=False, qwen=True) as engine:
        engine.load().result(WAIT_S)
        pid = engine.status().worker_pid
        assert pid is not None
        assert psutil.Process(pid).cmdline()[0] == str(root / ".venv" / "bin" / "python")

    told = json.loads((tmp_path / "log").read_text())
    assert (told["half"], told["qwen"], told["cwd"], told["offline"]) == (False, True, str(root), "1")
    assert set(told["aux"]) == {"w2v_bert", "semantic_codec", "campplus", "bigvgan"}
    assert all(Path(path).exists() for path in told["aux"].values())
