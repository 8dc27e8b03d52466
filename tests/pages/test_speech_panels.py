from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from steadyvoice.engine_specs import EMOTIONS, ESPEAK, INDEXTTS2
from steadyvoice.errors import InvalidInput
from steadyvoice.pages.speech_panels import EmotionPanel

READER = replace(INDEXTTS2, reads_emotion=True)


def panel(spec: Any = READER) -> EmotionPanel:
    with gr.Blocks():
        return EmotionPanel(spec)


def filled(panel: EmotionPanel, **given: Any) -> dict[Any, Any]:
    """The values of the panel's components, by what follows "sv-" in their ids."""
    values = {part: part.value for part in panel.inputs}
    return values | {part: given[name] for part in panel.inputs if (name := part.elem_id.removeprefix("sv-")) in given}


@pytest.mark.parametrize(
    ("given", "params"),
    [
        ({"way": "name", "emotion": "sad"}, {"emotion": "sad"}),
        ({"way": "vector", "happy": 0.3, "calm": 0.2}, {"emotion_vector": [0.3, 0, 0, 0, 0, 0, 0, 0.2]}),
        ({"way": "vector"}, {"emotion_vector": None}),
        ({"way": "voice", "emotion-voice": "Emma"}, {"emotion_voice": "Emma"}),
        ({"way": "text", "emotion-text": "with joy"}, {"emotion_text": "with joy"}),
    ],
)
def test_only_the_chosen_way_is_asked_for(given: dict[str, Any], params: dict[str, Any]) -> None:
    leftovers = {"emotion": "happy", "sad": 0.5, "emotion-voice": "Anne", "emotion-text": "angrily"}
    others = {name: value for name, value in leftovers.items() if given["way"] != "vector" or name not in EMOTIONS}
    asked = panel()

    assert asked.params(filled(asked, **(others | given))) == {"emotion_strength": 0.6} | params


@pytest.mark.parametrize("way", ["voice", "text"])
def test_a_way_without_its_content_is_refused(way: str) -> None:
    asked = panel()
    with pytest.raises(InvalidInput):
        asked.params(filled(asked, way=way))


def test_an_engine_is_offered_its_own_ways_alone() -> None:
    for spec, ways in ((ESPEAK, 1), (INDEXTTS2, 3), (READER, 4)):
        way = panel(spec).inputs[0]
        assert len(way.choices) == ways
        assert way.visible is (ways > 1)
