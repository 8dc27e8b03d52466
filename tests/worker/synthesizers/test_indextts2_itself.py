"""The real IndexTTS2, where one is installed: whether the stand-in tells the truth, and whether the real one speaks.

Runs with `STEADYVOICE_INDEXTTS_PYTHON` naming the interpreter of a whole checkout. Its code and weights may not be part of this
project.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steadyvoice.engine.batch_budget import Budget
from steadyvoice.engine.engine_thread import Engine
from steadyvoice.engine.scheduler import Limits
from steadyvoice.engine.tickets import Task
from steadyvoice.engine_specs import EngineChoice
from steadyvoice.protocol import Speech, SynthesizeItem
from steadyvoice.provision.select_engine import choose_synthesizer
from steadyvoice.service.service import worker_spec
from steadyvoice.settings import Settings
from steadyvoice.testing.indextts2_standin import IndexTTS2V2, IndexTTS2V25
from steadyvoice.testing.running_apps import CLIPS

PYTHON = os.environ.get("STEADYVOICE_INDEXTTS_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="NOT RUN: IndexTTS2 is not installed (STEADYVOICE_INDEXTTS_PYTHON)")
MINUTES_S = 1_200.0  # a CPU loads and speaks slowly
TELL = """
import importlib, inspect, json
kind = importlib.import_module({module!r}).IndexTTS2
print(json.dumps([list(inspect.signature(function).parameters) for function in (kind.__init__, kind.infer)]))
"""


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(tts_engine="indextts2", indextts_python=Path(str(PYTHON)))


@pytest.fixture(scope="module")
def choice(settings: Settings) -> EngineChoice:
    return choose_synthesizer(settings)


def test_the_stand_in_takes_what_the_real_one_takes(choice: EngineChoice) -> None:
    version, root = choice.options["version"], choice.options["root"]
    module, kind = {"2.0": ("infer_v2", IndexTTS2V2), "2.5": ("infer_v2_5", IndexTTS2V25)}[version]
    told = subprocess.run(
        [str(PYTHON), "-c", TELL.format(module=f"indextts.{module}")], cwd=root, capture_output=True, text=True, check=True
    )
    real = json.loads(told.stdout.splitlines()[-1])

    for function, parameters in zip((kind.__init__, kind.infer), real, strict=True):
        assert set(inspect.signature(function).parameters) <= set(parameters)


def test_the_real_one_speaks_and_says_the_same_with_the_same_seed(settings: Settings, choice: EngineChoice) -> None:
    item = SynthesizeItem("The weather is nice today.", "en", "austen", "happy", reference=str(CLIPS[0]), expected_s=2.5, seed=1)
    with Engine(worker_spec(choice, settings), Limits(Budget(30.0), 1e6)) as engine:

        def say(item: SynthesizeItem) -> Speech:
            (ticket,) = engine.submit([Task(item.to_payload(), item.expected_s)], caller="test").tickets
            return Speech.from_payload(ticket.result(MINUTES_S).payload)

        first, other, again = say(item), say(replace(item, text="你好，世界。", language="zh")), say(item)

    for speech in (first, other):
        assert speech.defect is None
        assert 0.5 < speech.duration_s < 10
        assert np.abs(speech.samples.astype(np.int32)).max() > 2_000
    assert np.array_equal(first.samples, again.samples)
