from __future__ import annotations

import pytest

from steadyvoice.media.words import PackedWords
from steadyvoice.protocol import Word

WORDS = (Word("guten", 0.1, 0.5), Word("", 0.5, 0.5), Word("早", 0.6, 0.725), Word("a\0b", 1.0, 3_600.001))


def test_words_come_out_as_they_went_in() -> None:
    packed = PackedWords.of(WORDS)

    assert tuple(packed) == WORDS
    assert (len(packed), packed[0], packed[2], packed[-1]) == (4, WORDS[0], WORDS[2], WORDS[3])
    assert packed[1:3] == WORDS[1:3]
    assert packed == PackedWords.of(WORDS) != PackedWords.of(WORDS[:3])


def test_of_no_words_there_is_none_to_read() -> None:
    packed = PackedWords.of(())

    assert not packed
    with pytest.raises(IndexError):
        packed[0]
