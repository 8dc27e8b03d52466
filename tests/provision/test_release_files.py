from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from steadyvoice.provision.release_files import FILES, MANIFEST, release_dir, release_problem, revision_of
from steadyvoice.settings import Settings


def put_by_hand(folder: Path) -> Path:
    """A release directory without our manifest."""
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_bytes(b"x" * 100)
    return folder


def test_the_release_is_where_the_user_says_or_in_cache_hub(tmp_path: Path) -> None:
    assert release_dir(Settings(_env_file=None, cache_hub=tmp_path)) == tmp_path / "SenseVoiceSmall"
    assert release_dir(Settings(_env_file=None, cache_hub=tmp_path, sensevoice_dir=Path("/mine"))) == Path("/mine")


def test_a_directory_that_was_put_there_by_hand_is_a_release(tmp_path: Path) -> None:
    folder = put_by_hand(tmp_path / "mine")
    (folder / "configuration.json").unlink()  # FunASR's
    assert release_problem(folder) is None
    assert revision_of(folder) == "local"


@pytest.mark.parametrize("name", ["config.yaml", "am.mvn", "model.pt", "chn_jpn_yue_eng_ko_spectok.bpe.model"])
def test_a_directory_with_a_file_missing_or_empty_is_none(name: str, tmp_path: Path) -> None:
    folder = put_by_hand(tmp_path / "mine")
    (folder / name).write_bytes(b"")
    assert release_problem(folder) == f"{folder} has an empty {name}"
    (folder / name).unlink()
    assert str(release_problem(folder)).startswith(f"{folder} has no ")


@pytest.mark.parametrize("leftover", ["model.pt.incomplete", "model.pt.parallel_tmp", "._____temp/model.pt"])
def test_a_directory_with_an_unfinished_download_is_none(leftover: str, tmp_path: Path) -> None:
    folder = put_by_hand(tmp_path / "mine")
    (folder / "._____temp").mkdir()  # which earlier clients leave behind, empty
    assert release_problem(folder) is None
    (folder / leftover).write_bytes(b"half")
    assert "holds an unfinished download: model.pt" in str(release_problem(folder))


def test_sizes_that_differ_from_the_manifest_make_a_directory_none(tmp_path: Path) -> None:
    folder = put_by_hand(tmp_path / "mine")
    manifest: dict[str, Any] = {"source": "", "revision": "abc", "files": {"model.pt": {"size": 100, "sha256": ""}}}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert release_problem(folder) is None
    assert revision_of(folder) == "abc"
    os.truncate(folder / "model.pt", 99)
    assert release_problem(folder) == f"{folder / 'model.pt'} has 99 bytes, its manifest says 100"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"files": []}', '{"files": {"model.pt": null}}', "\udcff"])
def test_a_manifest_that_is_none_is_said(text: str, tmp_path: Path) -> None:
    folder = put_by_hand(tmp_path / "mine")
    (folder / MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    assert release_problem(folder) == f"{folder / MANIFEST} cannot be understood"
    assert revision_of(folder) == "local"


def test_no_directory_and_a_file_are_none(tmp_path: Path) -> None:
    assert release_problem(tmp_path / "x") == f"{tmp_path / 'x'} does not exist"
    (tmp_path / "x").touch()
    assert release_problem(tmp_path / "x") == f"{tmp_path / 'x'} cannot be read: Not a directory"
