"""A package `indextts` with the classes, arguments and errors of IndexTTS2 2.0 and 2.5, and tones for speech.

What was asked for can be heard in the answer (`testing.indextts2_tones`): one tone tells the voice, one the emotion, and a row of
tones the text. It draws from Python's global generator, as the original does from torch's, holds one voice at a time by the path
of its file, may be used by one thread only, and prints what it is given. Words in the text make it fail: see `FAULTS`.

Runs under the interpreter of a checkout; imports the standard library and numpy only.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RATE = 22_050
KV_BYTES = {"half": 120 * 1024, "full": 240 * 1024}  # per token and beam
GENERATION = {
    *("do_sample", "top_p", "top_k", "temperature", "length_penalty", "num_beams", "repetition_penalty", "max_mel_tokens"),
}

# Bands of the tones, Hz. Far enough apart for every codec, and for a change of speed without one of pitch.
VOICE_HZ, VOICE_STEP, VOICES = 400, 25, 16
EMOTION_HZ, EMOTION_STEP = 1_000, 100
TEXT_HZ, TEXT_STEP, SYMBOLS, SYMBOL_VALUES = 2_000, 100, 8, 12
REFERENCE_HZ, REFERENCE_STEP, REFERENCES = 3_500, 50, 8

FAULTS = ("oomalways", "oombeams", "asserts", "hangs", "dies", "silence", "quietonce", "tooshort", "endless", "raises")


def number_of(content: bytes, values: int) -> int:
    """A number for what a file holds."""
    return int.from_bytes(hashlib.sha256(content).digest()[:4], "big") % values


def code_of(text: str) -> tuple[int, ...]:
    """The symbols that stand for a text: letters and digits alone, since cleaning may touch the rest."""
    digest = hashlib.sha256("".join(c for c in text.lower() if c.isalnum()).encode()).digest()
    return tuple(byte % SYMBOL_VALUES for byte in digest[:SYMBOLS])


def seconds_of(text: str) -> float:
    """How long it takes to say."""
    return max(0.4, sum(0.2 if ord(c) > 0x2E80 else 0.08 for c in text))


class _Standin:
    """What both versions have in common."""

    codes_per_second = 50.1
    version = "2.0"

    def __init__(self, model_dir: str, cfg_path: str, half: bool, qwen: bool, aux_paths: dict[str, str] | None = None) -> None:
        if not Path(cfg_path).is_file():
            raise FileNotFoundError(cfg_path)
        settings = Path(model_dir) / "standin.json"
        told = json.loads(settings.read_text()) if settings.is_file() else {}
        self._rtf = float(told.get("rtf", 0.0))
        self._voice_s = float(told.get("voice_s", 0.0))  # to listen to a reference
        self._kv_bytes = KV_BYTES["half" if half else "full"] if told.get("memory") else 0
        time.sleep(float(told.get("load_s", 0.0)))
        if told.get("log"):
            Path(told["log"]).write_text(
                json.dumps(
                    {
                        "half": half,
                        "qwen": qwen,
                        "cwd": os.getcwd(),
                        "aux": aux_paths,
                        "offline": os.environ.get("HF_HUB_OFFLINE"),
                    }
                )
            )
        self._qwen = qwen
        self._voice: tuple[str, int] | None = None
        self._emotion: tuple[str, int] | None = None
        self._busy = threading.Lock()
        self._heard: set[str] = set()

    def _infer(
        self,
        prompt: str,
        text: str,
        output_path: str | None,
        emo_audio_prompt: str | None,
        emo_alpha: float,
        emo_vector: list[float] | None,
        use_emo_text: bool,
        emo_text: str | None,
        stretch: float,
        generation: dict[str, Any],
    ) -> Any:
        if not self._busy.acquire(blocking=False):
            raise TypeError("unsupported operand type(s) for -: 'NoneType' and 'Tensor'")  # what two threads really meet
        try:
            print(f">> origin text: {text}")
            unknown = sorted(set(generation) - GENERATION)
            if unknown:
                raise ValueError(f"these keywords reach the generation, which does not use them: {unknown}")
            if use_emo_text:
                if not self._qwen:
                    raise RuntimeError("use_emo_text=True needs QwenEmotion, which was not loaded")
                emo_vector = [0.0] * 8
                emo_vector[number_of((emo_text or text).encode(), 8)] = 1.0
            if emo_vector is not None:
                emo_audio_prompt = None
                emo_vector = [value * min(1.0, max(0.0, emo_alpha)) for value in emo_vector]
            voice = self._listen(prompt)
            emotion = self._listen_for_emotion(emo_audio_prompt) if emo_audio_prompt else None
            if not any(c.isalnum() for c in text):
                raise RuntimeError("torch.cat(): expected a non-empty list of Tensors")
            codes = self._codes(text, generation)
            samples = self._say(text, codes, stretch, voice, emo_vector, emotion, emo_alpha)
            if output_path is None:
                return RATE, samples.reshape(-1, 1)
            raise NotImplementedError("files are named by the clock there; the tests ask for none")
        finally:
            self._busy.release()

    def _listen(self, path: str) -> int:
        if self._voice is None or self._voice[0] != path:
            time.sleep(self._voice_s)
            self._voice = (path, number_of(Path(path).read_bytes(), VOICES))
        return self._voice[1]

    def _listen_for_emotion(self, path: str) -> int:
        if self._emotion is None or self._emotion[0] != path:
            self._emotion = (path, number_of(Path(path).read_bytes(), REFERENCES))
        return self._emotion[1]

    def _codes(self, text: str, generation: dict[str, Any]) -> int:
        """How many codes are generated; here everything goes wrong that can."""
        limit, beams = int(generation.get("max_mel_tokens", 1500)), int(generation.get("num_beams", 3))
        codes = round(seconds_of(text) * self.codes_per_second)
        fault = next((fault for fault in FAULTS if fault in text.lower()), None)
        first = text not in self._heard
        self._heard = {*list(self._heard)[-1_000:], text}
        if fault == "oomalways" or (fault == "oombeams" and beams > 1):
            raise RuntimeError("CUDA out of memory. Tried to allocate 1.07 GiB.")
        if fault == "asserts":
            raise RuntimeError("CUDA error: device-side assert triggered")
        if fault == "raises":
            raise ValueError("a secret of the model")
        if fault == "dies":
            os._exit(9)
        while fault == "hangs":
            time.sleep(1)
        self._quiet = fault == "silence" or (fault == "quietonce" and first)
        if fault == "tooshort":
            codes = 5
        if fault == "endless" or codes >= limit:
            codes = limit
            warnings.warn(f"generation stopped due to exceeding `max_mel_tokens` ({limit})", RuntimeWarning, stacklevel=2)
        cache = bytearray(codes * beams * self._kv_bytes)
        cache[::4_096] = b"\1" * len(cache[::4_096])
        time.sleep(self._rtf * codes / self.codes_per_second)
        return codes

    def _say(
        self, text: str, codes: int, stretch: float, voice: int, vector: list[float] | None, emotion: int | None, alpha: float
    ) -> np.ndarray[Any, np.dtype[np.int16]]:
        at = np.arange(int(codes / self.codes_per_second * stretch * RATE)) / RATE
        if self._quiet:
            return np.zeros(len(at), np.int16)
        loud = np.sin(2 * np.pi * (VOICE_HZ + VOICE_STEP * voice) * at)
        for index, strength in enumerate(vector or ()):
            loud += strength * np.sin(2 * np.pi * (EMOTION_HZ + EMOTION_STEP * index) * at)
        if emotion is not None:
            loud += alpha * np.sin(2 * np.pi * (REFERENCE_HZ + REFERENCE_STEP * emotion) * at)
        symbol = np.array(code_of(text))[np.minimum(np.arange(len(at)) * SYMBOLS // max(1, len(at)), SYMBOLS - 1)]
        loud += np.sin(2 * np.pi * np.cumsum(TEXT_HZ + TEXT_STEP * symbol) / RATE)
        noise = np.random.default_rng(random.getrandbits(32)).normal(0, 0.002, len(at))
        return np.asarray((loud / 4 + noise) * 24_000, np.int16)


class IndexTTS2V2(_Standin):
    """`indextts.infer_v2.IndexTTS2`."""

    def __init__(
        self,
        cfg_path: str = "checkpoints/config.yaml",
        model_dir: str = "checkpoints",
        use_fp16: bool = False,
        device: str | None = None,
        use_cuda_kernel: bool | None = None,
        use_deepspeed: bool = False,
        use_accel: bool = False,
        use_torch_compile: bool = False,
        use_qwen_emo: bool = True,
        aux_paths: dict[str, str] | None = None,
    ) -> None:
        super().__init__(model_dir, cfg_path, use_fp16, use_qwen_emo, aux_paths)

    def infer(
        self,
        spk_audio_prompt: str,
        text: str,
        output_path: str | None,
        emo_audio_prompt: str | None = None,
        emo_alpha: float = 1.0,
        emo_vector: list[float] | None = None,
        use_emo_text: bool = False,
        emo_text: str | None = None,
        use_random: bool = False,
        interval_silence: int = 200,
        verbose: bool = False,
        max_text_tokens_per_segment: int = 120,
        stream_return: bool = False,
        more_segment_before: int = 0,
        **generation_kwargs: Any,
    ) -> Any:
        return self._infer(
            spk_audio_prompt, text, output_path, emo_audio_prompt, emo_alpha, emo_vector, use_emo_text, emo_text, 1.0,
            generation_kwargs,
        )  # fmt: skip


class IndexTTS2V25(_Standin):
    """`indextts.infer_v2_5.IndexTTS2`."""

    codes_per_second = 25.1
    version = "2.5"

    def __init__(
        self,
        cfg_path: str = "checkpoints/config.yaml",
        model_dir: str = "checkpoints",
        use_bf16: bool = False,
        device: str | None = None,
        use_cuda_kernel: bool | None = None,
        use_deepspeed: bool = False,
        use_accel: bool = False,
        use_torch_compile: bool = False,
        use_qwen_emo: bool = False,
    ) -> None:
        super().__init__(model_dir, cfg_path, use_bf16, use_qwen_emo)

    def infer(
        self,
        spk_audio_prompt: str,
        text: str,
        output_path: str | None,
        lang: str,
        emo_audio_prompt: str | None = None,
        emo_alpha: float = 1.0,
        emo_vector: list[float] | None = None,
        use_emo_text: bool = False,
        emo_text: str | None = None,
        use_random: bool = False,
        interval_silence: int = 200,
        verbose: bool = False,
        max_text_tokens_per_segment: int = 120,
        stream_return: bool = False,
        more_segment_before: int = 0,
        duration_factor: float = 1.0,
        text_normalization: bool = True,
        **generation_kwargs: Any,
    ) -> Any:
        if not lang:
            raise AttributeError("'NoneType' object has no attribute 'lower'")
        return self._infer(
            spk_audio_prompt, text, output_path, emo_audio_prompt, emo_alpha, emo_vector, use_emo_text, emo_text, duration_factor,
            generation_kwargs,
        )  # fmt: skip


def write_checkout(root: Path, version: str, python: str, packages: list[str], **told: Any) -> Path:
    """A checkout in `root` with an environment, the package and files for weights. Returns its interpreter.

    Args:
        python: what the environment is made with.
        packages: folders of installed packages that it borrows.
        told: for `standin.json`: rtf, voice_s, load_s, memory, log.
    """
    import subprocess

    subprocess.run([python, "-m", "venv", "--without-pip", str(root / ".venv")], check=True)
    (site,) = (root / ".venv" / "lib").glob("python3*/site-packages")
    (site / "borrowed.pth").write_text("\n".join(packages))
    package = root / "indextts"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in _modules(version):
        kind = "IndexTTS2V25" if name == "infer_v2_5" else "IndexTTS2V2"
        (package / f"{name}.py").write_text(f"from steadyvoice.testing.indextts2_standin import {kind} as IndexTTS2\n")
    for name in _weights(version):
        path = root / "checkpoints" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not a weight")
    (root / "checkpoints" / "standin.json").write_text(json.dumps(told))
    return root / ".venv" / "bin" / "python"


def _modules(version: str) -> Iterator[str]:
    yield "infer_v2"
    if version == "2.5":
        yield "infer_v2_5"  # which comes beside the older one


def _weights(version: str) -> Iterator[str]:
    yield from ("config.yaml", "bpe.model", "gpt.pth", "s2mel.pth", "wav2vec2bert_stats.pt", "feat1.pt", "feat2.pt")
    yield from (f"hf_cache/w2v-bert-2.0/{name}" for name in ("config.json", "preprocessor_config.json", "model.safetensors"))
    yield from ("hf_cache/campplus_cn_common.bin", "hf_cache/bigvgan/config.json")
    yield from ("hf_cache/bigvgan/bigvgan_generator.pt", "qwen0.6bemo4-merge/config.json", "qwen0.6bemo4-merge/model.safetensors")
    yield from (("codec.pth", "multilingual_zh_ja_yue_char_del.tiktoken") if version == "2.5" else ())
    yield from (() if version == "2.5" else ("hf_cache/semantic_codec_model.safetensors",))
