"""Numbers and aliases of voices, over additions, removals, restarts, lost files and several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from steadyvoice.api.speech_bodies import SynthesizeBody
from steadyvoice.engine_specs import OPENAI_VOICES
from steadyvoice.errors import InvalidInput
from steadyvoice.service.speech.request import Unnamed
from steadyvoice.service.voices.speaker_numbers import COPY, DAMAGED, FILE, REMEMBERED, Registry
from steadyvoice.service.voices.store import VoiceStore
from tests.service.voices.test_store import put, recording


def numbers(store: VoiceStore) -> dict[str, int]:
    return {voice.name: voice.number for voice in store.voices()}


@pytest.fixture
def store(tmp_path: Path) -> VoiceStore:
    for index, name in enumerate(("ann", "ben", "cat", "dan")):
        put(tmp_path, f"{name}.wav", recording(index), 100 + index)
    return VoiceStore(tmp_path)


def test_a_folder_that_is_seen_for_the_first_time_is_numbered_in_order_of_arrival_and_examples_follow(tmp_path: Path) -> None:
    put(tmp_path / "voices", "zoe.wav", recording(1), 100)
    put(tmp_path / "voices", "ann.wav", recording(2), 200)
    for index in (1, 2):
        put(tmp_path / "examples", f"voice_0{index}.wav", recording(2 + index), 50)
    store = VoiceStore(tmp_path / "voices", tmp_path / "examples")
    first = {"zoe": 0, "ann": 1, "voice_01": 2, "voice_02": 3}
    assert numbers(store) == first

    put(tmp_path / "voices", "old.wav", recording(9), 1)
    assert numbers(store) == {"old": 4, **first}
    assert next(iter(numbers(store))) == "old", "the list stays in order of arrival"


def test_the_number_of_a_removed_voice_is_nobodys_and_no_other_changes(store: VoiceStore, tmp_path: Path) -> None:
    store.remove("cat")
    assert numbers(store) == {"ann": 0, "ben": 1, "dan": 3}
    put(tmp_path, "eve.wav", recording(7), 50)
    put(tmp_path, "cat.wav", recording(2), 60)  # the same recording under the same name is a new voice all the same
    for again in (store, VoiceStore(tmp_path)):
        assert numbers(again) == {"eve": 4, "cat": 5, "ann": 0, "ben": 1, "dan": 3}
        with pytest.raises(InvalidInput, match=r"voice 2 was 'cat' and has been removed; no other voice gets its number; known:"):
            again.find(2)
        assert again.find("3").name == "dan"
    with pytest.raises(InvalidInput, match=r"voice '6' is unknown"):
        store.find(6)


def test_a_voice_that_is_left_out_is_the_one_with_the_lowest_number(store: VoiceStore) -> None:
    assert store.find(None).name == "ann"
    store.remove("ann")
    assert store.find(None).name == "ben"


def test_a_body_without_a_speaker_does_not_ask_for_number_0() -> None:
    assert SynthesizeBody(text="Hello.").options().speaker_id is Unnamed.LOWEST_NUMBER
    assert SynthesizeBody(text="Hello.", speaker_id=0).options().speaker_id == 0


def test_a_file_that_goes_and_comes_back_keeps_its_number_under_any_name(store: VoiceStore, tmp_path: Path) -> None:
    content = (tmp_path / "ben.wav").read_bytes()
    (tmp_path / "ben.wav").unlink()
    with pytest.raises(InvalidInput, match="voice 1 was 'ben', whose recording is gone"):
        store.find(1)
    put(tmp_path, "new.wav", recording(8), 300)
    assert numbers(store)["new"] == 4
    put(tmp_path, "benjamin.wav", content, 400)
    assert store.find(1).name == "benjamin"
    assert numbers(VoiceStore(tmp_path))["benjamin"] == 1


def test_another_recording_under_the_name_of_one_that_had_gone_is_another_voice(store: VoiceStore, tmp_path: Path) -> None:
    (tmp_path / "ben.wav").unlink()
    store.voices()
    put(tmp_path, "ben.wav", recording(8), 300)
    assert store.find("ben").number == 4
    with pytest.raises(InvalidInput, match="voice 1 was 'ben' and has been removed"):
        store.find(1)


def test_a_recording_that_is_exchanged_or_unusable_for_a_while_keeps_its_number(store: VoiceStore, tmp_path: Path) -> None:
    put(tmp_path, "ben.wav", b"half", 500)
    with pytest.raises(InvalidInput, match="voice 'ben' cannot be used"):
        store.find(1)
    put(tmp_path, "ben.wav", recording(9), 600)
    assert store.find(1).name == "ben"


def test_a_lost_or_damaged_registry_is_taken_from_its_copy_or_from_what_the_process_knows(
    store: VoiceStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.remove("ann")
    expected = {"ben": 1, "cat": 2, "dan": 3}
    for damage in (b"", b"{", b'{"next": -1}', b'{"removed": {"9": "x"}}', b"[]", os.urandom(100)):
        (tmp_path / FILE).write_bytes(damage)
        assert numbers(VoiceStore(tmp_path)) == numbers(store) == expected
        assert "is damaged" in caplog.text
        assert (tmp_path / DAMAGED).read_bytes() == damage
        assert Registry.model_validate_json((tmp_path / FILE).read_bytes()).next == 4
    for lost in ((FILE,), (COPY,)):
        for name in lost:
            (tmp_path / name).unlink()
        assert numbers(VoiceStore(tmp_path)) == expected
        store.add(f"new {lost}".translate({ord(c): None for c in "(),'.-"}), (tmp_path / "ben.wav").open("rb"))
        expected = numbers(store)
    for name in (FILE, COPY):
        (tmp_path / name).unlink()
    assert numbers(store) == expected
    assert numbers(VoiceStore(tmp_path)) == expected


def test_a_folder_that_cannot_be_written_has_numbers_in_order_of_arrival(
    store: VoiceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in (FILE, COPY):
        (tmp_path / name).unlink()
    monkeypatch.setattr("steadyvoice.service.voices.speaker_numbers.write_file", refused)
    assert numbers(VoiceStore(tmp_path)) == {"ann": 0, "ben": 1, "cat": 2, "dan": 3}
    assert "the numbers of voices cannot be kept: Read-only file system" in caplog.text


def test_processes_that_share_a_folder_agree_and_give_no_number_twice(tmp_path: Path) -> None:
    work = (
        "import io, sys\nfrom pathlib import Path\nfrom steadyvoice.service.voices.store import VoiceStore\n"
        "from tests.service.voices.test_store import recording\n"
        "me, store = int(sys.argv[1]), VoiceStore(Path(sys.argv[2]))\nsys.stdin.readline()\n"
        "for turn in range(4):\n"
        "    voice = store.add(f'v{me}-{turn}', io.BytesIO(recording(10 * me + turn)))\n"
        "    print(voice.number)\n"
        "    if turn % 2: store.remove(voice.name)\n"
    )
    command = [sys.executable, "-c", work]
    started = [
        subprocess.Popen([*command, str(me), str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for me in range(3)
    ]
    given = [number for process in started for number in process.communicate("go\n", 60)[0].split()]
    assert sorted(map(int, given)) == list(range(12))
    assert sorted(numbers(VoiceStore(tmp_path))) == sorted(f"v{me}-{turn}" for me in range(3) for turn in (0, 2))


def test_names_of_removed_voices_are_kept_to_a_limit_and_numbers_without_one() -> None:
    registry = Registry()
    for turn in range(REMEMBERED + 5):
        registry.assign({f"v{turn}": str(turn)}, ())
        registry.remove(turn)
    assert registry.next == REMEMBERED + 5
    assert sorted(registry.removed) == list(range(5, REMEMBERED + 5))


def test_an_alias_keeps_its_voice_whatever_is_added_or_removed(store: VoiceStore, tmp_path: Path) -> None:
    asked = [store.find(alias).name for alias in ("nova", "alloy", "echo", "onyx", "sage")]
    assert asked == ["ann", "ben", "cat", "dan", "ann"], "each gets a voice of its own as long as there are some"
    put(tmp_path, "eve.wav", recording(7), 1)
    store.remove("ben")
    for again in (store, VoiceStore(tmp_path)):
        assert [again.find(alias).name for alias in ("nova", "echo", "onyx", "sage")] == ["ann", "cat", "dan", "ann"]
    assert store.find("alloy").name == "eve", "the voice that stood in for it is gone"
    assert {voice.name: voice.aliases for voice in store.voices()}["ann"] == ("nova", "sage")
    assert set(OPENAI_VOICES) >= set(json.loads((tmp_path / FILE).read_text())["aliases"])


def test_an_alias_is_remembered_though_there_are_only_examples(tmp_path: Path) -> None:
    for index in (1, 2):
        put(tmp_path / "examples", f"voice_0{index}.wav", recording(index), 50)
    first = VoiceStore(tmp_path / "voices", tmp_path / "examples")
    assert [first.find(alias).name for alias in ("nova", "alloy")] == ["voice_01", "voice_02"]
    again = VoiceStore(tmp_path / "voices", tmp_path / "examples")
    assert [again.find(alias).name for alias in ("alloy", "nova")] == ["voice_02", "voice_01"]
