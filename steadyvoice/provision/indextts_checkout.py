"""Where the user's IndexTTS2 is, whether it is whole, and how much of it this machine can hold.

Its checkout, environment and weights are the user's: none of it is imported here or comes with this program. The interpreter is
asked what it can import; of the weights names, sizes and our own manifests are read.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steadyvoice.provision.release_files import MANIFEST, Release, manifest_problem
from steadyvoice.settings import PREFIX, Settings

NAME = "index-tts"
MARKER = ".licence-accepted"  # written last: where it is, the installation was completed
COMMAND = "bash start_app.sh indextts"
QWEN = "qwen0.6bemo4-merge/"  # reads an emotion from words

PYTHON_AT_LEAST, PYTHON_BELOW = (3, 10), (3, 12)
PROBE_TIMEOUT_S = 30.0
MIN_RAM = 8e9  # bytes, of the whole machine
MIN_VRAM = 4e9  # bytes, of the whole card
# Reported on an RTX 4090, for one short utterance: 6.5 GB in half precision with Qwen, 5.5 GB without.
VRAM_FOR_QWEN, VRAM_FOR_BEAMS = 10e9, 6e9
RAM_FOR_QWEN = 16e9  # bytes, where the model itself lies in RAM in full precision

MAIN = Release(
    "IndexTTS-2",
    {"modelscope": "IndexTeam/IndexTTS-2", "huggingface": "IndexTeam/IndexTTS-2"},
    ("config.yaml", "bpe.model", "wav2vec2bert_stats.pt", "feat1.pt", "feat2.pt", "s2mel.pth", "gpt.pth"),
    weights=("s2mel.pth", "gpt.pth"),
    max_bytes=15e9,  # it has 6 GB
)
W2V_BERT = Release(
    "w2v-bert-2.0",
    {"modelscope": "AI-ModelScope/w2v-bert-2.0", "huggingface": "facebook/w2v-bert-2.0"},
    ("config.json", "preprocessor_config.json", "model.safetensors"),
    weights=("model.safetensors",),
    max_bytes=5e9,
)
CAMPPLUS = Release(
    "campplus",
    {"modelscope": "iic/speech_campplus_sv_zh-cn_16k-common", "huggingface": "funasr/campplus"},
    ("campplus_cn_common.bin",),
    weights=("campplus_cn_common.bin",),
    max_bytes=1e9,
)
BIGVGAN = Release(
    "bigvgan",
    dict.fromkeys(("modelscope", "huggingface"), "nvidia/bigvgan_v2_22khz_80band_256x"),
    ("config.json", "bigvgan_generator.pt"),
    weights=("bigvgan_generator.pt",),
    max_bytes=2e9,
)
SEMANTIC_CODEC = Release(
    "MaskGCT",
    dict.fromkeys(("modelscope", "huggingface"), "amphion/MaskGCT"),
    ("semantic_codec/model.safetensors",),
    weights=("semantic_codec/model.safetensors",),
    max_bytes=1e9,
)
SEMANTIC_CODEC_FILE = "semantic_codec_model.safetensors"  # as it is called where it is read
# In place of bpe.model and MaskGCT's codec, 2.5 has its own, and a repository of its own.
MAIN_2_5 = Release(
    "IndexTTS-2.5",
    {"modelscope": "IndexTeam/IndexTTS-2.5", "huggingface": "IndexTeam/IndexTTS-2.5"},
    (*(name for name in MAIN.files if name != "bpe.model"), "codec.pth", "multilingual_zh_ja_yue_char_del.tiktoken"),
    weights=(*MAIN.weights, "codec.pth"),
    max_bytes=15e9,
)

# Prints on its last line, as JSON, the version of Python and which of the two classes' modules are there. Imports none of them:
# that would bring torch.
_PROBE = """
import importlib.machinery, json, os, sys
sys.path.insert(0, os.getcwd())
package = importlib.machinery.PathFinder.find_spec("indextts")
places = package.submodule_search_locations if package else None
found = [name for name in ("infer_v2_5", "infer_v2")
         if places and importlib.machinery.PathFinder.find_spec("indextts." + name, places)]
print(json.dumps({"version": sys.version_info[:3], "found": found}))
"""


class NotUsable(Exception):
    """IndexTTS2 cannot work here. The message is one sentence."""


@dataclass(frozen=True)
class Checkout:
    """One IndexTTS2 on this machine. `python` keeps its links: it is what tells an environment from the Python beneath it."""

    python: Path
    root: Path
    checkpoints: Path
    version: Literal["2.0", "2.5"]


@dataclass(frozen=True)
class Fit:
    """How the model is run on this machine."""

    precision: Literal["half", "full"]
    beams: Literal[3, 1]
    qwen: bool  # has a place for the model that reads an emotion from words
    sentence: str  # of precision and beams, and what to fear


def home(settings: Settings) -> Path:
    """Where `start_app.sh indextts` installs it."""
    return settings.cache_hub / NAME


def interpreter(settings: Settings) -> Path:
    """The user's own, else the one that was installed."""
    return settings.indextts_python or home(settings) / ".venv" / "bin" / "python"


def find_checkout(settings: Settings) -> Checkout:
    """The checkout that these settings lead to; its weights are not looked at. Raises NotUsable."""
    python = interpreter(settings)
    root = python.parent.parent.parent
    checkpoints = root / "checkpoints"
    if settings.indextts_python is None and not (home(settings) / MARKER).is_file():
        state = "its installation is not complete" if root.is_dir() else "it is not installed"
        raise NotUsable(f"{state}: `{COMMAND}` does that, or name your own in {PREFIX}INDEXTTS_PYTHON")
    if not python.is_file():
        raise NotUsable(f"{python} is no interpreter: there is no such file")
    if not checkpoints.is_dir():
        if settings.indextts_python is None:
            raise NotUsable(f"its weights are not there: `{COMMAND}` brings them")
        raise NotUsable(f"{root} has no folder checkpoints: an interpreter is wanted that lies in .venv/bin of a checkout")
    version, modules = _probe(python, root)
    if not PYTHON_AT_LEAST <= version < PYTHON_BELOW:
        raise NotUsable(f"{python} is Python {version[0]}.{version[1]}, and IndexTTS2 is for 3.10 and 3.11")
    if "infer_v2_5" in modules and ((checkpoints / "codec.pth").is_file() or "infer_v2" not in modules):
        return Checkout(python, root, checkpoints, "2.5")
    if "infer_v2" in modules:
        return Checkout(python, root, checkpoints, "2.0")
    raise NotUsable(f"{python} finds no indextts.infer_v2 and no indextts.infer_v2_5")


@functools.cache
def _probe(python: Path, root: Path) -> tuple[tuple[int, int], frozenset[str]]:
    """(the interpreter's version, which modules it finds), asked once in a process. Raises NotUsable."""
    ours = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        answer = subprocess.run(
            [str(python), "-c", _PROBE],
            cwd=root,
            env=ours,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
            check=True,
        )
        told = json.loads(answer.stdout.splitlines()[-1])
        return (int(told["version"][0]), int(told["version"][1])), frozenset(map(str, told["found"]))
    except subprocess.TimeoutExpired as error:
        raise NotUsable(f"{python} gives no answer within {PROBE_TIMEOUT_S:g} s") from error
    except subprocess.CalledProcessError as error:
        raise NotUsable(f"{python} ends with status {error.returncode} where it is asked for its version") from error
    except OSError as error:
        raise NotUsable(f"{python} cannot be run: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise NotUsable(f"{python} answers as no Python does") from error


def weights_problem(checkout: Checkout, *, qwen: bool = False) -> str | None:
    """What keeps the weights from being loaded, in one sentence with the command that mends it; None if nothing does.

    With `qwen` its folder is asked for as well. Reads names and sizes only.
    """
    checkpoints, hf_cache = checkout.checkpoints, checkout.checkpoints / "hf_cache"
    try:
        main = MAIN_2_5 if checkout.version == "2.5" else MAIN
        lacking = _lacking(checkpoints, main.files)
        if qwen and not has_qwen(checkout):
            lacking.append(QWEN)
        if lacking:
            return _told(checkout, main, checkpoints, lacking, f"--local-dir {checkpoints}")
        for release, names in _auxiliaries(checkout.version):
            lacking = _lacking(hf_cache, names)
            if lacking and all(_lacking(snapshot, release.files) for snapshot in _snapshots(hf_cache, release)):
                # Into the hub's own layout: from MaskGCT it is a file that has another name where it is read.
                return _told(checkout, release, hf_cache, lacking, f"--cache-dir {hf_cache}")
        for manifest in (checkpoints / MANIFEST, *sorted(hf_cache.glob(f"*/{MANIFEST}"))):
            if problem := manifest_problem(manifest.parent):
                return f"{problem}: `{COMMAND}` fetches it again"
    except OSError as error:
        return f"{checkpoints} cannot be read: {error.strerror}"
    return None


def has_qwen(checkout: Checkout) -> bool:
    """Whether the model that reads an emotion from words is there."""
    return not _lacking(checkout.checkpoints / QWEN, ("config.json", "model.safetensors"))


def advice(gpu_total: int | None, ram_total: int) -> Fit:
    """How the model fits a card of `gpu_total` bytes, None without one, in a machine of `ram_total` bytes. Raises NotUsable."""
    if ram_total < MIN_RAM:
        raise NotUsable(f"it needs {_gb(MIN_RAM)} of RAM, this machine has {_gb(ram_total)}")
    if gpu_total is None:
        qwen = ram_total >= RAM_FOR_QWEN
        return Fit("full", 3, qwen, "full precision, 3 beams, on the CPU, which works but is slow")
    if gpu_total < MIN_VRAM:
        raise NotUsable(f"it needs {_gb(MIN_VRAM)} of GPU memory, {_gb(gpu_total)} are there")
    if gpu_total >= VRAM_FOR_QWEN:
        return Fit("half", 3, True, "half precision, 3 beams")
    if gpu_total >= VRAM_FOR_BEAMS:
        return Fit("half", 3, False, "half precision, 3 beams")
    caution = f"not known to fit under 5.5 GB, and of {_gb(gpu_total)} it may run out, which it will say"
    return Fit("half", 1, False, f"half precision, 1 beam, {caution}")


def _auxiliaries(version: Literal["2.0", "2.5"]) -> list[tuple[Release, tuple[str, ...]]]:
    """The other models that are loaded, each with the names below `hf_cache` under which its files are read."""
    found = [
        (W2V_BERT, tuple(f"{W2V_BERT.name}/{name}" for name in W2V_BERT.files)),
        (BIGVGAN, tuple(f"{BIGVGAN.name}/{name}" for name in BIGVGAN.files)),
        (CAMPPLUS, CAMPPLUS.files),
    ]
    return found if version == "2.5" else [*found, (SEMANTIC_CODEC, (SEMANTIC_CODEC_FILE,))]


def _lacking(folder: Path, names: tuple[str, ...]) -> list[str]:
    """Those that are not below `folder` or are empty."""
    return [name for name in names if not (folder / name).is_file() or not (folder / name).stat().st_size]


def _snapshots(hf_cache: Path, release: Release) -> list[Path]:
    """Where Hugging Face's own cache keeps a repository: one folder for each revision."""
    folder = hf_cache / f"models--{release.repositories['huggingface'].replace('/', '--')}" / "snapshots"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _told(checkout: Checkout, release: Release, folder: Path, lacking: list[str], where: str) -> str:
    """One sentence. A checkout of the user's own is not ours to fetch into."""
    if (checkout.root / MARKER).is_file():
        command = COMMAND
    elif lacking == [QWEN]:
        command = f"hf download {release.repositories['huggingface']} --include '{QWEN}*' {where}"
    else:
        names = [name for name in lacking if name in release.files] or list(release.files)
        command = f"hf download {release.repositories['huggingface']} {' '.join(names)} {where}"
    return f"missing or empty in {folder}: {', '.join(lacking)}; `{command}` brings that"


def _gb(amount: float) -> str:
    return f"{amount / 1e9:.1f} GB"
