"""SenseVoiceSmall's network: feature rows in, CTC token ids out. Memory-equipped self-attention (SAN-M) on released weights.

The same arithmetic as FunASR's SenseVoiceSmall, without what makes that one large: attention is fused (no T x T tensor
lives), the 25,055-wide head is only ever computed for a few rows, of which nothing but the argmax is kept, and weights are
mapped from the file instead of being built and overwritten. The residual stream and the norms are fp32 in every precision; what
the precision chooses is the arithmetic of the linear layers, and of attention's two products.
"""

from __future__ import annotations

import ctypes
import logging
import math
import mmap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

log = logging.getLogger("steadyvoice.worker")

HEAD_BYTES = {"cpu": 8_000_000, "cuda": 256_000_000}  # of logits alive at once: stays in the cache, fills the device
QUERIES_AT_ONCE = 256  # of attention in bf16
QUERIES = 4  # rows before the frames: language, event, emotion, text normalisation
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
ROWS_QUANTIZED = 64  # of a weight at a time
INT8_MAX = 127.0
SIGN_BIT = 128  # added, it makes a signed byte an unsigned one with this as its zero
ROUNDER = 1.5 * 2**23  # a float32 near it has no bits for fractions: adding rounds, half to even, into the lowest bits
SMALLEST = 1e-12  # keeps a row of zeros from being divided by zero


@dataclass(frozen=True)
class EncoderConfig:
    """`encoder_conf` of a release's config.yaml, as far as it shapes the network."""

    output_size: int
    attention_heads: int
    linear_units: int
    num_blocks: int
    tp_blocks: int
    kernel_size: int = 11
    sanm_shfit: int = 0  # sic

    @classmethod
    def from_release(cls, conf: Mapping[str, Any]) -> EncoderConfig:
        """Raises ValueError: a size is missing, or the release asks for an arithmetic that is not this one."""
        known = {"normalize_before": True, "input_layer": "pe", "selfattention_layer_type": "sanm"}
        for name, value in known.items():
            if conf.get(name, value) != value:
                raise ValueError(f"encoder_conf.{name} is {conf[name]!r}; known: {value!r}")
        try:
            return cls(**{name: int(conf[name]) for name in cls.__dataclass_fields__ if name in conf})
        except TypeError as error:
            raise ValueError(f"encoder_conf of config.yaml lacks a size: {error}") from error


@dataclass(frozen=True)
class Padding:
    """Which rows of a batch are real: `rows` float32 [items, longest, 1], `keys` bool [items, 1, 1, longest]."""

    rows: Tensor
    keys: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Padding | None:
        """None where no row is padding."""
        longest = max(lengths)
        if min(lengths) == longest:
            return None
        real = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
        return cls(real[:, :, None].float(), real[:, None, None, :])


class Linear(nn.Module):
    """As nn.Linear, without its initialisation, which alone takes a second on the meta device.

    Takes what comes: with 16-bit weights the norms and the residual stream may still be fp32.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.to(self.weight.dtype), self.weight, self.bias)


class Fsmn(nn.Module):
    """Feed-forward sequential memory: a depthwise convolution over time with the input itself added."""

    def __init__(self, size: int, config: EncoderConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, 1, config.kernel_size), requires_grad=False)
        self.left = (config.kernel_size - 1) // 2 + max(config.sanm_shfit, 0)
        self.right = config.kernel_size - 1 - self.left

    def forward(self, v: Tensor) -> Tensor:
        """[items, rows, size] -> the same shape; never `v` itself."""
        return self._by_shifts(v.contiguous()) if v.device.type == "cpu" else self._by_convolution(v)

    def _by_shifts(self, v: Tensor) -> Tensor:
        """One multiply-add per tap: on a CPU, where a depthwise convolution first changes its layout, twice as fast."""
        taps, rows = self.weight[:, 0].T.contiguous(), v.shape[1]
        memory = v.clone()
        for tap, weight in enumerate(taps):
            offset = tap - self.left
            first, last = max(0, -offset), min(rows, rows - offset)
            if first < last:
                memory[:, first:last].addcmul_(v[:, first + offset : last + offset], weight)
        return memory

    def _by_convolution(self, v: Tensor) -> Tensor:
        padded = functional.pad(v.transpose(1, 2), (self.left, self.right))
        return functional.conv1d(padded, self.weight, groups=len(self.weight)).transpose(1, 2) + v


def attend_fused(qkv: Tensor, keys: Tensor | None) -> Tensor:
    """Softmax(q k^T / sqrt(width)) v in one operation, in the dtype of what comes.

    Args:
        qkv: [items, rows, 3, heads, width], queries, keys and values.
        keys: bool [items, 1, 1, rows], the rows that are real; None: all.

    Returns:
        [items, rows, heads, width].
    """
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=keys).transpose(1, 2)


def attend_in_bf16(qkv: Tensor, keys: Tensor | None) -> Tensor:
    """As `attend_fused`, with both products in bf16 -> float32: faster on a CPU that has them.

    A few queries at a time, so that memory grows with the rows and not with their square. No block is shorter than the others:
    oneDNN compiles for each shape, and keeps few.
    """
    items, rows, _, heads, width = qkv.shape
    by_heads = qkv.permute(2, 0, 3, 1, 4).to(torch.bfloat16, memory_format=torch.contiguous_format)
    q, k, v = by_heads.contiguous().flatten(1, 2)  # what is bf16 already would still lie as it came
    block = -(-rows // -(-rows // QUERIES_AT_ONCE))
    scores = q.new_empty(items * heads, block, rows)
    attended = torch.empty(items, rows, heads, width)
    for first in range(0, rows, block):
        first = min(first, rows - block)  # the last block may do some queries again
        torch.baddbmm(scores, q[:, first : first + block], k.transpose(1, 2), beta=0, alpha=width**-0.5, out=scores)
        if keys is not None:
            scores.view(items, heads, block, rows).masked_fill_(~keys, -math.inf)
        values = torch.bmm(scores.softmax(dim=-1), v).view(items, heads, block, width)
        attended[:, first : first + block] = values.transpose(1, 2)
    return attended


class SelfAttention(nn.Module):
    """Scaled dot-product attention plus the memory of its values."""

    def __init__(self, in_size: int, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.attention_heads
        self.in_bf16 = False  # see `load_network`
        self.linear_q_k_v = Linear(in_size, 3 * config.output_size)
        self.linear_out = Linear(config.output_size, config.output_size)
        self.fsmn_block = Fsmn(config.output_size, config)

    def forward(self, x: Tensor, padding: Padding | None) -> Tensor:
        """[items, rows, in_size] -> [items, rows, size]."""
        items, rows, _ = x.shape
        qkv: Tensor = self.linear_q_k_v(x)
        attend = attend_in_bf16 if self.in_bf16 else attend_fused
        attended = attend(qkv.view(items, rows, 3, self.heads, -1), None if padding is None else padding.keys)
        v = qkv.chunk(3, dim=-1)[2]
        if padding is not None:
            v = v * padding.rows.to(v.dtype)
        memory: Tensor = self.fsmn_block(v)
        return memory.add_(self.linear_out(attended.reshape(items, rows, -1)))


class FeedForward(nn.Module):
    """Linear, ReLU, linear."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.w_1 = Linear(config.output_size, config.linear_units)
        self.w_2 = Linear(config.linear_units, config.output_size)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.w_1(x)
        out: Tensor = self.w_2(hidden.relu_())
        return out


class Layer(nn.Module):
    """One pre-norm block on an fp32 residual stream."""

    def __init__(self, in_size: int, config: EncoderConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(in_size, config)
        self.feed_forward = FeedForward(config)
        self.norm1 = nn.LayerNorm(in_size)
        self.norm2 = nn.LayerNorm(config.output_size)

    def forward(self, x: Tensor, padding: Padding | None) -> Tensor:
        attended = self.self_attn(self.norm1(x), padding)
        # Only the first layer changes the width, and has no residual there.
        x = x.add_(attended) if x.shape == attended.shape else attended.float()
        return x.add_(self.feed_forward(self.norm2(x)))


class Encoder(nn.Module):
    """Named as in the released state dict."""

    def __init__(self, in_size: int, config: EncoderConfig) -> None:
        super().__init__()
        self.encoders0 = nn.ModuleList([Layer(in_size, config)])
        self.encoders = nn.ModuleList([Layer(config.output_size, config) for _ in range(config.num_blocks - 1)])
        self.tp_encoders = nn.ModuleList([Layer(config.output_size, config) for _ in range(config.tp_blocks)])
        self.after_norm = nn.LayerNorm(config.output_size)
        self.tp_norm = nn.LayerNorm(config.output_size)

    def forward(self, x: Tensor, padding: Padding | None) -> Tensor:
        for layer in (*self.encoders0, *self.encoders):
            x = layer(x, padding)
        x = self.after_norm(x)
        for layer in self.tp_encoders:
            x = layer(x, padding)
        normed: Tensor = self.tp_norm(x)
        return normed


class SenseVoiceNetwork(nn.Module):
    """Queries, encoder and CTC head. `load_network` makes one."""

    def __init__(self, in_size: int, config: EncoderConfig, vocabulary: int, queries: int) -> None:
        super().__init__()
        self.scale = math.sqrt(config.output_size)
        self.embed = nn.Embedding(queries, in_size, _weight=torch.empty(queries, in_size))
        self.encoder = Encoder(in_size, config)
        self.ctc = nn.ModuleDict({"ctc_lo": Linear(config.output_size, vocabulary)})
        self.vocabulary = vocabulary
        self._positions = torch.empty(0)

    @torch.inference_mode()
    def forward(self, features: Tensor, lengths: Sequence[int], queries: Tensor) -> list[Tensor]:
        """The best token of every row.

        Args:
            features: float32 [items, longest, in_size].
            lengths: rows of each item that are real.
            queries: int64 [items, 4], rows of `embed`.

        Returns:
            int64 [4 + length] for each item, on the CPU, blanks included.
        """
        encoded = self.encode(features, lengths, queries)
        longest = encoded.shape[1]
        real = torch.arange(longest, device=encoded.device) < torch.tensor(lengths, device=encoded.device)[:, None] + QUERIES
        rows = encoded[real]
        best = torch.cat([self.logits(chunk).argmax(dim=-1) for chunk in rows.split(self._rows_of_logits())])
        return list(best.cpu().split([length + QUERIES for length in lengths]))  # the one copy back

    def encode(self, features: Tensor, lengths: Sequence[int], queries: Tensor) -> Tensor:
        """As `forward` -> float32 [items, 4 + longest, size]; rows after an item's last are not defined."""
        x = torch.cat([self.embed(queries), features], dim=1).mul_(self.scale)
        x.add_(self._positions_for(x.shape[1]))
        encoded: Tensor = self.encoder(x, Padding.of([length + QUERIES for length in lengths], x.device))
        return encoded

    def logits(self, encoded: Tensor) -> Tensor:
        """[..., size] -> [..., vocabulary]."""
        scores: Tensor = self.ctc["ctc_lo"](encoded)
        return scores

    def _rows_of_logits(self) -> int:
        return max(1, HEAD_BYTES[self.embed.weight.device.type] // (4 * self.vocabulary))

    def _positions_for(self, rows: int) -> Tensor:
        if len(self._positions) < rows:
            weight = self.embed.weight
            self._positions = sinusoids(max(rows, 512), weight.shape[1]).to(weight.device)
        return self._positions[:rows]


def sinusoids(rows: int, width: int) -> Tensor:
    """Float32 [rows, width]: positions as in "Attention Is All You Need", counted from 1, all sines before all cosines."""
    step = math.log(10_000) / (width / 2 - 1)
    angles = torch.arange(1, rows + 1)[:, None] * torch.exp(torch.arange(width // 2) * -step)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


# --- Precision: the arithmetic of the linear layers
# -------------------------------------------------------------------------------


class Int8Linear(nn.Module):
    """A linear layer in 8-bit integers on a CPU, through oneDNN.

    Weights have one scale per output, activations one scale per row, found as they come. A row's result therefore depends on that
    row alone, and no caller's audio is rounded to suit a neighbour in the batch.
    """

    def __init__(self, linear: Linear, nonnegative: bool) -> None:
        """`nonnegative`: what comes in has passed a ReLU, which saves a pass over it."""
        super().__init__()
        self.nonnegative = nonnegative
        self.bias = linear.bias.detach().clone()
        largest = torch.maximum(linear.weight.amax(dim=1), -linear.weight.amin(dim=1))
        self.weight_scale = largest.clamp_min_(SMALLEST).div_(INT8_MAX)
        weight = torch.empty(linear.weight.shape, dtype=torch.int8)
        inverse = self.weight_scale.reciprocal()[:, None]
        # A few rows at a time stay in the cache; the whole in fp32 would be fresh memory, page after page.
        for part, of, by in zip(*(whole.split(ROWS_QUANTIZED) for whole in (weight, linear.weight, inverse)), strict=True):
            part.copy_((of * by).round_())
        self.packed = torch.ops.onednn.qlinear_prepack(weight, None)
        self.weight_scale.div_(INT8_MAX)  # the activations' part of it, beside the largest of each row
        self.zero = 0 if nonnegative else SIGN_BIT  # oneDNN is fast on unsigned activations only
        self.rounder = torch.full((linear.weight.shape[1],), ROUNDER + self.zero)
        self.weight_zero = torch.zeros(len(self.bias), dtype=torch.int64)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        largest = (rows if self.nonnegative else rows.abs()).amax(dim=1, keepdim=True)
        # To the nearest integer and into its lowest byte in one pass; see ROUNDER. Of a row of zeros any byte will do: its
        # product is multiplied by zero.
        quantized = torch.addcdiv(self.rounder, rows, largest, value=INT8_MAX).view(torch.int32).to(torch.uint8)
        weights = (self.packed, self.weight_scale, self.weight_zero)
        product = torch.ops.onednn.qlinear_pointwise(
            quantized, 1.0, self.zero, *weights, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return torch.addcmul(self.bias, product, largest, out=product).view(*x.shape[:-1], len(self.bias))


def int8_is_fast() -> bool:
    """Whether this CPU multiplies 8-bit integers without losing any (VNNI), which is also where it gains."""
    return bool({"avx512_vnni", "avx_vnni"} & _cpu_flags())


def bf16_is_fast() -> bool:
    """Whether this CPU multiplies bf16 itself; others take longer for it than for fp32."""
    return bool({"avx512_bf16", "amx_bf16"} & _cpu_flags())


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
            return set(next((line for line in cpuinfo if line.startswith("flags")), "").split())
    except OSError:
        return set()


def choose_precision(asked: str, device: torch.device) -> str:
    """`auto` -> what is fastest on this device without losing tokens; anything else as asked.

    Raises:
        ValueError: the device cannot compute in that precision.
    """
    if asked == "auto":
        if device.type == "cuda":
            # bf16 cannot overflow; cards before Ampere only have fp16.
            return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
        return "int8" if int8_is_fast() else "fp32"
    if asked not in DTYPES:
        raise ValueError(f"precision {asked!r} is unknown; known: auto, {', '.join(DTYPES)}")
    if asked == "int8" and device.type != "cpu":
        raise ValueError("precision int8 is for CPUs; known on a GPU: auto, fp32, bf16, fp16")
    if asked == "int8" and not int8_is_fast():
        log.warning("precision int8 on a CPU without VNNI: products of large numbers saturate, and words may be lost")
    return asked


# --- Loading
# ----------------------------------------------------------------------------------------------------------------------


def load_network(weights: Path, config: EncoderConfig, precision: str, device: torch.device) -> SenseVoiceNetwork:
    """A released state dict -> a network on `device`, at no time twice in memory.

    The network is built without storage and its tensors are views of the mapped file. On a CPU in fp32 they stay that; otherwise
    each layer is converted in turn and its pages of the file are let go.

    Raises:
        RuntimeError: the file holds other tensors than the configuration says.
    """
    state = _read(weights)
    for name in ("embed.weight", "ctc.ctc_lo.weight"):
        if name not in state:
            raise RuntimeError(f"{weights.name} has no tensor {name}: it is not a SenseVoiceSmall")
    queries, in_size = state["embed.weight"].shape
    with torch.device("meta"):
        network = SenseVoiceNetwork(in_size, config, len(state["ctc.ctc_lo.weight"]), queries)
    network.load_state_dict(state, assign=True)
    network.eval().requires_grad_(False)
    as_it_is = all(tensor.dtype == torch.float32 for tensor in state.values())
    if precision != "fp32" or device.type != "cpu" or not as_it_is:
        _convert(network, precision, device)
    in_bf16 = device.type == "cpu" and precision in ("bf16", "int8") and bf16_is_fast()
    for layer in network.modules():
        if isinstance(layer, SelfAttention):
            layer.in_bf16 = in_bf16
    return network


def _convert(network: nn.Module, precision: str, device: torch.device) -> None:
    """Replace every layer. On a CPU several at a time: oneDNN packs 8-bit weights in one thread, half a second of the start."""
    threads = torch.get_num_threads()

    def convert(parent: nn.Module, name: str, layer: nn.Module) -> None:
        with torch.inference_mode():  # of this thread
            tensors = list(layer.parameters(recurse=False))
            setattr(parent, name, _converted(layer, precision, device, nonnegative=name == "w_2"))
            for tensor in tensors:
                _release_pages(tensor)

    layers = [(parent, name, layer) for parent in network.modules() for name, layer in parent.named_children()]
    workers = threads if device.type == "cpu" else 1
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(max(1, threads // workers),)) as pool:
            for done in [pool.submit(convert, *layer) for layer in layers]:
                done.result()
    finally:
        torch.set_num_threads(threads)  # the pool's setting would be the default of every later thread


def _read(weights: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(weights, map_location="cpu", mmap=True, weights_only=True)
    except RuntimeError:  # written before PyTorch 1.6: cannot be mapped
        state = torch.load(weights, map_location="cpu", weights_only=True)
    return dict(state.get("state_dict", state))


def _converted(layer: nn.Module, precision: str, device: torch.device, nonnegative: bool) -> nn.Module:
    """The layer with its own tensors copied to the device; linear layers in their precision, the rest as their inputs are."""
    if isinstance(layer, Linear) and precision == "int8":
        return Int8Linear(layer, nonnegative)
    dtype = DTYPES[precision] if isinstance(layer, (Linear, Fsmn)) else torch.float32
    for name, tensor in layer.named_parameters(recurse=False):
        setattr(layer, name, nn.Parameter(tensor.to(device, dtype, copy=True), requires_grad=False))
    return layer


def _release_pages(tensor: Tensor) -> None:
    """Take the pages that hold nothing but this tensor out of memory; it must not be read again."""
    first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if tensor.device.type == "cpu" and first < last:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)
