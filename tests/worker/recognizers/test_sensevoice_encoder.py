from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from steadyvoice.engine.worker_process import WORKER_ENVIRONMENT
from steadyvoice.worker.recognizers.sensevoice import encoder
from steadyvoice.worker.recognizers.sensevoice.encoder import EncoderConfig, attend_fused, attend_in_bf16
from tests.worker.recognizers.releases import load

ROOT = Path(__file__).resolve().parents[3]
QUERIES = torch.tensor([[0, 1, 2, 15]])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8"])
def test_padding_changes_nothing(random_release: Path, precision: str) -> None:
    network = load(random_release, precision)
    torch.manual_seed(1)
    lengths = [3, 40, 17]
    features = torch.randn(3, 40, 560)
    features[0, 3:] = 1e3  # what stands in the padding must not matter
    features[2, 17:] = -1e3

    together = network(features, lengths, QUERIES.repeat(3, 1))

    for row, length, path in zip(features, lengths, together, strict=True):
        (alone,) = network(row[None, :length].clone(), [length], QUERIES)
        assert len(path) == length + 4
        assert torch.equal(path, alone)


def test_the_head_in_chunks_finds_the_same_tokens(random_release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load(random_release)
    features = torch.randn(2, 50, 560, generator=torch.Generator().manual_seed(2))

    whole = network(features.clone(), [50, 31], QUERIES.repeat(2, 1))
    monkeypatch.setitem(encoder.HEAD_BYTES, "cpu", 1)
    by_rows = network(features.clone(), [50, 31], QUERIES.repeat(2, 1))

    assert all(torch.equal(one, other) for one, other in zip(whole, by_rows, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 37, 256, 257, 700])
def test_attention_in_bf16_is_within_a_percent_of_the_fused_one(rows: int, dtype: torch.dtype) -> None:
    qkv = torch.randn(2, rows, 3, 4, 32, generator=torch.Generator().manual_seed(rows)).to(dtype)

    exact = attend_fused(qkv.float(), None)
    rounded = attend_in_bf16(qkv, None)

    assert rounded.shape == exact.shape
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.01 * exact.norm()


def test_attention_in_bf16_does_not_grow_with_every_length_that_it_sees() -> None:
    script = (
        "import torch; from steadyvoice.memory import rss_bytes\n"
        "from steadyvoice.worker.recognizers.sensevoice.encoder import attend_in_bf16\n"
        "sizes = []\n"
        "for rows in range(20, 220):\n"
        "    attend_in_bf16(torch.randn(4, rows, 3, 4, 128), None)\n"
        "    sizes.append(rss_bytes())\n"
        "print(sizes[-1] - sizes[20])"
    )
    environment = os.environ | WORKER_ENVIRONMENT
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, check=True, text=True)

    assert int(done.stdout) < 25_000_000


def test_attention_in_bf16_hears_nothing_of_the_padding() -> None:
    qkv = torch.randn(2, 300, 3, 4, 32, generator=torch.Generator().manual_seed(3))
    keys = torch.arange(300) < torch.tensor([300, 280])[:, None, None, None]
    qkv[1, 280:] = 1e3

    padded = attend_in_bf16(qkv, keys)[1, :280]
    (alone,) = attend_in_bf16(qkv[1:, :280], None)

    assert (padded - alone).norm() < 0.01 * alone.norm()


@pytest.mark.parametrize(
    ("name", "value"), [("normalize_before", False), ("input_layer", "conv2d"), ("selfattention_layer_type", "rel")]
)
def test_an_arithmetic_that_is_not_this_one_is_refused_by_name(random_release: Path, name: str, value: object) -> None:
    conf = yaml.safe_load((random_release / "config.yaml").read_text())["encoder_conf"]

    with pytest.raises(ValueError, match=name):
        EncoderConfig.from_release({**conf, name: value})


def test_a_missing_size_is_named(random_release: Path) -> None:
    conf = yaml.safe_load((random_release / "config.yaml").read_text())["encoder_conf"]
    del conf["linear_units"]

    with pytest.raises(ValueError, match="linear_units"):
        EncoderConfig.from_release(conf)
