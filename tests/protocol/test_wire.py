from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from steadyvoice.protocol.wire import LENGTH, Frame, Payload, ProtocolError, decode, encode

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
fields = st.dictionaries(texts, plain, max_size=4)
arrays = st.sampled_from([np.float32, np.int16]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
payloads = st.builds(Payload, fields, st.lists(arrays, max_size=3).map(tuple))
messages = st.builds(Frame, texts, fields, st.lists(payloads, max_size=3).map(tuple))


def assert_same(one: Frame, other: Frame) -> None:
    assert (one.kind, one.fields) == (other.kind, other.fields)
    assert len(one.items) == len(other.items)
    for before, after in zip(one.items, other.items, strict=True):
        assert before.fields == after.fields
        assert len(before.arrays) == len(after.arrays)
        for a, b in zip(before.arrays, after.arrays, strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            np.testing.assert_array_equal(a, b)


def frame(header: object, tail: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return LENGTH.pack(len(text)) + text + tail


# --- frames


@settings(max_examples=200, deadline=None)
@given(messages)
def test_what_is_sent_is_what_arrives(message: Frame) -> None:
    assert_same(decode(encode(message)), message)


@settings(max_examples=100, deadline=None)
@given(messages, st.data())
def test_a_frame_that_breaks_off_is_malformed_wherever_it_does(message: Frame, data: st.DataObject) -> None:
    whole = encode(message)

    with pytest.raises(ProtocolError, match="malformed"):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_malformed_and_raises_nothing_else(noise: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(noise)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {},
        {"kind": "done"},
        {"kind": "done", "fields": {}},
        {"fields": {}, "items": []},
        {"kind": "done", "fields": {}, "items": None},
        {"kind": "done", "fields": {}, "items": ["item"]},
        {"kind": "done", "fields": {}, "items": [{"fields": {}}]},
        {"kind": "done", "fields": {}, "items": [{"arrays": []}]},
        {"kind": "done", "fields": {}, "items": [{"fields": [], "arrays": []}]},
        {"kind": "done", "fields": {}, "items": [{"fields": {}, "arrays": [["object", [1]]]}]},
        {"kind": "done", "fields": {}, "items": [{"fields": {}, "arrays": [["float32", ["one"]]]}]},
        {"kind": "done", "fields": {}, "items": [{"fields": {}, "arrays": [["float32", [1000]]]}]},
    ],
)
def test_a_frame_whose_header_makes_no_sense_is_malformed(header: object) -> None:
    with pytest.raises(ProtocolError, match="malformed"):
        decode(frame(header, bytes(16)))


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64, np.uint8, np.bool_, object, "U5"])
def test_only_speech_crosses_the_pipe(dtype: Any) -> None:
    with pytest.raises(ProtocolError, match="may not cross the pipe; allowed: float32, int16"):
        encode(Frame("batch", {}, (Payload({}, (np.zeros(3, dtype),)),)))


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.arange(20, dtype=np.float32)[::2], id="every other sample"),
        pytest.param(np.arange(20, dtype=np.float32)[::-1], id="backwards"),
        pytest.param(np.arange(12, dtype=np.int16).reshape(3, 4).T, id="transposed"),
        pytest.param(np.arange(20, dtype=">f4"), id="big-endian floats"),
        pytest.param(np.arange(20, dtype=">i2"), id="big-endian integers"),
    ],
)
def test_an_array_arrives_in_order_however_it_lay_in_memory(array: NDArray[Any]) -> None:
    (item,) = decode(encode(Frame("batch", {}, (Payload({}, (array,)),)))).items

    np.testing.assert_array_equal(item.arrays[0], array)
    assert item.arrays[0].flags.c_contiguous


def test_what_arrives_cannot_be_changed_by_mistake() -> None:
    (item,) = decode(encode(Frame("batch", {}, (Payload({}, (np.zeros(3, np.float32),)),)))).items

    with pytest.raises(ValueError, match="read-only"):
        item.arrays[0][0] = 1.0
