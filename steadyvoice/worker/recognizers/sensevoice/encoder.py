"""SenseVoiceSmall's network: feature rows in, CTC token ids out. Memory-equipped self-attention (SAN-M) on released weights.

The same arithmetic as FunASR's SenseVoiceSmall, without what makes that one large: attention never holds the scores of more than
a few hundred queries at once, and the 25,055-wide head is only ever computed for a few rows, of which nothing but the argmax is
kept. The residual stream and the norms are fp32 in every precision. What fills the network, and in which precision it then
multiplies, is decided in `sensevoice_weights`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD_BYTES = {"cpu": 4_000_000, "cuda": 256_000_000}  # of logits alive at once: stays in the cache, fills the device
QUERIES_AT_ONCE = 256  # of attention in bf16
BLANK = 0  # CTC's token for a row in which nothing new is said
QUERIES = 4  # rows before the frames: language, event, emotion, text normalisation


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
        self.in_bf16 = False  # which of the two; `sensevoice_weights.load_network` decides
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
    """Queries, encoder and CTC head. `sensevoice_weights.load_network` makes one."""

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
        rows = self._real_rows(features, lengths, queries)
        best = torch.cat([self.logits(chunk).argmax(dim=-1) for chunk in rows.split(self._rows_of_logits())])
        return list(best.cpu().split([length + QUERIES for length in lengths]))  # the one copy back

    @torch.inference_mode()
    def scored(self, features: Tensor, lengths: Sequence[int], queries: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """As `forward`, with probabilities.

        Returns:
            For each item, on the CPU: the best token of every row, int64 [4 + length]; its log probability, float32
            [4 + length] and 0 for blanks, which are most rows and are not looked at; and the probability of every token in the
            first row, which tells the language, float32 [vocabulary].
        """
        rows = self._real_rows(features, lengths, queries)
        best, logprobs = [], []
        for chunk in rows.split(self._rows_of_logits()):
            logits = self.logits(chunk)
            path = logits.argmax(dim=-1)
            spoken = path != BLANK
            said = logits[spoken].float()
            scores = torch.zeros(len(path), device=path.device)
            scores[spoken] = said.max(dim=-1).values - said.logsumexp(dim=-1)
            best.append(path)
            logprobs.append(scores)
        sizes = [length + QUERIES for length in lengths]
        firsts = torch.tensor([sum(sizes[:item]) for item in range(len(sizes))], device=rows.device)
        told = self.logits(rows[firsts]).float().softmax(dim=-1).cpu()
        return list(zip(torch.cat(best).cpu().split(sizes), torch.cat(logprobs).cpu().split(sizes), told, strict=True))

    def _real_rows(self, features: Tensor, lengths: Sequence[int], queries: Tensor) -> Tensor:
        """Encoded, without padding: float32 [sum of 4 + length, size]."""
        encoded = self.encode(features, lengths, queries)
        longest = encoded.shape[1]
        real = torch.arange(longest, device=encoded.device) < torch.tensor(lengths, device=encoded.device)[:, None] + QUERIES
        return encoded[real]

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
