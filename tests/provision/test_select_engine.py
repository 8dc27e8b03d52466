from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from steadyvoice.engine_specs import NoEngine
from steadyvoice.provision import hardware
from steadyvoice.provision.select_engine import choose_recognizer, choose_synthesizer
from steadyvoice.service.service import worker_spec
from steadyvoice.settings import Settings
from tests.provision.fake_checkout import install_checkout, put_checkout

FILES = ("config.yaml", "am.mvn", "model.pt", "any.bpe.model", "configuration.json")


def release(folder: Path, *without: str) -> Path:
    """A folder that has the files of a release, as far as their names go."""
    folder.mkdir(parents=True)
    for name in FILES:
        if name not in without:
            (folder / name).write_text("{}")
    return folder


def settings(tmp_path: Path, **fields: object) -> Settings:
    return Settings(_env_file=None, cache_hub=tmp_path, **fields)  # type: ignore[call-arg, arg-type]


def test_auto_is_sensevoice_where_its_release_is_whole(tmp_path: Path) -> None:
    folder = release(tmp_path / "SenseVoiceSmall")

    choice = choose_recognizer(settings(tmp_path, precision="bf16"))

    assert choice.spec.name == "sensevoice"
    assert choice.options == {"directory": str(folder), "revision": "local", "precision": "bf16"}
    assert str(folder) in choice.reason


def test_the_revision_is_the_one_that_was_fetched(tmp_path: Path) -> None:
    folder = release(tmp_path / "SenseVoiceSmall")
    (folder / "steadyvoice.json").write_text(json.dumps({"revision": "abc", "files": {}}))

    assert choose_recognizer(settings(tmp_path)).options["revision"] == "abc"


def test_auto_is_the_embedded_engine_where_no_release_is_and_says_why(tmp_path: Path) -> None:
    choice = choose_recognizer(settings(tmp_path))

    assert choice.spec.name == "pocketsphinx"
    assert choice.options == {}
    assert "SenseVoiceSmall does not exist" in choice.reason


def test_half_a_release_is_none(tmp_path: Path) -> None:
    release(tmp_path / "SenseVoiceSmall", "model.pt")

    choice = choose_recognizer(settings(tmp_path))

    assert choice.spec.name == "pocketsphinx"
    assert "model.pt" in choice.reason


def test_a_directory_of_one_s_own_is_used_without_saying_which_engine(tmp_path: Path) -> None:
    mine = release(tmp_path / "elsewhere" / "mine")

    assert choose_recognizer(settings(tmp_path, sensevoice_dir=mine)).options["directory"] == str(mine)


@pytest.mark.parametrize("engine", ["auto", "sensevoice", "funasr"])
def test_a_directory_of_one_s_own_that_lacks_a_file_is_not_passed_over(tmp_path: Path, engine: str) -> None:
    mine = release(tmp_path / "mine", "am.mvn")

    with pytest.raises(NoEngine, match=r"am\.mvn"):
        choose_recognizer(settings(tmp_path, asr_engine=engine, sensevoice_dir=mine))


@pytest.mark.parametrize("engine", ["sensevoice", "funasr"])
def test_an_engine_that_was_asked_for_by_name_needs_its_release(tmp_path: Path, engine: str) -> None:
    with pytest.raises(NoEngine, match=rf"{engine} cannot work.*does not exist"):
        choose_recognizer(settings(tmp_path, asr_engine=engine))


def test_funasr_reads_the_same_release(tmp_path: Path) -> None:
    folder = release(tmp_path / "SenseVoiceSmall")

    choice = choose_recognizer(settings(tmp_path, asr_engine="funasr"))

    assert (choice.spec.name, choice.options) == ("funasr", {"model": str(folder)})


def test_funasr_needs_its_own_description_of_a_release(tmp_path: Path) -> None:
    release(tmp_path / "SenseVoiceSmall", "configuration.json")

    with pytest.raises(NoEngine, match=r"configuration\.json"):
        choose_recognizer(settings(tmp_path, asr_engine="funasr"))


def test_funasr_runs_another_model_by_name_without_a_release(tmp_path: Path) -> None:
    choice = choose_recognizer(settings(tmp_path, asr_engine="funasr", funasr_model="paraformer-zh"))

    assert choice.options == {"model": "paraformer-zh"}


def test_pocketsphinx_is_taken_although_a_release_is_there(tmp_path: Path) -> None:
    release(tmp_path / "SenseVoiceSmall")

    assert choose_recognizer(settings(tmp_path, asr_engine="pocketsphinx")).spec.name == "pocketsphinx"


@pytest.mark.parametrize(("engine", "package"), [("sensevoice", "torch"), ("funasr", "funasr"), ("pocketsphinx", "pocketsphinx")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, package: str) -> None:
    release(tmp_path / "SenseVoiceSmall")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))

    with pytest.raises(NoEngine, match=f"package {package} is not installed"):
        choose_recognizer(settings(tmp_path, asr_engine=engine))


def on_a_machine(monkeypatch: pytest.MonkeyPatch, card: int | None, ram: int = 32_000_000_000) -> None:
    """With a card of so many bytes, or none."""
    cards = [] if card is None else [hardware.Gpu("a card", "570.10", card, card)]
    monkeypatch.setattr(hardware, "gpus", lambda: cards)
    monkeypatch.setattr(hardware, "ram_bytes", lambda: (ram, ram))


def test_speech_is_espeak_s_where_no_indextts2_is_and_it_says_why(tmp_path: Path) -> None:
    choice = choose_synthesizer(settings(tmp_path))

    assert choice.spec.name == "espeak"
    assert choice.python is None
    assert choice.reason.startswith("embedded engine: IndexTTS2 cannot work, it is not installed: `bash start_app.sh indextts`")


def test_speech_is_indextts2_s_where_it_is_whole_and_its_licence_was_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_machine(monkeypatch, 24_000_000_000)
    python = install_checkout(tmp_path)

    choice = choose_synthesizer(settings(tmp_path))

    root = tmp_path / "index-tts"
    assert choice.options == {"root": str(root), "version": "2.0", "half": True, "beams": 3, "qwen": True}
    assert (choice.spec.name, choice.spec.languages, choice.spec.reads_emotion) == ("indextts2", ("auto", "zh", "en"), True)
    assert choice.reason == f"version 2.0 in {root}; with Qwen; half precision, 3 beams"
    assert worker_spec(choice, settings(tmp_path)).python == choice.python == str(python)


def test_the_newer_version_speaks_japanese_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, None)
    python = put_checkout(tmp_path / "mine", "2.5")

    choice = choose_synthesizer(settings(tmp_path, indextts_python=python))

    assert choice.spec.languages == ("auto", "zh", "en", "ja")
    assert (choice.options["version"], choice.options["half"]) == ("2.5", False)


def test_a_card_counts_as_large_as_the_settings_leave_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, 24_000_000_000)
    install_checkout(tmp_path)

    choice = choose_synthesizer(settings(tmp_path, gpu_memory_gb=5))

    assert (choice.options["beams"], choice.options["qwen"], choice.spec.reads_emotion) == (1, False, False)
    assert "without Qwen, for which there is no room" in choice.reason


def test_without_qwen_s_files_it_speaks_but_reads_no_emotion_from_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, 24_000_000_000)
    install_checkout(tmp_path, without=("qwen0.6bemo4-merge/model.safetensors",))

    choice = choose_synthesizer(settings(tmp_path))

    assert (choice.options["qwen"], choice.spec.reads_emotion) == (False, False)
    assert "without Qwen, which is not there" in choice.reason


@pytest.mark.parametrize(
    ("card", "without", "said"), [(24_000_000_000, ("gpt.pth",), "gpt.pth"), (3_000_000_000, (), "needs 4.0 GB of GPU memory")]
)
def test_what_keeps_indextts2_from_working_stops_only_who_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: int, without: tuple[str, ...], said: str
) -> None:
    on_a_machine(monkeypatch, card)
    install_checkout(tmp_path, without=without)

    choice = choose_synthesizer(settings(tmp_path))
    assert choice.spec.name == "espeak"
    assert said in choice.reason

    with pytest.raises(NoEngine, match=f"^engine indextts2 cannot work: .*{said}"):
        choose_synthesizer(settings(tmp_path, tts_engine="indextts2"))


def test_espeak_is_taken_although_indextts2_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, 24_000_000_000)
    install_checkout(tmp_path)

    choice = choose_synthesizer(settings(tmp_path, tts_engine="espeak"))

    assert (choice.spec.name, choice.reason) == ("espeak", "as set")
    assert worker_spec(choice, settings(tmp_path)).python == sys.executable
