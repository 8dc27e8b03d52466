from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from steadyvoice.engine_specs import EMOTIONS, ESPEAK, SPEECH_LANGUAGES
from steadyvoice.protocol import ItemError, Payload, PcmArray, Speech, SynthesizeItem
from steadyvoice.worker.synthesizers.espeak import EspeakSynthesizer

TEXTS = {
    "zh": "今天天气很好，我们去公园散步吧。",
    "yue": "今日天氣好好，我哋去公園散步啦。",
    "en": "The weather is nice today, let us take a walk in the park.",
    "ja": "きょうはてんきがいいので、こうえんをさんぽしましょう。",
    "ko": "오늘은 날씨가 좋으니 공원에 산책하러 갑시다.",
}
ENGLISH = SynthesizeItem(TEXTS["en"], "en", "f1")
SAME_VOICE = 0.98  # likeness of two spectra; a voice is over 0.99 like itself, no two speakers are over 0.97 like each other


@pytest.fixture(scope="module")
def synthesizer() -> EspeakSynthesizer:
    return EspeakSynthesizer()


def outcome(synthesizer: EspeakSynthesizer, item: SynthesizeItem) -> Speech | ItemError:
    (answer,) = synthesizer.run([item.to_payload()])
    return Speech.from_payload(answer) if isinstance(answer, Payload) else answer


def say(synthesizer: EspeakSynthesizer, item: SynthesizeItem) -> Speech:
    speech = outcome(synthesizer, item)
    assert isinstance(speech, Speech), speech
    return speech


def loudness(samples: PcmArray) -> float:
    """Root mean square, of 32,767."""
    return float(np.sqrt(np.mean(samples.astype(float) ** 2)))


def pitch(speech: Speech) -> float:
    """Median of the fundamental frequency in Hz, by autocorrelation, over the frames that are voiced."""
    rate, frame = speech.sample_rate, int(0.04 * speech.sample_rate)
    shortest, longest = rate // 500, rate // 60
    found = []
    for start in range(0, len(speech.samples) - frame, frame // 2):
        block = speech.samples[start : start + frame].astype(float)
        block -= block.mean()
        correlation = np.correlate(block, block, "full")[frame - 1 :]
        if correlation[0] < frame * 300**2:
            continue  # silence
        lag = shortest + int(np.argmax(correlation[shortest:longest]))
        if correlation[lag] > 0.5 * correlation[0]:
            found.append(rate / lag)
    return float(np.median(found))


def spectrum(speech: Speech) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Long-term average spectrum, normalised: what a voice sounds like, whatever the phase."""
    frame = 1024
    blocks = speech.samples[: len(speech.samples) // frame * frame].reshape(-1, frame) * np.hanning(frame)
    mean = np.log1p(np.abs(np.fft.rfft(blocks, axis=1)).mean(axis=0))
    return (mean - mean.mean()) / np.linalg.norm(mean - mean.mean())


def test_the_catalogue_lists_the_languages_that_are_tested_here() -> None:
    assert set(SPEECH_LANGUAGES) - {"auto"} == set(TEXTS)


# --- languages and speakers


@pytest.mark.parametrize("language", TEXTS)
def test_every_language_is_spoken_for_a_plausible_time(synthesizer: EspeakSynthesizer, language: str) -> None:
    speech = say(synthesizer, SynthesizeItem(TEXTS[language], language, "f1"))

    assert speech.samples.dtype == np.int16
    assert speech.sample_rate == 22_050
    assert 2.0 < speech.duration_s < 8.0
    assert loudness(speech.samples) > 500


@pytest.mark.parametrize("language", TEXTS)
def test_twice_the_text_takes_about_twice_as_long(synthesizer: EspeakSynthesizer, language: str) -> None:
    item = SynthesizeItem(TEXTS[language], language, "m1")
    once = say(synthesizer, item).duration_s

    assert 1.8 < say(synthesizer, replace(item, text=item.text + " " + item.text)).duration_s / once < 2.4


def test_languages_read_the_same_letters_differently(synthesizer: EspeakSynthesizer) -> None:
    mandarin, cantonese = (say(synthesizer, SynthesizeItem("你好世界", language, "f1")) for language in ("zh", "yue"))

    assert mandarin.duration_s != pytest.approx(cantonese.duration_s, rel=0.02)


def test_there_are_at_least_eight_speakers() -> None:
    assert len(set(ESPEAK.speakers)) == len(ESPEAK.speakers) >= 8


@pytest.mark.parametrize("language", TEXTS)
def test_every_speaker_of_a_language_sounds_different(synthesizer: EspeakSynthesizer, language: str) -> None:
    voices = [say(synthesizer, SynthesizeItem(TEXTS[language], language, speaker)) for speaker in ESPEAK.speakers]

    for one, other in itertools.combinations([spectrum(voice) for voice in voices], 2):
        assert one @ other < SAME_VOICE


def test_a_second_synthesizer_in_the_process_takes_nothing_from_the_first(synthesizer: EspeakSynthesizer) -> None:
    first = say(synthesizer, SynthesizeItem("one two three", "en", "m1"))
    others = [EspeakSynthesizer() for _ in range(200)]
    second = [say(other, SynthesizeItem("one two three", "en", "m1")) for other in others[::40]]

    again = say(synthesizer, SynthesizeItem("one two three", "en", "m1"))

    for speech in (*second, again):
        assert len(speech.samples) == pytest.approx(len(first.samples), rel=0.02)
        assert np.abs(speech.samples).max() > 1_000


def test_a_speaker_is_the_same_after_others_have_spoken(synthesizer: EspeakSynthesizer) -> None:
    before = say(synthesizer, ENGLISH)
    for item in (replace(ENGLISH, speaker="iven", emotion="sad", speed=2.0), SynthesizeItem(TEXTS["zh"], "zh", "Annie", "happy")):
        say(synthesizer, item)
    after = say(synthesizer, ENGLISH)

    assert after.duration_s == pytest.approx(before.duration_s, rel=0.02)
    assert loudness(after.samples) == pytest.approx(loudness(before.samples), rel=0.05)
    assert pitch(after) == pytest.approx(pitch(before), rel=0.03)
    assert spectrum(after) @ spectrum(before) > SAME_VOICE


# --- emotion and speed


@pytest.mark.parametrize("language", TEXTS)
def test_happy_is_louder_and_higher_than_sad(synthesizer: EspeakSynthesizer, language: str) -> None:
    item = SynthesizeItem(TEXTS[language], language, "f1", emotion_strength=1.0)
    happy, sad = (say(synthesizer, replace(item, emotion=emotion)) for emotion in ("happy", "sad"))

    assert loudness(happy.samples) > 1.6 * loudness(sad.samples)
    assert pitch(happy) > 1.3 * pitch(sad)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_every_emotion_is_spoken_and_at_no_strength_is_neutral(synthesizer: EspeakSynthesizer, emotion: str) -> None:
    neutral = say(synthesizer, ENGLISH)

    assert loudness(say(synthesizer, replace(ENGLISH, emotion=emotion, emotion_strength=1.0)).samples) > 300
    faint = say(synthesizer, replace(ENGLISH, emotion=emotion, emotion_strength=0.0))
    assert faint.duration_s == pytest.approx(neutral.duration_s, rel=0.02)
    assert pitch(faint) == pytest.approx(pitch(neutral), rel=0.03)


def test_a_stronger_emotion_is_further_from_neutral(synthesizer: EspeakSynthesizer) -> None:
    sad = replace(ENGLISH, emotion="sad")
    voices = [say(synthesizer, replace(sad, emotion_strength=strength)) for strength in (0.0, 0.5, 1.0)]
    none, some, all_of_it = (loudness(voice.samples) for voice in voices)

    assert none > 1.2 * some > 1.44 * all_of_it


@pytest.mark.parametrize("speed", [0.5, 0.75, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("language", TEXTS)
def test_speed_changes_the_duration_by_as_much(synthesizer: EspeakSynthesizer, language: str, speed: float) -> None:
    item = SynthesizeItem(TEXTS[language], language, "f1")
    normal = say(synthesizer, item).duration_s

    assert say(synthesizer, replace(item, speed=speed)).duration_s * speed == pytest.approx(normal, rel=0.1)


# --- what is refused


@pytest.mark.parametrize(
    ("change", "named", "choices"),
    [
        ({"language": "de"}, "'de'", "zh, yue, en, ja, ko"),
        ({"language": "auto"}, "'auto'", "zh, yue, en, ja, ko"),
        ({"speaker": "f6"}, "'f6'", "f1, f2"),
        ({"speaker": "../../etc/passwd"}, "'../../etc/passwd'", "f1, f2"),
        ({"speaker": ""}, "''", "f1, f2"),
        ({"emotion": "bored"}, "'bored'", "neutral, happy"),
        ({"text": "half\0of it"}, "NUL", ""),
    ],
)
def test_what_the_voice_does_not_know_is_the_callers_mistake_and_the_choices_are_named(
    synthesizer: EspeakSynthesizer, change: dict[str, str], named: str, choices: str
) -> None:
    error = outcome(synthesizer, replace(ENGLISH, **change))

    assert isinstance(error, ItemError)
    assert error.kind == "invalid"
    assert named in error.message
    assert choices in error.message


@pytest.mark.parametrize("text", ["", " ", "...", "。。。"])
def test_silence_is_refused_instead_of_being_passed_off_as_speech(synthesizer: EspeakSynthesizer, text: str) -> None:
    error = outcome(synthesizer, replace(ENGLISH, text=text))

    assert isinstance(error, ItemError)
    assert error.kind == "invalid"


def test_a_bad_item_harms_no_neighbour(synthesizer: EspeakSynthesizer) -> None:
    items = [ENGLISH, replace(ENGLISH, speaker="nobody"), ENGLISH, replace(ENGLISH, text=""), ENGLISH]

    outcomes = list(synthesizer.run([item.to_payload() for item in items]))

    assert [isinstance(each, ItemError) for each in outcomes] == [False, True, False, True, False]


def test_markup_is_read_out_or_left_out_but_not_obeyed(synthesizer: EspeakSynthesizer) -> None:
    item = replace(ENGLISH, text='<prosody rate="x-slow" volume="silent">hello there</prosody>')

    assert loudness(say(synthesizer, item).samples) > 300


def test_the_engine_says_what_it_is(synthesizer: EspeakSynthesizer) -> None:
    assert synthesizer.info.name == "espeak"
    assert synthesizer.info.revision[0].isdigit()
    assert synthesizer.info.max_batch_items >= 1
