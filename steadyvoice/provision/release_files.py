"""What a release is, and whether a directory holds that of SenseVoiceSmall, whole.

Names, sizes and our own manifest are all that is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadyvoice.settings import Settings

MANIFEST = "steadyvoice.json"


@dataclass(frozen=True)
class Release:
    """Files that belong together, as the hubs have them."""

    name: str
    repositories: dict[str, str]  # by hub
    files: tuple[str, ...]  # in the order in which they come; a name that ends in "/" is all that lies below it
    weights: tuple[str, ...]  # those of them that do not come without a SHA-256
    max_bytes: float  # of all of them; a listing of more is not believed

    def wants(self, name: str) -> bool:
        return any(covers(entry, name) for entry in self.files)


def covers(entry: str, name: str) -> bool:
    """Whether an entry of `Release.files` stands for the file `name`."""
    return name == entry or (entry.endswith("/") and name.startswith(entry))


NAME = "SenseVoiceSmall"
WEIGHTS = "model.pt"
# What is fetched, the small files first. FunASR alone reads configuration.json.
FILES = ("config.yaml", "configuration.json", "am.mvn", "chn_jpn_yue_eng_ko_spectok.bpe.model", WEIGHTS)
SENSEVOICE = Release(
    NAME, {"modelscope": f"iic/{NAME}", "huggingface": f"FunAudioLLM/{NAME}"}, FILES, (WEIGHTS,), max_bytes=4e9
)  # 0.94 GB
NEEDED = ("config.yaml", "am.mvn", WEIGHTS)  # and a *.bpe.model


def release_dir(settings: Settings) -> Path:
    """Where the release is, or would be: the user's own directory, else the one in `cache_hub`."""
    return settings.sensevoice_dir or settings.cache_hub / NAME


def release_problem(folder: Path) -> str | None:
    """What keeps `folder` from being a release that can be loaded, in one sentence; None if nothing does.

    One that was put there by hand needs the files that are loaded; one that was fetched also needs the sizes in its manifest.
    Reads names and sizes only.
    """
    try:
        sizes = {entry.name: entry.stat().st_size for entry in folder.iterdir() if entry.is_file()}
        old_client = folder / "._____temp"  # where ModelScope's earlier clients put what is on its way
        unfinished = sorted(name for name in sizes if name.endswith((".incomplete", ".parallel_tmp")))
        unfinished += [path.name for path in old_client.rglob("*") if path.is_file()] if old_client.is_dir() else []
    except FileNotFoundError:
        return f"{folder} does not exist"
    except OSError as error:
        return f"{folder} cannot be read: {error.strerror}"
    tokenizers = [name for name in sizes if name.endswith(".bpe.model")]
    if missing := [name for name in NEEDED if name not in sizes] + ([] if tokenizers else ["*.bpe.model"]):
        return f"{folder} has no {', '.join(missing)}"
    if empty := [name for name in (*NEEDED, *tokenizers) if not sizes[name]]:
        return f"{folder} has an empty {', '.join(empty)}"
    if unfinished:
        return f"{folder} holds an unfinished download: {unfinished[0]}"
    return manifest_problem(folder)


def manifest_problem(folder: Path) -> str | None:
    """The first file below `folder` that has not the size in its manifest, in one sentence; None also without a manifest."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        listed = {str(name): int(file["size"]) for name, file in _manifest(folder)["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{folder / MANIFEST} cannot be understood"
    for name, size in listed.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if found != size:
            return f"{folder / name} has {found} bytes, its manifest says {size}"
    return None


def revision_of(folder: Path) -> str:
    """The revision that was fetched into `folder`; "local" if the files were put there by hand."""
    try:
        return str(_manifest(folder)["revision"])
    except (OSError, ValueError, TypeError, KeyError):
        return "local"


def is_wanted(settings: Settings) -> bool:
    """Whether these settings leave it to `steadyvoice.provision.download` to fetch the release."""
    another_model = settings.asr_engine == "funasr" and settings.funasr_model is not None
    elsewhere = settings.hub == "none" or settings.sensevoice_dir is not None or settings.asr_engine == "pocketsphinx"
    return not (elsewhere or another_model)


def _manifest(folder: Path) -> Any:
    return json.loads((folder / MANIFEST).read_bytes())
