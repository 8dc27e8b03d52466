"""The voice store on real files: human speech, written as users would write it."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from steadyvoice.errors import Conflict, InvalidInput, NotFound, SteadyvoiceError, StorageFull, TooLarge, UnsupportedMedia
from steadyvoice.media.reference import REFERENCE_RATE
from steadyvoice.media.sliced_work import Steps
from steadyvoice.service.voices import files as voice_files
from steadyvoice.service.voices import store as module
from steadyvoice.service.voices.names import checked_name
from steadyvoice.service.voices.store import VoiceStore
from tests.audio import as_format, clip, wav_bytes

SPEECH = clip(Path(__file__).resolve().parents[2] / "data" / "austen-0930.wav")  # 3.3 s at 16 kHz
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123456\n"
TRICKS = [
    "../outside",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "..",
    ".hidden",
    "a.wav",
    "a\0",
    "a\nb",
    "",
    "  ",
    "x" * 65,
    "\U00020000" * 62,  # 248 bytes of a file's name
    "\udcff",
    "a\u202eb",
    "12",
    "x" * 100_000,
]


def recording(number: int = 0) -> bytes:
    """A second and a half of speech; each number gives other bytes."""
    start = 4_000 + 160 * number
    return wav_bytes(SPEECH[start : start + 24_000])


def put(folder: Path, name: str, content: bytes, mtime: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    os.utime(path, (mtime, mtime))
    return path


def names(store: VoiceStore) -> list[str]:
    return [voice.name for voice in store.voices()]


def files(folder: Path) -> list[str]:
    """All but the registry of numbers."""
    return sorted(file.name for file in folder.glob("*") if file.name not in (".numbers.json", ".numbers-copy.json"))


def prepared(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / ".prepared").glob("*"))


# --- what is found


def test_files_are_listed_by_arrival_then_by_name_and_examples_last(tmp_path: Path) -> None:
    folder, examples = tmp_path / "voices", tmp_path / "examples"
    put(folder, "zoe.wav", recording(1), 100)
    put(folder, "ben.flac", as_format(SPEECH, "flac"), 200)
    put(folder, "Ann.MP3", as_format(SPEECH, "mp3"), 200)
    put(examples, "voice_02.wav", recording(2), 10)
    put(examples, "voice_01.wav", recording(3), 20)
    put(examples, "other.wav", recording(4), 5)
    put(examples, "voice_03.wav", LFS_POINTER, 5)

    store = VoiceStore(folder, examples)

    assert names(store) == ["zoe", "Ann", "ben", "voice_01", "voice_02"]
    zoe, *_, example = store.voices()
    assert zoe.digest == hashlib.sha256(recording(1)).hexdigest()
    assert zoe.seconds == pytest.approx(1.5, abs=0.05)
    assert (zoe.origin, zoe.created, zoe.problem) == ("stored", 100, None)
    assert example.origin == "example"


def test_a_store_without_a_folder_is_empty_and_makes_none(tmp_path: Path) -> None:
    assert VoiceStore(tmp_path / "voices", tmp_path / "examples").voices() == []
    assert not list(tmp_path.iterdir())


def test_what_users_do_to_the_folder_is_seen(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    put(tmp_path, "ann.wav", recording(1), 100)
    (before,) = store.voices()
    put(tmp_path, "ann.wav", recording(2), 101)
    (after,) = store.voices()
    assert before.digest != after.digest == hashlib.sha256(recording(2)).hexdigest()
    (tmp_path / "ann.wav").unlink()
    assert store.voices() == []


def test_a_file_that_is_exchanged_for_one_of_the_same_size_and_date_is_seen(tmp_path: Path) -> None:
    path = put(tmp_path, "ann.wav", recording(1), 100)
    store = VoiceStore(tmp_path)
    began = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == began:  # the clock of a file system may stand still for some milliseconds
        put(tmp_path, "ann.wav", recording(2), 100)
    assert store.find("ann").digest == hashlib.sha256(recording(2)).hexdigest()


def test_a_file_that_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read = module.read_recording
    monkeypatch.setattr(module, "read_recording", lambda path: (reads.append(path.name), read(path))[1])
    put(tmp_path, "ann.wav", recording(), 100)
    put(tmp_path, "bad.wav", LFS_POINTER, 100)
    store = VoiceStore(tmp_path)
    for _ in range(3):
        assert names(store) == ["ann"]
    assert sorted(reads) == ["ann.wav", "bad.wav"]
    put(tmp_path, "ann.wav", recording(), 101)
    assert names(store) == ["ann"]
    assert len(reads) == 3


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("ann.wav", wav_bytes(SPEECH[:8_000]), "1 to 15 s are needed"),
        ("ann.wav", wav_bytes(np.zeros(48_000, np.float32)), "silent"),
        ("ann.mp3", LFS_POINTER, "not audio"),
        ("ann.wav", b"", "0 bytes"),
        ("ann.2.wav", recording(), "is no name of a voice"),
        ("7.wav", recording(), "is no name of a voice"),
    ],
)
def test_a_file_that_cannot_be_used_is_not_listed_and_its_problem_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes, problem: str
) -> None:
    put(tmp_path, name, content, 100)
    store = VoiceStore(tmp_path)
    assert store.voices() == store.voices() == []
    (line,) = caplog.messages
    assert name in line
    assert problem in line
    assert str(tmp_path) not in line


def test_a_voice_that_cannot_be_used_is_refused_with_its_problem(tmp_path: Path) -> None:
    put(tmp_path, "ann.wav", wav_bytes(SPEECH[:8_000]), 100)
    with pytest.raises(InvalidInput, match=r"voice 'ann' cannot be used: the recording has 0\.\d+ s"):
        VoiceStore(tmp_path).find("ann")


def test_a_file_over_the_limit_of_bytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limited in (module, voice_files):
        monkeypatch.setattr(limited, "MAX_FILE_BYTES", 1_000)
    put(tmp_path, "ann.wav", recording(), 100)
    store = VoiceStore(tmp_path)
    with pytest.raises(InvalidInput, match="more than 1000 bytes"):
        store.find("ann")
    with pytest.raises(TooLarge, match=r"has \d+ bytes; the limit is 1000"):
        store.add("ben", io.BytesIO(recording()))


def test_a_file_that_may_not_be_read_is_left_out_until_it_may(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    put(tmp_path, "ann.wav", recording(), 100)
    with monkeypatch.context() as no_rights:
        no_rights.setattr(module, "read_recording", refused)
        store = VoiceStore(tmp_path)
        assert store.voices() == store.voices() == []
    assert caplog.messages == ["voice 'ann.wav' cannot be read: Permission denied"]
    assert names(store) == ["ann"]


def test_links_folders_and_pipes_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "voices"
    outside = put(tmp_path, "outside.wav", recording(), 100)
    folder.mkdir()
    (folder / "link.wav").symlink_to(outside)
    (folder / "passwd.wav").symlink_to("/etc/passwd")
    (folder / "dangling.wav").symlink_to(folder / "nothing")
    (folder / "folder.wav").mkdir()
    os.mkfifo(folder / "pipe.wav")  # opening it would wait for ever
    assert VoiceStore(folder).voices() == []
    assert not caplog.messages, "none was tried"


def test_a_file_that_becomes_a_link_before_it_is_read_is_not_followed(tmp_path: Path) -> None:
    path = put(tmp_path, "ann.wav", recording(1), 100)
    store = VoiceStore(tmp_path)
    (voice,) = store.voices()
    target = put(tmp_path, "target", recording(1), 100)
    path.unlink()
    path.symlink_to(target)
    with pytest.raises(NotFound, match="removed or changed"), store.borrow(voice):
        pass


def test_over_the_limit_of_voices_the_oldest_stay_and_none_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_VOICES", 2)
    for index, name in enumerate("cab"):
        put(tmp_path, f"{name}.wav", recording(index), 100 + index)
    store = VoiceStore(tmp_path)
    assert names(store) == names(store) == ["c", "a"]
    assert caplog.messages == ["only the first 2 voices are used"]
    with pytest.raises(InvalidInput, match="there are 2 voices and that is the limit"):
        store.add("d", io.BytesIO(recording()))


@pytest.mark.parametrize("name", ["alloy", "Alloy", "MARIN"])
def test_no_voice_has_one_of_openais_names(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    store = VoiceStore(tmp_path)
    with pytest.raises(InvalidInput, match=f"'{name}' is one of OpenAI's voice names.* choose another name") as refused:
        store.add(name, io.BytesIO(recording(1)))
    assert refused.value.param == "name"
    put(tmp_path, f"{name}.wav", recording(2), 100)
    put(tmp_path, "ann.wav", recording(3), 200)
    assert names(store) == ["ann"]
    assert f"voice '{name}.wav' cannot be used: '{name}' is one of OpenAI's voice names" in caplog.text
    assert store.find(name.lower()).name == "ann", "the name always means what stands in for it"
    store.remove(name)
    assert not (tmp_path / f"{name}.wav").exists()


# --- asking for one


def test_a_voice_is_found_by_number_and_by_name_in_any_normal_form(tmp_path: Path) -> None:
    put(tmp_path, unicodedata.normalize("NFD", "Zoë Café.wav"), recording(1), 100)
    put(tmp_path, "小雅.wav", recording(2), 200)
    store = VoiceStore(tmp_path)
    first, second = store.voices()
    for asked in (0, "0", " 0 ", "Zoë Café", unicodedata.normalize("NFD", "Zoë Café")):
        assert store.find(asked) == first
    for asked in (1, "1", "小雅"):
        assert store.find(asked) == second
    for asked in (2, -1, "zoë café", "小", 10**40):
        with pytest.raises(InvalidInput) as refused:
            store.find(asked)
        assert refused.value.status == 422
        assert refused.value.param == "speaker_id"


def test_an_unknown_voice_is_refused_with_a_dozen_known_ones(tmp_path: Path) -> None:
    for index in range(14):
        put(tmp_path, f"voice {index:02}.wav", recording(index), 100 + index)
    with pytest.raises(InvalidInput) as refused:
        VoiceStore(tmp_path).find("nobody")
    assert "'nobody' is unknown; known: 0 = voice 00, 1 = voice 01, " in refused.value.message
    assert refused.value.message.endswith("11 = voice 11 and 2 more")


def test_where_there_is_no_voice_the_refusal_tells_how_to_add_one(tmp_path: Path) -> None:
    for asked in (0, "alloy"):
        with pytest.raises(InvalidInput, match=r"no voice yet: put a recording of 1 to 15 s .* POST /v1/voices"):
            VoiceStore(tmp_path).find(asked)


@pytest.mark.parametrize("trick", TRICKS, ids=range(len(TRICKS)))
def test_a_name_with_a_trick_is_refused_everywhere_and_nothing_is_opened(
    tmp_path: Path, trick: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "outside.wav", recording(), 100)
    put(tmp_path / "voices" / "a", "b.wav", recording(), 100)
    store = VoiceStore(tmp_path / "voices")
    if not trick.isdigit():  # which asks for a number
        with monkeypatch.context() as no_disk:
            no_disk.setattr(module, "find_recordings", lambda folder: pytest.fail("the disk was touched"))
            with pytest.raises(InvalidInput):
                store.find(trick)
    for ask in (store.get, store.remove, lambda name: store.add(name, io.BytesIO(recording()))):
        with pytest.raises(InvalidInput) as refused:
            ask(trick)
        assert refused.value.status == 422
        assert len(refused.value.message) < 500
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["b.wav", "outside.wav"]


@given(st.text(max_size=80))
def test_a_name_that_is_allowed_stays_itself_and_leads_nowhere(name: str) -> None:
    try:
        allowed = checked_name(name)
    except InvalidInput:
        return
    assert checked_name(allowed) == allowed
    assert Path("voices", f"{allowed}.wav").parent == Path("voices")
    assert Path(f"{allowed}.wav").stem == allowed
    assert len(os.fsencode(f"{allowed}.wav")) <= 255
    assert not allowed.startswith(".")


@pytest.mark.parametrize("name", ["Ann", "小雅", "三", "Zoë", "हिन्दी", "ann-2_b c", "x" * 64, "声" * 64])
def test_names_of_every_script_are_allowed(tmp_path: Path, name: str) -> None:
    store = VoiceStore(tmp_path)
    assert store.add(name, io.BytesIO(recording())).name == name
    assert store.find(name).name == name


# --- adding and removing


def test_an_added_voice_is_kept_trimmed_mono_and_in_16_bits_and_outlives_the_store(tmp_path: Path) -> None:
    quiet = np.zeros((48_000, 2), np.float32)
    stereo = np.concatenate([quiet, np.stack([SPEECH, SPEECH], axis=1), quiet])
    upload = io.BytesIO()
    soundfile.write(upload, stereo, 16_000, format="WAV", subtype="FLOAT")
    added = VoiceStore(tmp_path).add(" ann ", upload)
    info = soundfile.info(tmp_path / "ann.wav")
    assert (info.samplerate, info.channels, info.subtype) == (REFERENCE_RATE, 1, "PCM_16")
    assert added.seconds == pytest.approx(len(SPEECH) / 16_000, abs=0.2)
    assert added.digest == hashlib.sha256((tmp_path / "ann.wav").read_bytes()).hexdigest()
    assert VoiceStore(tmp_path).voices() == [added]
    assert files(tmp_path) == ["ann.wav"]


def test_voices_that_are_added_at_once_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    store = VoiceStore(tmp_path)
    given_names = list("fedcba")
    for index, name in enumerate(given_names):
        store.add(name, io.BytesIO(recording(index)))
    assert names(store) == names(VoiceStore(tmp_path)) == given_names


def test_a_name_that_is_taken_is_refused_and_the_voice_stays(tmp_path: Path) -> None:
    examples = tmp_path / "examples"
    put(examples, "voice_01.wav", recording(1), 100)
    put(tmp_path, "bad.wav", LFS_POINTER, 100)
    store = VoiceStore(tmp_path, examples)
    ann = store.add("ann", io.BytesIO(recording(2)))
    for taken in ("ann", "voice_01", "bad"):
        with pytest.raises(Conflict, match="already") as refused:
            store.add(taken, io.BytesIO(recording(3)))
        assert refused.value.status == 409
    assert store.find("ann") == ann
    assert (tmp_path / "bad.wav").read_bytes() == LFS_POINTER


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", InvalidInput, "0 bytes"),
        (LFS_POINTER, UnsupportedMedia, "not audio"),
        (wav_bytes(SPEECH[:8_000]), InvalidInput, "1 to 15 s"),
        (wav_bytes(np.tile(SPEECH, 6)), TooLarge, "15 s"),
        (wav_bytes(np.tile(SPEECH, 20)), TooLarge, "60 s"),
        (wav_bytes(np.clip(SPEECH * 20, -1, 1)), InvalidInput, "clipped"),
    ],
)
def test_a_recording_that_will_not_do_is_refused_and_leaves_nothing(
    tmp_path: Path, content: bytes, error: type[SteadyvoiceError], message: str
) -> None:
    with pytest.raises(error, match=message):
        VoiceStore(tmp_path / "voices").add("ann", io.BytesIO(content))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_leaves_no_half_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    store = VoiceStore(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match="no space left on the server's disk for the voice"):
        store.add("ann", io.BytesIO(recording()))
    assert store.voices() == []
    assert not list(tmp_path.iterdir())


def test_a_removed_voice_is_gone_in_all_its_files_and_its_name_is_free(tmp_path: Path) -> None:
    put(tmp_path, "ann.wav", recording(1), 100)
    put(tmp_path, "ann.mp3", as_format(SPEECH, "mp3"), 200)
    store = VoiceStore(tmp_path)
    assert len(store.voices()) == 1
    store.remove("ann")
    assert store.voices() == []
    with pytest.raises(NotFound, match="no voice 'ann'"):
        store.remove("ann")
    store.add("ann", io.BytesIO(recording(2)))
    assert names(store) == ["ann"]


def test_a_voice_that_cannot_be_used_can_be_removed(tmp_path: Path) -> None:
    path = put(tmp_path, "ann.wav", LFS_POINTER, 100)
    store = VoiceStore(tmp_path)
    store.remove("ann")
    assert not path.exists()
    store.add("ann", io.BytesIO(recording()))


def test_an_example_can_be_used_and_not_removed(tmp_path: Path) -> None:
    examples = tmp_path / "examples"
    path = put(examples, "voice_01.wav", recording(), 100)
    store = VoiceStore(tmp_path / "voices", examples)
    with store.borrow(store.find("voice_01")) as copy:
        assert copy.is_relative_to(tmp_path / "voices")
    with pytest.raises(InvalidInput, match="an example"):
        store.remove("voice_01")
    assert list(examples.iterdir()) == [path]


# --- borrowing


def test_a_borrowed_voice_is_a_prepared_copy_named_by_its_content(tmp_path: Path) -> None:
    put(tmp_path, "ann.flac", as_format(SPEECH, "flac"), 100)
    store = VoiceStore(tmp_path)
    (voice,) = store.voices()
    with store.borrow(voice) as path:
        assert path == tmp_path / ".prepared" / f"{voice.digest}.wav"
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (REFERENCE_RATE, 1, "PCM_16")
        assert info.duration == pytest.approx(voice.seconds, abs=1e-4)
    made = path.stat().st_mtime_ns
    with store.borrow(voice) as again:
        assert again == path
    assert path.stat().st_mtime_ns == made, "it is made once"
    assert names(store) == ["ann"]


def test_a_removed_voice_stays_until_its_last_borrower_has_left(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    voice = store.add("ann", io.BytesIO(recording()))
    with store.borrow(voice) as path:
        with store.borrow(voice):
            store.remove("ann")
        assert path.exists()
    assert prepared(tmp_path) == []
    with pytest.raises(NotFound, match="removed or changed"), store.borrow(voice):
        pass
    assert prepared(tmp_path) == []


def test_a_removed_voice_that_nobody_has_leaves_at_once_unless_another_has_its_content(tmp_path: Path) -> None:
    put(tmp_path, "ann.wav", recording(), 100)
    put(tmp_path, "ben.wav", recording(), 200)
    store = VoiceStore(tmp_path)
    with store.borrow(store.find("ann")):
        pass
    store.remove("ann")
    with store.borrow(store.find("ben")):
        assert len(prepared(tmp_path)) == 1
    store.remove("ben")
    assert prepared(tmp_path) == []


def test_a_voice_that_comes_back_while_it_is_borrowed_stays(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    voice = store.add("ann", io.BytesIO(recording()))
    with store.borrow(voice) as path:
        store.remove("ann")
        assert store.add("ben", io.BytesIO(recording())).digest == voice.digest
    assert path.exists()


def test_a_recording_that_is_exchanged_is_another_voice_and_the_old_copy_goes(tmp_path: Path) -> None:
    put(tmp_path, "ann.wav", recording(1), 100)
    store = VoiceStore(tmp_path)
    old = store.find("ann")
    put(tmp_path, "ann.wav", recording(2), 200)
    with pytest.raises(NotFound, match="removed or changed"), store.borrow(old):
        pass
    with store.borrow(store.find("ann")) as path:
        assert path.stem != old.digest
    put(tmp_path, "ann.wav", recording(3), 300)
    store.voices()
    assert prepared(tmp_path) == []


def test_a_new_store_cleans_up_what_a_crash_left_and_keeps_the_rest(tmp_path: Path) -> None:
    first = VoiceStore(tmp_path)
    voice = first.add("ann", io.BytesIO(recording()))
    with first.borrow(voice) as path:
        pass
    put(tmp_path / ".prepared", f"{'0' * 64}.wav", recording(1), 100)
    put(tmp_path / ".prepared", ".unfinished-0123", b"half", 100)
    put(tmp_path, ".unfinished-4567", b"half", 100)
    assert names(VoiceStore(tmp_path)) == ["ann"]
    assert prepared(tmp_path) == [path.name]
    assert files(tmp_path) == [".prepared", "ann.wav"]


# --- many at once


def test_of_many_who_want_one_name_one_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = VoiceStore(tmp_path)
    decoded = threading.Barrier(8)  # all have found the name free
    wav_steps = module._wav_steps

    def together(file: BinaryIO) -> Steps[bytes]:
        wav = yield from wav_steps(file)
        decoded.wait(30)
        return wav

    monkeypatch.setattr(module, "_wav_steps", together)

    def add(number: int) -> bool:
        try:
            store.add("ann", io.BytesIO(recording(number)))
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(add, range(8))) == 1
    assert names(store) == ["ann"]


def test_many_who_add_borrow_and_remove_at_once_lose_nothing(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    store.add("all", io.BytesIO(recording(99)))
    together = threading.Barrier(8)

    def work(number: int) -> None:
        together.wait()
        for turn in range(4):
            name = f"v{number}-{turn}"
            # Two threads each send the same recording, so that they share a prepared copy.
            voice = store.add(name, io.BytesIO(recording(4 * (number // 2) + turn)))
            with store.borrow(voice) as path, store.borrow(store.find("all")) as shared:
                if turn % 2:
                    store.remove(name)
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem  # prepared as it was sent to be
                assert soundfile.info(shared).duration > 1
                assert "all" in names(store)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    kept = {"all"} | {f"v{number}-{turn}" for number in range(8) for turn in (0, 2)}
    assert set(names(store)) == set(names(VoiceStore(tmp_path))) == kept
    assert prepared(tmp_path) == sorted({f"{voice.digest}.wav" for voice in store.voices()})
    assert not +store._borrowers


def test_leaving_waits_for_nobody_who_looks_at_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = VoiceStore(tmp_path)
    voice = store.add("ann", io.BytesIO(recording()))
    looks, go_on = threading.Event(), threading.Event()
    read = module.read_recording

    def slow(path: Path) -> bytes:
        looks.set()
        assert go_on.wait(30)
        return read(path)

    with store.borrow(voice), ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(module, "read_recording", slow)
        put(tmp_path, "ben.wav", recording(1), 100)
        looking = pool.submit(store.voices)
        assert looks.wait(30)
        with store.borrow(voice) as path:
            assert path.exists()
        assert not looking.done()
        go_on.set()
    assert {voice.name for voice in looking.result()} == {"ann", "ben"}
