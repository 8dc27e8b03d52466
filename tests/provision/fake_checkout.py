"""A checkout of IndexTTS2 in names and sizes, with an interpreter that is a real one and modules that are empty."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from steadyvoice.provision import indextts_checkout
from steadyvoice.provision.indextts_checkout import MARKER

MAIN = ("config.yaml", "bpe.model", "wav2vec2bert_stats.pt", "feat1.pt", "feat2.pt", "s2mel.pth", "gpt.pth")
ONLY_2_5 = ("codec.pth", "multilingual_zh_ja_yue_char_del.tiktoken")
AUXILIARY = (
    "w2v-bert-2.0/config.json",
    "w2v-bert-2.0/preprocessor_config.json",
    "w2v-bert-2.0/model.safetensors",
    "bigvgan/config.json",
    "bigvgan/bigvgan_generator.pt",
    "campplus_cn_common.bin",
    "semantic_codec_model.safetensors",
)
QWEN = ("qwen0.6bemo4-merge/config.json", "qwen0.6bemo4-merge/model.safetensors")


def put(folder: Path, *names: str, content: bytes = b"x") -> None:
    """Small files below `folder`, with the folders that they need."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def put_checkout(root: Path, version: Literal["2.0", "2.5"] = "2.0", *, without: tuple[str, ...] = ()) -> Path:
    """A checkout that lacks nothing but `without`; returns its interpreter."""
    modules = ("infer_v2.py", "infer_v2_5.py") if version == "2.5" else ("infer_v2.py",)
    put(root / "indextts", "__init__.py", *modules, content=b"raise AssertionError('it must not be imported')\n")
    main = (*MAIN, *QWEN, *(ONLY_2_5 if version == "2.5" else ()))
    put(root / "checkpoints", *(name for name in main if name not in without))
    put(root / "checkpoints" / "hf_cache", *(name for name in AUXILIARY if name not in without))
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(getattr(sys, "_base_executable", sys.executable))
    return python


def install_checkout(cache_hub: Path, version: Literal["2.0", "2.5"] = "2.0", *, without: tuple[str, ...] = ()) -> Path:
    """The same where start_app.sh installs it, with the licence accepted."""
    root = cache_hub / indextts_checkout.NAME
    python = put_checkout(root, version, without=without)
    (root / MARKER).touch()
    return python
