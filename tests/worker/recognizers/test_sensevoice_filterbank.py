from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from steadyvoice.worker.recognizers.funasr_automodel import FunasrRecognizer
from steadyvoice.worker.recognizers.sensevoice.filterbank import FRAMES_AT_ONCE, FilterBank, FilterBankConfig, read_mvn

CPU = torch.device("cpu")
FRAME, STEP, STACKED = 400, 160, 6  # samples, samples, frames a row
# Log energies are scaled by 0.2; where there is next to no energy, two ways of rounding differ by this much.
TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def filterbank(random_release: Path) -> FilterBank:
    return FilterBank(FilterBankConfig(), *read_mvn(random_release / "am.mvn"), CPU)


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32))


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 100, 998])
@pytest.mark.parametrize("rest", [0, 1, 159])
def test_rows_are_those_of_funasr(filterbank: FilterBank, funasr_on_random: FunasrRecognizer, frames: int, rest: int) -> None:
    samples = noise(FRAME + STEP * (frames - 1) + rest)
    frontend = funasr_on_random._model.kwargs["frontend"]

    features, rows = filterbank([samples])

    theirs, lengths = frontend(samples[None], torch.tensor([len(samples)]))
    assert rows == [-(-frames // STACKED)] == lengths.tolist()
    assert features.shape == theirs.shape
    assert (features - theirs).abs().max() < TOLERANCE


def test_an_item_has_the_same_rows_alone_and_beside_longer_ones(filterbank: FilterBank) -> None:
    items = [noise(length, seed) for seed, length in enumerate((500, 16_000, 3_217, 48_000))]

    together, rows = filterbank(items)

    for item, count, mine in zip(items, rows, together, strict=True):
        alone, (only,) = filterbank([item])
        assert only == count
        torch.testing.assert_close(mine[:count], alone[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_less_than_a_frame_is_filled_up_with_silence(filterbank: FilterBank, samples: int) -> None:
    features, rows = filterbank([noise(samples)])

    assert rows == [1]
    assert features.isfinite().all()


def test_silence_has_the_floor_of_energy_everywhere(filterbank: FilterBank) -> None:
    features, _ = filterbank([torch.zeros(16_000)])

    assert features.isfinite().all()
    assert features.max() == features.min()


def test_the_caller_s_samples_are_left_as_they_are(filterbank: FilterBank) -> None:
    samples = noise(16_000)
    before = samples.clone()

    filterbank([samples])

    assert torch.equal(samples, before)


def test_a_window_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="povey"):
        FilterBank(FilterBankConfig(window="povey"), torch.zeros(560), torch.ones(560), CPU)


def test_a_shift_of_another_length_is_refused_with_both_lengths() -> None:
    with pytest.raises(ValueError, match=r"80.*560"):
        FilterBank(FilterBankConfig(), torch.zeros(80), torch.ones(560), CPU)


def test_an_mvn_without_a_scale_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "am.mvn").write_text("<Nnet> <AddShift> 2 2 <LearnRateCoef> 0 [ 1 2 ] </Nnet>")

    with pytest.raises(ValueError, match="<Rescale>"):
        read_mvn(tmp_path / "am.mvn")


def test_a_large_batch_is_transformed_in_parts_with_the_same_rows(
    filterbank: FilterBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [noise(8_000, seed) for seed in range(5)]
    whole, _ = filterbank(items)

    monkeypatch.setitem(FRAMES_AT_ONCE, "cpu", 100)

    assert torch.equal(filterbank(items)[0], whole)
