from __future__ import annotations

import numpy as np
import pytest

from steadyvoice.protocol import ProtocolError, Recognition, RecognizeItem, Speech, SynthesizeItem, Word
from steadyvoice.protocol.wire import Frame, Payload, decode, encode


def sent(payload: Payload) -> Payload:
    (arrived,) = decode(encode(Frame("batch", {}, (payload,)))).items
    return arrived


def test_a_segment_to_recognise_arrives_with_its_options() -> None:
    item = RecognizeItem(np.linspace(-1, 1, 7, dtype=np.float32), language="yue", use_itn=False)

    arrived = RecognizeItem.from_payload(sent(item.to_payload()))

    np.testing.assert_array_equal(arrived.samples, item.samples)
    assert (arrived.language, arrived.use_itn) == ("yue", False)


@pytest.mark.parametrize(
    "recognition",
    [
        Recognition("", "en"),
        Recognition("hello world", "en", words=(Word("hello", 0.0, 0.5), Word("world", 0.6, 1.0))),
        Recognition("你好\n😊", "zh", emotion="HAPPY", events=("BGM", "Laughter")),
    ],
)
def test_a_recognition_arrives_as_it_was(recognition: Recognition) -> None:
    assert Recognition.from_payload(sent(recognition.to_payload())) == recognition


def test_a_text_to_speak_arrives_with_its_options() -> None:
    item = SynthesizeItem("你好", "zh", "f2", "happy", emotion_strength=0.25, speed=1.5, seed=7)

    assert SynthesizeItem.from_payload(sent(item.to_payload())) == item


def test_speech_arrives_sample_by_sample_and_knows_its_length() -> None:
    speech = Speech(np.arange(-100, 100, dtype=np.int16), 22_050)

    arrived = Speech.from_payload(sent(speech.to_payload()))

    np.testing.assert_array_equal(arrived.samples, speech.samples)
    assert arrived.sample_rate == 22_050
    assert arrived.duration_s == pytest.approx(200 / 22_050)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": None}, "text: None is not str"),
        ({"events": "BGM"}, "events: 'BGM' is not a list"),
        ({"words": [{"text": "a", "start": "0", "end": 1.0}]}, "start: '0' is not a number"),
        ({"words": [{"text": "a", "start": float("nan"), "end": 1.0}]}, "start: nan is not a number"),
        ({"loudness": 1}, "field 'loudness' is unknown"),
    ],
)
def test_an_answer_with_a_field_of_another_type_is_refused_by_name(change: dict[str, object], said: str) -> None:
    payload = Recognition("", "en").to_payload()

    with pytest.raises(ProtocolError, match=said):
        Recognition.from_payload(Payload({**payload.fields, **change}))


@pytest.mark.parametrize("arrays", [(), (np.zeros(3, np.int16), np.zeros(3, np.int16))])
def test_speech_without_its_samples_is_refused(arrays: tuple[np.ndarray, ...]) -> None:
    with pytest.raises(ProtocolError, match=f"{len(arrays)} arrays instead of one"):
        Speech.from_payload(Payload({"sample_rate": 22_050}, arrays))
