"""Networks of a release directory, as the tests of the network and of its weights have them."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from steadyvoice.worker.recognizers.sensevoice.encoder import EncoderConfig, SenseVoiceNetwork
from steadyvoice.worker.recognizers.sensevoice.weights import load_network

CPU = torch.device("cpu")


def config_of(release: Path) -> EncoderConfig:
    return EncoderConfig.from_release(yaml.safe_load((release / "config.yaml").read_text())["encoder_conf"])


def load(release: Path, precision: str = "fp32") -> SenseVoiceNetwork:
    return load_network(release / "model.pt", config_of(release), precision, CPU)
