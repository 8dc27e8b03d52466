"""A SenseVoiceSmall that really recognises something: strings of digits, in English and Mandarin, spoken by espeak-ng.

`tests/data/sensevoice_digits.npz` has its weights; sensevoice_digits.json beside it says how well it does and how it was made.
"""

from __future__ import annotations

from pathlib import Path

from tools.digits import UNHEARD_VOICES, expand, say, written

__all__ = ["FIXTURE", "UNHEARD_VOICES", "say", "write_digits_release", "written"]

FIXTURE = Path(__file__).parent / "data" / "sensevoice_digits.npz"


def write_digits_release(folder: Path) -> None:
    """Make `folder` a release directory, as FunASR's `AutoModel(model=folder)` and our own recogniser read it."""
    expand(FIXTURE, folder)
