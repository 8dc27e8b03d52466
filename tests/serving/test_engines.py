from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from steadyvoice.serving.engines import NoEngine, choose_recognizer, choose_synthesizer
from steadyvoice.settings import Settings

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

    assert choice.card.name == "sensevoice"
    assert choice.options == {"directory": str(folder), "revision": "local", "precision": "bf16"}
    assert str(folder) in choice.reason


def test_the_revision_is_the_one_that_was_fetched(tmp_path: Path) -> None:
    folder = release(tmp_path / "SenseVoiceSmall")
    (folder / "steadyvoice.json").write_text(json.dumps({"revision": "abc", "files": {}}))

    assert choose_recognizer(settings(tmp_path)).options["revision"] == "abc"


def test_auto_is_the_embedded_engine_where_no_release_is_and_says_why(tmp_path: Path) -> None:
    choice = choose_recognizer(settings(tmp_path))

    assert choice.card.name == "pocketsphinx"
    assert choice.options == {}
    assert "SenseVoiceSmall does not exist" in choice.reason


def test_half_a_release_is_none(tmp_path: Path) -> None:
    release(tmp_path / "SenseVoiceSmall", "model.pt")

    choice = choose_recognizer(settings(tmp_path))

    assert choice.card.name == "pocketsphinx"
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

    assert (choice.card.name, choice.options) == ("funasr", {"model": str(folder)})


def test_funasr_needs_its_own_description_of_a_release(tmp_path: Path) -> None:
    release(tmp_path / "SenseVoiceSmall", "configuration.json")

    with pytest.raises(NoEngine, match=r"configuration\.json"):
        choose_recognizer(settings(tmp_path, asr_engine="funasr"))


def test_funasr_runs_another_model_by_name_without_a_release(tmp_path: Path) -> None:
    choice = choose_recognizer(settings(tmp_path, asr_engine="funasr", funasr_model="paraformer-zh"))

    assert choice.options == {"model": "paraformer-zh"}


def test_pocketsphinx_is_taken_although_a_release_is_there(tmp_path: Path) -> None:
    release(tmp_path / "SenseVoiceSmall")

    assert choose_recognizer(settings(tmp_path, asr_engine="pocketsphinx")).card.name == "pocketsphinx"


@pytest.mark.parametrize(("engine", "package"), [("sensevoice", "torch"), ("funasr", "funasr"), ("pocketsphinx", "pocketsphinx")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, package: str) -> None:
    release(tmp_path / "SenseVoiceSmall")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))

    with pytest.raises(NoEngine, match=f"package {package} is not installed"):
        choose_recognizer(settings(tmp_path, asr_engine=engine))


def test_speech_is_espeak_s(tmp_path: Path) -> None:
    assert choose_synthesizer(settings(tmp_path)).card.name == "espeak"
