"""The user's IndexTTS2 is found with a real interpreter, and what it lacks is one sentence with the command that mends it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Literal

import pytest

from steadyvoice.provision import indextts_checkout
from steadyvoice.provision.indextts_checkout import (
    MARKER,
    Checkout,
    Fit,
    NotUsable,
    advice,
    find_checkout,
    has_qwen,
    weights_problem,
)
from steadyvoice.provision.release_files import MANIFEST
from steadyvoice.settings import Settings
from tests.provision.fake_checkout import AUXILIARY, MAIN, ONLY_2_5, install_checkout, put, put_checkout

GB = 1_000_000_000


def settings(tmp_path: Path, **fields: object) -> Settings:
    return Settings(_env_file=None, cache_hub=tmp_path / "hub", **fields)  # type: ignore[call-arg, arg-type]


def with_own(tmp_path: Path, version: Literal["2.0", "2.5"] = "2.0", *, without: tuple[str, ...] = ()) -> Checkout:
    """A checkout of the user's own."""
    python = put_checkout(tmp_path / "mine", version, without=without)
    return find_checkout(settings(tmp_path, indextts_python=python))


def script(path: Path, text: str) -> Path:
    """An interpreter that does as `text` says."""
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# Where it is


def test_the_user_s_own_interpreter_leads_to_its_checkout_and_keeps_its_link(tmp_path: Path) -> None:
    python = put_checkout(tmp_path / "mine")

    found = find_checkout(settings(tmp_path, indextts_python=python))

    assert found == Checkout(python, tmp_path / "mine", tmp_path / "mine" / "checkpoints", "2.0")
    assert found.python.is_symlink()


def test_without_a_setting_it_is_the_one_that_was_installed(tmp_path: Path) -> None:
    python = install_checkout(tmp_path / "hub")

    assert find_checkout(settings(tmp_path)).python == python


def test_one_that_was_not_installed_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(NotUsable, match=r"^it is not installed: `bash start_app\.sh indextts` .* STEADYVOICE_INDEXTTS_PYTHON$"):
        find_checkout(settings(tmp_path))


def test_one_whose_installation_was_cut_short_is_not_taken(tmp_path: Path) -> None:
    install_checkout(tmp_path / "hub")
    (tmp_path / "hub" / "index-tts" / MARKER).unlink()

    with pytest.raises(NotUsable, match=r"^its installation is not complete: `bash start_app\.sh indextts`"):
        find_checkout(settings(tmp_path))


def test_one_that_was_installed_and_lost_its_weights_names_the_command(tmp_path: Path) -> None:
    install_checkout(tmp_path / "hub")
    checkpoints = tmp_path / "hub" / "index-tts" / "checkpoints"
    checkpoints.rename(checkpoints.with_name(".checkpoints.part"))  # as a mending that was cut short leaves them

    with pytest.raises(NotUsable, match=r"^its weights are not there: `bash start_app\.sh indextts` brings them$"):
        find_checkout(settings(tmp_path))


@pytest.mark.parametrize(("version", "expected"), [("2.0", "2.0"), ("2.5", "2.5")])
def test_the_version_is_that_of_modules_and_weights(tmp_path: Path, version: Literal["2.0", "2.5"], expected: str) -> None:
    assert with_own(tmp_path, version).version == expected


def test_a_new_checkout_with_old_weights_is_the_old_version(tmp_path: Path) -> None:
    assert with_own(tmp_path, "2.5", without=("codec.pth",)).version == "2.0"


def test_a_checkout_of_2_5_alone_lacks_its_codec_and_is_not_taken_for_2_0(tmp_path: Path) -> None:
    python = put_checkout(tmp_path / "mine", "2.5", without=("codec.pth",))
    (tmp_path / "mine" / "indextts" / "infer_v2.py").unlink()

    found = find_checkout(settings(tmp_path, indextts_python=python))

    assert found.version == "2.5"
    assert "codec.pth" in str(weights_problem(found))


def test_the_app_s_own_path_does_not_reach_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "ours" / "indextts", "__init__.py", "infer_v2.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "ours"))
    python = put_checkout(tmp_path / "mine")
    shutil.rmtree(tmp_path / "mine" / "indextts")

    with pytest.raises(NotUsable, match=r"finds no indextts\.infer_v2 and no indextts\.infer_v2_5$"):
        find_checkout(settings(tmp_path, indextts_python=python))


def test_an_interpreter_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotUsable, match="is no interpreter: there is no such file"):
        find_checkout(settings(tmp_path, indextts_python=tmp_path / "none" / ".venv" / "bin" / "python"))


def test_an_interpreter_outside_of_a_checkout_is_said(tmp_path: Path) -> None:
    python = put_checkout(tmp_path / "mine")
    (tmp_path / "mine" / "checkpoints").rename(tmp_path / "elsewhere")

    with pytest.raises(NotUsable, match=r"has no folder checkpoints: an interpreter is wanted that lies in \.venv/bin"):
        find_checkout(settings(tmp_path, indextts_python=python))


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("""echo '{"version": [3, 12, 1], "found": ["infer_v2"]}'""", "is Python 3.12, and IndexTTS2 is for 3.10 and 3.11"),
        ("""echo '{"version": [3, 9, 1], "found": ["infer_v2"]}'""", "is Python 3.9, and"),
        ("exit 3", "ends with status 3"),
        ("echo hello", "answers as no Python does"),
        ("true", "answers as no Python does"),
        ("""echo '{"version": 3}'""", "answers as no Python does"),
        ("exec sleep 60", "gives no answer within 0.2 s"),
    ],
)
def test_an_interpreter_that_is_wrong_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, said: str
) -> None:
    monkeypatch.setattr(indextts_checkout, "PROBE_TIMEOUT_S", 0.2 if "sleep" in does else 30.0)
    python = script(put_checkout(tmp_path / "mine"), does)

    with pytest.raises(NotUsable) as refused:
        find_checkout(settings(tmp_path, indextts_python=python))

    assert str(refused.value).startswith(f"{python} {said}")


def test_a_file_that_cannot_be_run_is_said(tmp_path: Path) -> None:
    python = script(put_checkout(tmp_path / "mine"), "true")
    python.chmod(0o644)

    with pytest.raises(NotUsable, match=r"cannot be run: Permission denied$"):
        find_checkout(settings(tmp_path, indextts_python=python))


def test_an_interpreter_that_talks_first_is_understood(tmp_path: Path) -> None:
    python = script(
        put_checkout(tmp_path / "mine"), """echo "a warning"; echo '{"version": [3, 10, 4], "found": ["infer_v2"]}'"""
    )

    assert find_checkout(settings(tmp_path, indextts_python=python)).version == "2.0"


def test_the_interpreter_is_asked_once(tmp_path: Path) -> None:
    python = script(
        put_checkout(tmp_path / "mine"), """echo call >> calls; echo '{"version": [3, 11, 1], "found": ["infer_v2"]}'"""
    )

    for _ in range(3):
        find_checkout(settings(tmp_path, indextts_python=python))

    assert (tmp_path / "mine" / "calls").read_text() == "call\n"


# Whether its weights are whole


@pytest.mark.parametrize("version", ["2.0", "2.5"])
def test_whole_weights_have_no_problem(tmp_path: Path, version: Literal["2.0", "2.5"]) -> None:
    without = ("bpe.model", "semantic_codec_model.safetensors") if version == "2.5" else ()
    found = with_own(tmp_path, version, without=without)

    assert weights_problem(found, qwen=True) is None
    assert has_qwen(found)


@pytest.mark.parametrize("name", MAIN)
def test_a_file_of_the_model_that_is_missing_is_named_with_the_command_that_brings_it(tmp_path: Path, name: str) -> None:
    found = with_own(tmp_path, without=(name,))

    assert weights_problem(found) == (
        f"missing or empty in {found.checkpoints}: {name}; "
        f"`hf download IndexTeam/IndexTTS-2 {name} --local-dir {found.checkpoints}` brings that"
    )


def test_a_file_of_2_5_comes_from_its_own_repository(tmp_path: Path) -> None:
    found = with_own(tmp_path, "2.5", without=ONLY_2_5[1:])

    assert f"`hf download IndexTeam/IndexTTS-2.5 {ONLY_2_5[1]} " in str(weights_problem(found))


@pytest.mark.parametrize("name", AUXILIARY)
def test_a_file_of_another_model_that_is_missing_or_empty_is_named(tmp_path: Path, name: str) -> None:
    found = with_own(tmp_path, without=(name,))
    missing = weights_problem(found)
    put(found.checkpoints / "hf_cache", name, content=b"")

    assert str(missing).startswith(f"missing or empty in {found.checkpoints / 'hf_cache'}: {name}; `hf download ")
    assert weights_problem(found) == missing


@pytest.mark.parametrize(
    ("names", "repository", "kept"),
    [
        (AUXILIARY[:3], "facebook--w2v-bert-2.0", ("config.json", "preprocessor_config.json", "model.safetensors")),
        (AUXILIARY[3:5], "nvidia--bigvgan_v2_22khz_80band_256x", ("config.json", "bigvgan_generator.pt")),
        (AUXILIARY[5:6], "funasr--campplus", ("campplus_cn_common.bin",)),
        (AUXILIARY[6:], "amphion--MaskGCT", ("semantic_codec/model.safetensors",)),
    ],
)
def test_what_the_hub_s_own_cache_holds_is_there(
    tmp_path: Path, names: tuple[str, ...], repository: str, kept: tuple[str, ...]
) -> None:
    found = with_own(tmp_path, without=names)
    assert names[0] in str(weights_problem(found))
    assert repository.replace("--", "/") in str(weights_problem(found))
    snapshots = found.checkpoints / "hf_cache" / f"models--{repository}" / "snapshots"
    put(snapshots / "abc", *kept[:-1])
    assert weights_problem(found) is not None

    put(snapshots / "abc", kept[-1])

    assert weights_problem(found) is None


def test_qwen_is_asked_for_only_where_it_is_wanted(tmp_path: Path) -> None:
    found = with_own(tmp_path, without=("qwen0.6bemo4-merge/model.safetensors",))

    assert not has_qwen(found)
    assert weights_problem(found) is None
    assert "--include 'qwen0.6bemo4-merge/*'" in str(weights_problem(found, qwen=True))


def test_what_was_installed_is_mended_by_the_same_command(tmp_path: Path) -> None:
    install_checkout(tmp_path / "hub", without=("gpt.pth", "feat1.pt"))

    problem = weights_problem(find_checkout(settings(tmp_path)))

    assert str(problem).endswith("/checkpoints: feat1.pt, gpt.pth; `bash start_app.sh indextts` brings that")


@pytest.mark.parametrize(("folder", "name"), [("", "gpt.pth"), ("hf_cache/bigvgan", "bigvgan_generator.pt")])
def test_a_size_that_differs_from_its_manifest_is_said(tmp_path: Path, folder: str, name: str) -> None:
    install_checkout(tmp_path / "hub")
    found = find_checkout(settings(tmp_path))
    put(found.checkpoints / folder, name, content=b"123456")
    (found.checkpoints / folder / MANIFEST).write_text(json.dumps({"files": {name: {"size": 6}}}))
    assert weights_problem(found) is None

    os.truncate(found.checkpoints / folder / name, 5)

    assert f"{name} has 5 bytes, its manifest says 6: `bash start_app.sh indextts`" in str(weights_problem(found))


# How much of it the machine can hold


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (24 * GB, ("half", 3, True)),
        (10 * GB, ("half", 3, True)),
        (10 * GB - 1, ("half", 3, False)),
        (6 * GB, ("half", 3, False)),
        (6 * GB - 1, ("half", 1, False)),
        (4 * GB, ("half", 1, False)),
    ],
)
def test_a_smaller_card_is_asked_for_less(card: int, expected: tuple[str, int, bool]) -> None:
    fit = advice(card, 32 * GB)

    assert (fit.precision, fit.beams, fit.qwen) == expected


def test_where_nobody_knows_whether_it_fits_that_is_said() -> None:
    assert "not known to fit under 5.5 GB" in advice(5 * GB, 32 * GB).sentence
    assert "not known" not in advice(6 * GB, 32 * GB).sentence


def test_without_a_card_it_runs_on_the_cpu_in_full_precision_and_slowly() -> None:
    fit = advice(None, 32 * GB)

    assert fit == Fit("full", 3, True, fit.sentence)
    assert "slow" in fit.sentence
    assert not advice(None, 12 * GB).qwen


@pytest.mark.parametrize(
    ("card", "ram", "said"),
    [
        (24 * GB, 8 * GB - 100_000_000, "it needs 8.0 GB of RAM, this machine has 7.9 GB"),
        (None, 4 * GB, "it needs 8.0 GB of RAM, this machine has 4.0 GB"),
        (3 * GB, 32 * GB, "it needs 4.0 GB of GPU memory, 3.0 GB are there"),
    ],
)
def test_a_machine_that_is_too_small_is_told_both_numbers(card: int | None, ram: int, said: str) -> None:
    with pytest.raises(NotUsable, match=said):
        advice(card, ram)
