"""The released weights in the precision that is asked for: a state dict in, a network that computes out.

Weights are mapped from the file instead of being built and overwritten. The precision is the arithmetic of the linear layers, and
of attention's two products.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

from steadyvoice.worker.recognizers.sensevoice.encoder import EncoderConfig, Fsmn, Linear, SelfAttention, SenseVoiceNetwork

log = logging.getLogger("steadyvoice.worker")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
ROWS_QUANTIZED = 64  # of a weight at a time
INT8_MAX = 127.0
SIGN_BIT = 128  # added, it makes a signed byte an unsigned one with this as its zero
ROUNDER = 1.5 * 2**23  # a float32 near it has no bits for fractions: adding rounds, half to even, into the lowest bits
SMALLEST = 1e-12  # keeps a row of zeros from being divided by zero


class Int8Linear(nn.Module):
    """A linear layer in 8-bit integers on a CPU, through oneDNN.

    Weights have one scale per output, activations one scale per row, found as they come. A row's result therefore depends on that
    row alone, and no caller's audio is rounded to suit a neighbour in the batch.
    """

    def __init__(self, linear: Linear, after_relu: bool) -> None:
        """`after_relu`: what comes in is a hidden layer that is not read again. It has no negative values, which saves a pass
        over it, and is overwritten."""
        super().__init__()
        self.after_relu = after_relu
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
        self.zero = 0 if after_relu else SIGN_BIT  # oneDNN is fast on unsigned activations only
        self.rounder = torch.full((linear.weight.shape[1],), ROUNDER + self.zero)
        self.weight_zero = torch.zeros(len(self.bias), dtype=torch.int64)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        largest = (rows if self.after_relu else rows.abs()).amax(dim=1, keepdim=True)
        # To the nearest integer and into its lowest byte in one pass; see ROUNDER. Of a row of zeros any byte will do: its
        # product is multiplied by zero.
        out = rows if self.after_relu else None
        quantized = torch.addcdiv(self.rounder, rows, largest, value=INT8_MAX, out=out).view(torch.int32).to(torch.uint8)
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
            setattr(parent, name, _converted(layer, precision, device, after_relu=name == "w_2"))
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


def _converted(layer: nn.Module, precision: str, device: torch.device, after_relu: bool) -> nn.Module:
    """The layer with its own tensors copied to the device; linear layers in their precision, the rest as their inputs are."""
    if isinstance(layer, Linear) and precision == "int8":
        return Int8Linear(layer, after_relu)
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
