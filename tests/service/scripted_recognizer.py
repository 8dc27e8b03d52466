"""A recogniser that tells what SenseVoice tells: language, emotion and events. It runs in a real worker process."""

from __future__ import annotations

from collections.abc import Iterator

from steadyvoice.protocol import ItemError, Items, ModelInfo, Outcome, Recognition, RecognizeItem, Word


class ScriptedRecognizer:
    """Answers each segment with the next line; a line that begins with "!" is an error of that kind."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = iter(lines)
        self.info = ModelInfo("scripted", "1", max_batch_items=1)

    def run(self, items: Items) -> Iterator[Outcome]:
        for payload in items:
            item, line = RecognizeItem.from_payload(payload), next(self._lines)
            if line.startswith("!"):
                yield ItemError(line[1:], f"scripted {line[1:]}")
                continue
            text, emotion, *events = line.split("/")
            words = (Word(text, 0.1, 0.1 + len(item.samples) / 32_000),)
            yield Recognition(text, "zh", emotion or None, tuple(events), words).to_payload()
