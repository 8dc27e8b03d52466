"""Samples -> the features of SenseVoice, for a whole batch at once and on any device.

Kaldi's log mel filter bank (hamming window, 25 ms every 10 ms, no dither), seven frames stacked every six (low frame rate), then
shift and scale (CMVN): the same numbers as FunASR's WavFrontend with dither 0. Imports torch only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

PREEMPHASIS = 0.97
LOWEST_HZ = 20.0
EPSILON = 1.1920928955078125e-07  # of float32; the least energy whose logarithm is taken, as in Kaldi
FRAMES_AT_ONCE = {"cpu": 500, "cuda": 50_000}  # 8 kB each while they are transformed: stays in the cache, 0.4 GB
FULL_SCALE = 32_768.0  # the model was trained on samples in the range of int16


@dataclass(frozen=True)
class FilterBankConfig:
    """`frontend_conf` of a release's config.yaml."""

    fs: int = 16_000  # Hz
    window: str = "hamming"
    n_mels: int = 80
    frame_length: int = 25  # ms
    frame_shift: int = 10  # ms
    lfr_m: int = 7  # frames stacked into one row
    lfr_n: int = 6  # frames from one row to the next


class FilterBank:
    """See the module. Not tied to a device: tables follow `to`."""

    def __init__(self, config: FilterBankConfig, shift: Tensor, scale: Tensor, device: torch.device) -> None:
        """`shift` and `scale`: float32 [lfr_m * n_mels], added to and then multiplied with a row.

        Raises:
            ValueError: the window is not hamming, or shift and scale have another length.
        """
        width = config.lfr_m * config.n_mels
        if config.window != "hamming":
            raise ValueError(f"window {config.window!r} is unknown; known: hamming")
        if shift.shape != (width,) or scale.shape != (width,):
            raise ValueError(f"the shift has {len(shift)} and the scale {len(scale)} values; a row has {width}")
        self.config = config
        self._length = config.fs * config.frame_length // 1_000
        self._step = config.fs * config.frame_shift // 1_000
        self._padded = 1 << (self._length - 1).bit_length()
        self._window = torch.hamming_window(self._length, periodic=False, alpha=0.54, beta=0.46, device=device)
        self._mel = mel_banks(config.n_mels, self._padded, config.fs).to(device)
        self._shift, self._scale = shift.to(device), scale.to(device)
        self.device = device

    @property
    def row_s(self) -> float:
        """Seconds from one row to the next."""
        return self.config.lfr_n * self.config.frame_shift / 1_000

    def __call__(self, items: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Float32 samples [n_i] in -1..1 -> float32 rows [items, longest, lfr_m * n_mels] and the rows of each item.

        An item shorter than one frame is filled with silence up to one. Rows after an item's last are not defined.
        """
        frames = [1 + (max(len(item), self._length) - self._length) // self._step for item in items]
        samples = torch.zeros(len(items), self._length + self._step * (max(frames) - 1))
        for row, item in zip(samples, items, strict=True):
            used = item[: len(row)]
            row[: len(used)] = used
        cut = samples.to(self.device).mul_(FULL_SCALE).unfold(1, self._length, self._step)  # a view
        together = max(1, FRAMES_AT_ONCE[self.device.type] // len(items))
        energies = torch.cat([self._log_mel(some) for some in cut.split(together, dim=1)], dim=1)
        rows = [math.ceil(count / self.config.lfr_n) for count in frames]
        return self._stack(energies, torch.tensor(frames, device=self.device), max(rows)), rows

    def _log_mel(self, frames: Tensor) -> Tensor:
        """[items, frames, length] -> [items, frames, n_mels]."""
        frames = frames - frames.mean(dim=2, keepdim=True)
        before = functional.pad(frames, (1, 0), mode="replicate")[:, :, :-1]
        frames.sub_(before, alpha=PREEMPHASIS).mul_(self._window)
        del before
        spectrum = torch.fft.rfft(frames, n=self._padded)
        power = spectrum.real.square().add_(spectrum.imag.square())
        return (power @ self._mel).clamp_min_(EPSILON).log_()

    def _stack(self, energies: Tensor, frames: Tensor, rows: int) -> Tensor:
        """[items, frames, n_mels] -> [items, rows, lfr_m * n_mels]; each item's first and last frame go on outwards."""
        step, width = self.config.lfr_n, self.config.lfr_m
        row = torch.arange(rows, device=self.device)[:, None] * step
        index = row + torch.arange(width, device=self.device) - (width - 1) // 2
        index = torch.minimum(index.clamp_min(0)[None], (frames - 1)[:, None, None])
        item = torch.arange(len(energies), device=self.device)[:, None, None]
        stacked = energies[item, index].flatten(2)
        return stacked.add_(self._shift).mul_(self._scale)


def mel_banks(bands: int, padded: int, rate: int) -> Tensor:
    """Float32 [padded / 2 + 1, bands]: triangles on Kaldi's mel scale, 1127 ln(1 + f / 700), from 20 Hz to half of `rate`."""

    def mel(hertz: Tensor) -> Tensor:
        return 1_127.0 * torch.log(1.0 + hertz / 700.0)

    low, high = mel(torch.tensor(LOWEST_HZ)), mel(torch.tensor(rate / 2))
    step = (high - low) / (bands + 1)
    left = low + torch.arange(bands)[:, None] * step
    bins = mel(rate / padded * torch.arange(padded // 2))
    rising = (bins - left) / step
    falling = (left + 2 * step - bins) / step
    banks = torch.minimum(rising, falling).clamp_min(0.0)
    return functional.pad(banks, (0, 1)).T.contiguous()  # Kaldi gives nothing to the highest bin


def read_mvn(path: Path) -> tuple[Tensor, Tensor]:
    """Shift and scale of a Kaldi `am.mvn`: float32 [n] each.

    Raises:
        ValueError: the file has no <AddShift> and <Rescale>.
    """
    words = path.read_text(encoding="utf-8").split()
    found = []
    for name in ("<AddShift>", "<Rescale>"):
        if name not in words:
            raise ValueError(f"{path.name} has no {name}")
        start = words.index("[", words.index(name)) + 1
        found.append(torch.tensor([float(word) for word in words[start : words.index("]", start)]]))
    return found[0], found[1]
