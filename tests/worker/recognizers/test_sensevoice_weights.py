from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steadyvoice.worker.recognizers.sensevoice import weights
from steadyvoice.worker.recognizers.sensevoice.encoder import EncoderConfig, Linear, SelfAttention
from steadyvoice.worker.recognizers.sensevoice.weights import Int8Linear, choose_precision, load_network
from tests.worker.recognizers.releases import CPU, config_of, load


def linear(inputs: int, outputs: int) -> Linear:
    torch.manual_seed(0)
    layer = Linear(inputs, outputs)
    layer.weight.data.normal_(0, 0.05)
    layer.bias.data.normal_()
    return layer


@pytest.mark.parametrize(
    ("precision", "fast", "in_bf16"), [("int8", True, True), ("int8", False, False), ("bf16", True, True), ("fp32", True, False)]
)
def test_attention_is_in_bf16_where_the_precision_allows_and_the_cpu_is_fast(
    random_release: Path, monkeypatch: pytest.MonkeyPatch, precision: str, fast: bool, in_bf16: bool
) -> None:
    monkeypatch.setattr(weights, "bf16_is_fast", lambda: fast)

    layers = [layer for layer in load(random_release, precision).modules() if isinstance(layer, SelfAttention)]

    assert [layer.in_bf16 for layer in layers] == len(layers) * [in_bf16]
    assert layers


@pytest.mark.parametrize("after_relu", [False, True])
def test_int8_is_within_a_percent_of_fp32(after_relu: bool) -> None:
    layer = linear(256, 512)
    x = torch.randn(7, 256)
    if after_relu:
        x.relu_()

    with torch.inference_mode():
        exact, rounded = layer(x), Int8Linear(layer, after_relu)(x)

    assert (rounded - exact).norm() < 0.01 * exact.norm()


def test_an_int8_row_is_the_same_beside_a_row_a_thousand_times_as_loud() -> None:
    quantized = Int8Linear(linear(64, 32), after_relu=False)
    x = torch.randn(1, 64)

    with torch.inference_mode():
        alone, beside = quantized(x), quantized(torch.cat([x, 1_000 * x]))

    assert torch.equal(alone[0], beside[0])


def test_int8_takes_a_row_of_zeros() -> None:
    layer = linear(64, 32)

    with torch.inference_mode():
        answer = Int8Linear(layer, after_relu=False)(torch.zeros(2, 64))

    torch.testing.assert_close(answer, layer.bias.repeat(2, 1))


def test_fp32_weights_stay_in_the_mapped_file(random_release: Path) -> None:
    network = load(random_release)

    mapped = Path("/proc/self/maps").read_text()
    address = network.ctc["ctc_lo"].weight.data_ptr()
    lines = [line for line in mapped.splitlines() if line.endswith("model.pt")]
    ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in lines]
    assert any(first <= address < last for first, last in ranges)


def test_a_file_that_is_not_sensevoice_says_what_it_lacks(tmp_path: Path, random_release: Path) -> None:
    torch.save({"other": torch.zeros(3)}, tmp_path / "model.pt")

    with pytest.raises(RuntimeError, match=r"embed\.weight"):
        load_network(tmp_path / "model.pt", config_of(random_release), "fp32", CPU)


def test_weights_of_another_size_than_the_configuration_are_refused(random_release: Path) -> None:
    config = EncoderConfig(output_size=64, attention_heads=4, linear_units=256, num_blocks=4, tp_blocks=2)

    with pytest.raises(RuntimeError, match="w_1"):
        load_network(random_release / "model.pt", config, "fp32", CPU)


def test_weights_that_were_saved_with_other_state_are_found(random_release: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": torch.load(random_release / "model.pt"), "epoch": 3}, tmp_path / "model.pt")

    network = load_network(tmp_path / "model.pt", config_of(random_release), "fp32", CPU)

    assert network.vocabulary == 25_055


@pytest.mark.parametrize(("fast", "chosen"), [(True, "int8"), (False, "fp32")])
def test_auto_on_a_cpu_is_int8_where_that_is_fast_and_exact(monkeypatch: pytest.MonkeyPatch, fast: bool, chosen: str) -> None:
    monkeypatch.setattr(weights, "int8_is_fast", lambda: fast)

    assert choose_precision("auto", CPU) == chosen


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8"])
def test_a_precision_that_is_asked_for_is_taken(precision: str) -> None:
    assert choose_precision(precision, CPU) == precision


@pytest.mark.parametrize(("asked", "device", "named"), [("int4", "cpu", "int4"), ("int8", "cuda", "int8")])
def test_a_precision_that_cannot_be_is_refused_by_name(asked: str, device: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        choose_precision(asked, torch.device(device))


def test_half_precision_weights_in_the_file_are_no_matter(random_release: Path, tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in torch.load(random_release / "model.pt").items()}
    torch.save(halves, tmp_path / "model.pt")
    network = load_network(tmp_path / "model.pt", config_of(random_release), "fp32", CPU)

    (path,) = network(torch.randn(1, 10, 560), [10], torch.tensor([[0, 1, 2, 15]]))

    assert len(path) == 14
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
