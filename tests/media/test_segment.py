from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from steadyvoice.engine_specs import SAMPLE_RATE
from steadyvoice.media import segment as module
from steadyvoice.media.segment import (
    FRAME,
    MAX_GAP,
    MIN_PIECE,
    MIN_SILENCE,
    MIN_SPEECH,
    PADDING,
    SPEECH_OFF,
    SPEECH_ON,
    SegmentOptions,
    Span,
    cut,
    find_speech,
    merge,
    segment,
    speech_probabilities,
)

DATA = Path(__file__).parent.parent / "data"
CLIPS = ["austen-0870.wav", "austen-0890.wav", "austen-0930.wav"]

Samples = NDArray[np.float32]


def read(name: str) -> Samples:
    samples, _ = soundfile.read(DATA / name, dtype="float32")
    return samples


# --- arithmetic on probabilities, with no model

# Runs of equal frames, as speech and pauses come, mixed with single frames of anything.
runs = st.tuples(st.sampled_from([0.0, 0.3, 0.35, 0.4, 0.49, 0.5, 0.9, 1.0]), st.integers(1, 400))
flicker = st.tuples(st.floats(0, 1, width=32), st.just(1))
caps = st.integers(SAMPLE_RATE, 40 * SAMPLE_RATE)
limits = st.integers(0, 60 * SAMPLE_RATE)


@st.composite
def audios(draw: st.DrawFn) -> tuple[Samples, int]:
    """(probabilities, samples in the audio): the last frame need not be full."""
    parts = draw(st.lists(st.one_of(runs, flicker), max_size=30))
    probabilities = np.concatenate([np.zeros(0), *(np.full(length, value) for value, length in parts)]).astype(np.float32)
    return probabilities, max(0, len(probabilities) * FRAME - draw(st.integers(0, FRAME - 1)))


def covered(spans: list[Span], total: int) -> NDArray[np.int64]:
    """How many spans each sample is in."""
    edges = np.zeros(total + 1, np.int64)
    for span in spans:
        edges[span.start] += 1
        edges[span.end] -= 1
    return np.cumsum(edges)[:total]


def assert_in_order_and_within(spans: list[Span], total: int) -> None:
    assert all(span.start < span.end for span in spans)
    edges = [0, *(edge for span in spans for edge in (span.start, span.end)), total]
    assert edges == sorted(edges)


@settings(max_examples=150, deadline=None)
@given(audios(), limits, caps)
def test_segments_are_in_order_disjoint_within_the_audio_and_never_over_the_cap(
    audio: tuple[Samples, int], longest: int, cap: int
) -> None:
    probabilities, total = audio

    spans = cut(merge(find_speech(probabilities, total), longest), cap, probabilities)

    assert_in_order_and_within(spans, total)
    assert all(span.length <= cap for span in spans)


@settings(max_examples=150, deadline=None)
@given(audios(), limits, caps)
def test_all_detected_speech_is_in_exactly_one_segment(audio: tuple[Samples, int], longest: int, cap: int) -> None:
    probabilities, total = audio
    detected = find_speech(probabilities, total)
    merged = merge(detected, longest)

    final = covered(cut(merged, cap, probabilities), total)

    assert (final[covered(detected, total) > 0] == 1).all()
    np.testing.assert_array_equal(final, covered(merged, total))  # and cutting adds and loses nothing


@settings(max_examples=150, deadline=None)
@given(audios())
def test_found_speech_is_in_order_disjoint_and_within_the_audio(audio: tuple[Samples, int]) -> None:
    probabilities, total = audio

    assert_in_order_and_within(find_speech(probabilities, total), total)


@settings(max_examples=150, deadline=None)
@given(audios())
def test_every_run_of_likely_frames_that_is_no_click_is_found(audio: tuple[Samples, int]) -> None:
    probabilities, total = audio
    found = covered(find_speech(probabilities, total), total)

    start = None
    for index, likely in enumerate([*(probabilities >= SPEECH_ON), False]):
        if likely:
            start = index if start is None else start
        elif start is not None:
            run = found[start * FRAME : index * FRAME]
            if len(run) >= MIN_SPEECH:
                assert (run == 1).all()
            start = None


@settings(max_examples=150, deadline=None)
@given(audios())
def test_long_stretches_of_unlikely_frames_are_left_out_but_for_the_padding(audio: tuple[Samples, int]) -> None:
    probabilities, total = audio
    found = covered(find_speech(probabilities, total), total)

    start = None
    for index, unlikely in enumerate([*(probabilities < SPEECH_OFF), False]):
        if unlikely:
            start = index if start is None else start
        elif start is not None:
            quiet = found[start * FRAME : min(total, index * FRAME)]
            if len(quiet) >= max(MIN_SILENCE, 2 * PADDING):
                assert not quiet[PADDING:-PADDING].any()
            start = None


@st.composite
def spans_in_order(draw: st.DrawFn) -> list[Span]:
    steps = st.integers(0, 4 * SAMPLE_RATE) | st.sampled_from([MAX_GAP, MAX_GAP + 1])
    gaps_and_lengths = draw(st.lists(st.tuples(steps, st.integers(1, 20 * SAMPLE_RATE)), max_size=12))
    edges = np.cumsum([0, *(step for pair in gaps_and_lengths for step in pair)]).tolist()
    return [Span(start, end) for start, end in zip(edges[1::2], edges[2::2], strict=True)]


@settings(max_examples=150, deadline=None)
@given(spans_in_order(), limits)
def test_merging_never_goes_over_the_limit_nor_across_a_long_silence(spans: list[Span], longest: int) -> None:
    merged = merge(spans, longest)

    groups = [[span for span in spans if joined.start <= span.start < joined.end] for joined in merged]
    assert [span for group in groups for span in group] == spans
    for joined, group in zip(merged, groups, strict=True):
        assert (group[0].start, group[-1].end) == (joined.start, joined.end)
        if len(group) > 1:
            assert joined.length <= longest
            assert max(after.start - before.end for before, after in pairwise(group)) <= MAX_GAP


@settings(max_examples=150, deadline=None)
@given(spans_in_order(), limits)
def test_neighbours_that_may_be_joined_are(spans: list[Span], longest: int) -> None:
    for left, right in pairwise(merge(spans, longest)):
        first = next(span for span in spans if span.start == right.start)
        assert first.end - left.start > longest or first.start - left.end > MAX_GAP


def test_the_limit_of_merging_is_exact() -> None:
    spans = [Span(0, 100), Span(150, 400)]

    assert merge(spans, 400) == [Span(0, 400)]
    assert merge(spans, 399) == spans
    apart = [Span(0, 100), Span(100 + MAX_GAP, 200 + MAX_GAP)]
    assert merge(apart, 10**6) == [Span(0, 200 + MAX_GAP)]
    assert merge([apart[0], Span(101 + MAX_GAP, 200 + MAX_GAP)], 10**6) != [Span(0, 200 + MAX_GAP)]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 100 * SAMPLE_RATE), caps, st.integers(0, 2**32 - 1))
def test_a_cut_leaves_no_crumb(start: int, length: int, cap: int, seed: int) -> None:
    span = Span(start, start + length)
    probabilities = np.random.default_rng(seed).random(-(-span.end // FRAME)).astype(np.float32)

    pieces = cut([span], cap, probabilities)

    assert pieces[0].start == span.start
    assert pieces[-1].end == span.end
    assert all(left.end == right.start for left, right in pairwise(pieces))
    assert all(piece.length <= cap for piece in pieces)
    assert all(piece.length >= min(MIN_PIECE, span.length) for piece in pieces)


def test_a_cut_falls_into_the_least_likely_frame_of_the_later_half() -> None:
    probabilities = np.ones(2_000, np.float32)
    probabilities[[100, 700]] = 0.1, 0.6  # the first is too early to be of use

    pieces = cut([Span(0, 1_500 * FRAME)], 1_000 * FRAME, probabilities)

    assert pieces == [Span(0, 700 * FRAME), Span(700 * FRAME, 1_500 * FRAME)]


def test_speech_without_any_pause_is_cut_at_the_cap_all_the_same() -> None:
    cap = 30 * SAMPLE_RATE
    probabilities = np.ones(100 * SAMPLE_RATE // FRAME, np.float32)

    pieces = cut(find_speech(probabilities, len(probabilities) * FRAME), cap, probabilities)

    assert len(pieces) >= 4
    assert max(piece.length for piece in pieces) <= cap


def test_a_span_of_exactly_the_cap_is_left_whole() -> None:
    span = Span(17, 17 + 30 * SAMPLE_RATE)

    assert cut([span], span.length, np.ones(2_000, np.float32)) == [span]


def test_a_burst_shorter_than_a_syllable_is_a_click() -> None:
    probabilities = np.zeros(100, np.float32)
    probabilities[50 : 50 + MIN_SPEECH // FRAME] = 1.0

    assert find_speech(probabilities, 100 * FRAME) == []


def test_a_pause_within_a_word_does_not_split_it() -> None:
    probabilities = np.ones(100, np.float32)
    probabilities[50 : 50 + MIN_SILENCE // FRAME] = 0.0

    assert find_speech(probabilities, 100 * FRAME) == [Span(0, 100 * FRAME)]


def test_speech_that_becomes_unsure_goes_on_until_it_is_surely_over() -> None:
    unsure = (SPEECH_ON + SPEECH_OFF) / 2
    probabilities = np.full(100, unsure, np.float32)
    assert find_speech(probabilities, 100 * FRAME) == []

    probabilities[:10] = 1.0
    assert find_speech(probabilities, 100 * FRAME) == [Span(0, 100 * FRAME)]


def test_neighbours_closer_than_two_paddings_share_the_pause() -> None:
    probabilities = np.ones(100, np.float32)
    probabilities[40:51] = 0.0  # 352 ms: a pause, but less than twice the padding

    assert find_speech(probabilities, 100 * FRAME) == [
        Span(0, 45 * FRAME + FRAME // 2),
        Span(45 * FRAME + FRAME // 2, 100 * FRAME),
    ]


@pytest.mark.parametrize("frames", [0, 1, 1_000])
def test_silence_has_no_segments(frames: int) -> None:
    probabilities = np.zeros(frames, np.float32)

    assert cut(merge(find_speech(probabilities, frames * FRAME), 10 * SAMPLE_RATE), 30 * SAMPLE_RATE, probabilities) == []


# --- with the real model


@pytest.mark.parametrize("clip", CLIPS)
def test_the_speech_of_each_clip_is_found(clip: str) -> None:
    samples = read(clip)

    spans = segment(samples, SegmentOptions())

    assert_in_order_and_within(spans, len(samples))
    loud = np.abs(samples) > 0.1 * np.abs(samples).max()
    assert (covered(spans, len(samples))[loud] == 1).mean() > 0.99


def test_over_a_minute_of_speech_is_cut_under_the_cap_and_none_of_it_is_lost() -> None:
    samples = np.resize(read("austen-0870.wav"), 70 * SAMPLE_RATE)

    spans = segment(samples, SegmentOptions(merge_length_s=60, max_segment_s=30))

    assert_in_order_and_within(spans, len(samples))
    assert all(span.end_s - span.start_s <= 30 for span in spans)
    loud = np.abs(samples) > 0.1 * np.abs(samples).max()
    assert (covered(spans, len(samples))[loud] == 1).mean() > 0.99


@pytest.mark.parametrize("max_segment_s", [1.0, 2.5, 5.0])
def test_a_cap_shorter_than_a_sentence_holds_too(max_segment_s: float) -> None:
    samples = read("austen-0870.wav")

    spans = segment(samples, SegmentOptions(merge_length_s=0, max_segment_s=max_segment_s))

    assert len(spans) >= 7.1 * 0.7 / max_segment_s
    assert all(span.length <= max_segment_s * SAMPLE_RATE for span in spans)


def test_clips_with_three_seconds_of_silence_between_keep_their_places() -> None:
    silence = np.zeros(3 * SAMPLE_RATE, np.float32)
    clips = [read(name) for name in CLIPS]
    joined = np.concatenate([part for clip in clips for part in (silence, clip)])

    spans = segment(joined, SegmentOptions())

    offset, ends = 0, []
    for clip in clips:
        offset += len(silence)
        (alone_start, alone_end) = (segment(clip, SegmentOptions())[0].start, segment(clip, SegmentOptions())[-1].end)
        here = [span for span in spans if offset - PADDING <= span.start < offset + len(clip)]
        assert here[0].start - offset == pytest.approx(alone_start, abs=SAMPLE_RATE // 4)
        assert here[-1].end - offset == pytest.approx(alone_end, abs=SAMPLE_RATE // 4 + PADDING)
        offset += len(clip)
        ends += here
    assert ends == spans  # and nothing was found in the silences


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(np.zeros(0, np.float32), id="nothing"),
        pytest.param(np.zeros(1, np.float32), id="one sample"),
        pytest.param(np.zeros(20 * SAMPLE_RATE, np.float32), id="digital silence"),
        pytest.param(np.random.default_rng(0).normal(0, 0.001, 5 * SAMPLE_RATE).astype(np.float32), id="faint noise"),
        pytest.param(np.sin(np.arange(5 * SAMPLE_RATE) * 0.4).astype(np.float32), id="a tone"),
    ],
)
def test_where_nobody_speaks_there_are_no_segments(samples: Samples) -> None:
    assert segment(samples, SegmentOptions()) == []


@pytest.mark.parametrize("length", [1, FRAME - 1, FRAME, FRAME + 1, 600 * FRAME + 1])
def test_there_is_one_probability_per_begun_frame(length: int) -> None:
    probabilities = speech_probabilities(np.resize(read("austen-0930.wav"), length))

    assert probabilities.dtype == np.float32
    assert len(probabilities) == -(-length // FRAME)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_the_border_between_two_blocks_leaves_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.resize(read("austen-0890.wav"), 18 * SAMPLE_RATE + 77)
    whole = speech_probabilities(samples)

    monkeypatch.setattr(module, "BLOCK", 37)

    np.testing.assert_allclose(speech_probabilities(samples), whole, atol=1e-4)


def test_callers_in_many_threads_get_the_same_segments() -> None:
    clips = [read(name) for name in CLIPS]
    alone = [segment(clip, SegmentOptions()) for clip in clips]

    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda number: segment(clips[number % 3], SegmentOptions()), range(12)))

    assert together == alone * 4


def test_finding_speech_imports_no_torch() -> None:
    script = (
        "import sys, numpy as np\n"
        "from steadyvoice.media.segment import SegmentOptions, segment\n"
        "segment(np.zeros(16000, np.float32), SegmentOptions())\n"
        "assert 'onnxruntime' in sys.modules\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=DATA.parent.parent)


def test_nothing_is_kept_or_sent_of_what_runs_here(tmp_path: Path) -> None:
    code = "import numpy; from steadyvoice.media.segment import speech_probabilities as p; p(numpy.zeros(16000, numpy.float32))"
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}

    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent.parent, env=environment, check=True)

    assert list(tmp_path.rglob("*")) == []  # no number of this machine, no file of events
