"""What the text-to-speech page draws: the sentences of a text, and what was spoken in this visit. HTML, everything escaped."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import gradio as gr

from steadyvoice.engine_specs import TOKENS_PER_SECOND
from steadyvoice.media.text import Piece
from steadyvoice.pages import base as ui
from steadyvoice.pages.speech_texts import TEXTS
from steadyvoice.service.private_folder import FILES_KEPT_S
from steadyvoice.service.speech.result import SpokenSentence

MAX_ROWS = 200  # sentences that are drawn; each is sent again with every change
FOLLOWED_ROWS, SPOKEN_ROWS = 30, 2  # drawn while speaking, and of these above the one that is being spoken
HISTORY_KEPT = 10
FIRST_WORDS = 60  # characters
NO_BREAK = "\u00a0"  # a space at which no line ends
Stage = Literal["planned", "running", "ended"]


@dataclass(frozen=True)
class HistoryEntry:
    """One answer of this visit. The file is Gradio's to serve, and to delete when it is old."""

    at: float  # seconds since 1970
    text: str  # its first words
    voice: str
    seconds: float
    file: Path
    playable: bool


def sentence_table(
    pieces: Sequence[Piece], spoken: Sequence[SpokenSentence], speed: float, stage: Stage, request: gr.Request
) -> str:
    """Each sentence with tokens and seconds: estimated until it is spoken, then as they are.

    Args:
        pieces: all of the text.
        spoken: those that are finished, from the first on.
        speed: for the estimates.
        stage: whether each has a mark, and whether one is being spoken now.
    """
    first, last = 0, MAX_ROWS
    if stage == "running":  # the table is drawn anew each time, so it cannot be scrolled: it follows instead
        first = max(0, len(spoken) - SPOKEN_ROWS)
        last = first + FOLLOWED_ROWS
    headers = ["#", *(ui.say(TEXTS, request, f"col_{name}") for name in ("sentence", "tokens", "seconds"))]
    rows = []
    for index, piece in enumerate(pieces[first:last], first):
        is_spoken = index < len(spoken)
        seconds = spoken[index].speech.duration_s if is_spoken else piece.seconds / speed
        about = "" if is_spoken else f"≈{NO_BREAK}"
        rows.append(
            [
                f"{_mark(index, len(spoken), stage)}{index + 1}",
                "\n".join([piece.text.strip(), *(_remarks(spoken[index], request) if is_spoken else [])]),
                f"{about}{round(seconds * TOKENS_PER_SECOND)}",
                f"{about}{seconds:.1f}",
            ]
        )
    if stage == "planned":
        total = sum(piece.seconds for piece in pieces) / speed
    else:
        total = sum(piece.speech.duration_s for piece in spoken)
    title = ui.say(
        TEXTS,
        request,
        "estimate" if stage == "planned" else "measured",
        done=len(spoken),
        sentences=len(pieces),
        tokens=round(total * TOKENS_PER_SECOND),
        seconds=total,
    )
    left = max(0, len(pieces) - last)
    more = f'<div class="sv-more">{ui.say(TEXTS, request, "more_rows", rows=left)}</div>' if left else ""
    return f'<div class="sv-caption">{title}</div>{ui.table(headers, rows, wide=1)}{more}'


def _mark(index: int, done: int, stage: Stage) -> str:
    """Spoken, left out, or being spoken; one that waits has none."""
    if index < done:
        return f"✓{NO_BREAK}"
    if stage == "ended":
        return f"–{NO_BREAK}"
    return f"▶{NO_BREAK}" if stage == "running" and index == done else ""


def _remarks(piece: SpokenSentence, request: gr.Request) -> list[str]:
    """What a listener should know of a sentence."""
    speech, keys = piece.speech, []
    if speech.defect:
        keys.append(f"defect_{speech.defect}" if f"defect_{speech.defect}" in TEXTS else "defect_other")
    elif speech.retried:
        keys.append("retried")
    if speech.reduced:
        keys.append("reduced")
    return [ui.say(TEXTS, request, key) for key in keys]


def first_words(pieces: Sequence[Piece]) -> str:
    """By which a text is known again."""
    text = "".join(piece.text for piece in pieces[:FIRST_WORDS])
    return text if len(text) <= FIRST_WORDS else text[:FIRST_WORDS].rstrip() + "…"


def remember(history: Sequence[HistoryEntry], entry: HistoryEntry) -> list[HistoryEntry]:
    """The newest first; without those whose files may be gone."""
    return [e for e in (entry, *history) if entry.at - e.at < FILES_KEPT_S][:HISTORY_KEPT]


def history_list(history: Sequence[HistoryEntry], minutes_behind: float, request: gr.Request) -> str:
    """A player and a link for each. `minutes_behind` UTC is the browser's clock."""
    if not history:
        return ""
    items = []
    for entry in history:
        clock = time.strftime("%H:%M:%S", time.gmtime(entry.at - 60 * minutes_behind))
        length = ui.say(TEXTS, request, "history_seconds", seconds=entry.seconds)
        address = html.escape("gradio_api/file=" + quote(str(entry.file)))
        player = f'<audio controls preload="none" src="{address}"></audio>' if entry.playable else ""
        link = f'<a href="{address}" download="{entry.file.name}">{ui.say(TEXTS, request, "history_download")}</a>'
        said = f"<b>{html.escape(entry.text)}</b> {clock} · {html.escape(entry.voice)} · {length} · {link}"
        items.append(f"<li><div>{said}</div>{player}</li>")
    return f'<div class="sv-caption">{ui.say(TEXTS, request, "history")}</div><ol class="sv-history">{"".join(items)}</ol>'
