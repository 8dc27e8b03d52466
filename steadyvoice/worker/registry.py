"""Which engines there are on the worker's side, and the one contract they keep.

Loading is lazy: naming an engine here imports nothing.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from typing import Any, Protocol

from steadyvoice.protocol import Items, ModelInfo, Outcome

ENGINES = {
    "sensevoice": "steadyvoice.worker.recognizers.sensevoice.recognizer:SenseVoiceRecognizer",
    "funasr": "steadyvoice.worker.recognizers.funasr_automodel:FunasrRecognizer",
    "pocketsphinx": "steadyvoice.worker.recognizers.pocketsphinx:PocketsphinxRecognizer",
    "espeak": "steadyvoice.worker.synthesizers.espeak:EspeakSynthesizer",
    "indextts2": "steadyvoice.worker.synthesizers.indextts2:IndexTTS2Synthesizer",
}


class Model(Protocol):
    """A loaded recogniser or synthesiser. Constructing it is loading it; options arrive as keywords.

    One that also has `example(seconds) -> Payload`, an item of that length, is measured with it and budgeted in bytes; one that
    knows its `cost`, a `CostModel`, is budgeted by that. One that can answer with less
    memory than `run` takes, and less well, has `run_low_memory`: it is called when the item would otherwise be given up.
    """

    info: ModelInfo

    def run(self, items: Items) -> Iterator[Outcome]:
        """One outcome per item, in the order of the items, each as soon as it is known.

        A bad item is answered with an `ItemError` and harms no other. After an exception the items that are
        still unanswered are tried again in parts, so that only the item that causes it fails.
        """
        ...


def load_model(engine: str, options: dict[str, Any]) -> Model:
    """Import and construct an engine, by its name in `ENGINES` or as `module:Class`."""
    module, _, name = ENGINES.get(engine, engine).partition(":")
    # What an import makes stays: looking through it for garbage again and again is a tenth of the time that torch takes.
    gc.disable()
    try:
        model: Model = getattr(importlib.import_module(module), name)(**options)
    finally:
        gc.enable()
    gc.freeze()  # nor does it have to be looked through with every later collection
    return model
