"""What a recorded voice may be called."""

from __future__ import annotations

import unicodedata

from steadyvoice.engine_specs import OPENAI_VOICES
from steadyvoice.errors import InvalidInput

MAX_NAME = 64  # characters
MAX_NAME_BYTES = 240  # of UTF-8: with a suffix no file system takes more than 255
NAME_RULE = f"a name has 1 to {MAX_NAME} letters, digits, -, _ and spaces, and is not digits only"


def checked_name(name: str, param: str = "name") -> str:
    """NFC, without spaces around it. Raises InvalidInput for what no voice may be called."""
    composed = unicodedata.normalize("NFC", name).strip() if len(name) <= MAX_NAME_BYTES else ""
    if (
        not 1 <= len(composed) <= MAX_NAME
        or composed.isdigit()
        or not all(c in "-_ " or unicodedata.category(c)[0] in "LMN" for c in composed)
        or len(composed.encode()) > MAX_NAME_BYTES
    ):
        raise InvalidInput(f"{name[:MAX_NAME]!r} is no name of a voice; {NAME_RULE}", param=param)
    return composed


def reserved(name: str) -> str | None:
    """Why no voice may have that name: a request for it would be for another voice, or for none."""
    if name.casefold() in OPENAI_VOICES:
        return f"{name!r} is one of OpenAI's voice names, which stand for other voices here"
    return None
