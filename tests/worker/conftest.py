"""Releases and the reference, made once: a reduced random one for equality, the trained digits for words."""

from __future__ import annotations

from pathlib import Path

import pytest

from steadyvoice.worker.recognizers.funasr_automodel import FunasrRecognizer
from tools.sensevoice_release import write_random_release

REDUCED = {"output_size": 64, "attention_heads": 4, "linear_units": 128, "num_blocks": 4, "tp_blocks": 2}


@pytest.fixture(scope="session")
def random_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random-release")
    write_random_release(folder, seed=0, **REDUCED)
    return folder


@pytest.fixture(scope="session")
def funasr_on_random(random_release: Path) -> FunasrRecognizer:
    return FunasrRecognizer(str(random_release), device="cpu")
