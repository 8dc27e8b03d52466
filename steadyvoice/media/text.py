"""Text to speak: cleaned, its language found from its script, split into sentences. Knows no engine and no audio.

Splitting loses nothing: the pieces joined are the cleaned text, letter for letter.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from dataclasses import dataclass

from steadyvoice.errors import InvalidInput, TooLarge

MAX_PIECE = 120  # weight of the longest piece; one Chinese letter weighs as much as it takes to say, see `weight`
MIN_PIECE = 20  # however little fits
LATIN_WEIGHT = 0.4  # of a Latin letter, a mark or a picture, against one for a Chinese letter and for a digit, which is a word
SECONDS_PER_WEIGHT = 0.22  # of speech at speed 1, a rough mean over the five languages

SENTENCE_END = re.compile(
    r"""
    (?: [。！？!?…；;]+
      | (?<![A-Z])(?<!\b[A-Z][a-z])(?<!\bMrs)(?<!\betc)(?<!\be\.g)(?<!\bi\.e)(?<!\.) \.++ (?=\s|["'”’)\]]|$)
      | ．+ )
    ["'”’」』）)\]]* \s*
    | \n+ \s*
    """,
    re.VERBOSE,
)
CLAUSE_END = re.compile(r"(?:[，、：—]+|(?<!\d)[,:]+|[,:]+(?!\d))\s*")  # not within 10:30 and 1,000
# How to say a word, as IndexTTS2 reads it: <行|XING2>, <going|G OW1 . IH0 NG>. What is in it ends no sentence.
HINT = re.compile(r"<[^<>|\s][^<>|\n]{0,39}\|[^<>\n]{1,80}>")
SPACE = re.compile(r"\s+")
# A text that can be spoken, as JSON Schema reads it: it has a letter of a script that is read here, or a digit.
SPEAKABLE = r"[0-9A-Za-z\u00c0-\u024f\u1e00-\u1eff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\u3041-\u3096\u30a1-\u30fa\uff10-\uff19]"
BLANKS = "\t\r\v\f\x85\u2028\u2029"  # controls that stand for a space

HANGUL = re.compile(r"[\uac00-\ud7af\u1100-\u11ff\u3130-\u318f]")
KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa\u31f0-\u31ff]")  # no middle dot, no long mark: others use them too
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
LATIN = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
# Full-width letters and digits, half-width kana, letters and numbers in circles and brackets: spoken as what they
# stand for.
COMPATIBILITY = re.compile(r"[\ufb00-\ufb06\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uff9f\u2460-\u24ff\u3200-\u33ff]+")
REPEATED = re.compile(r"([^\w\s])\1{3,}")  # a row of dots takes no longer to say than three
# Letters that written Cantonese uses and written Mandarin does not.
CANTONESE = re.compile(r"[嘅咗哋喺冇佢唔嚟嗰咁啲乜嘢瞓攞咩噉睇]")


@dataclass(frozen=True)
class Piece:
    """One sentence, or a part of a long one, with the language to say it in."""

    text: str
    language: str

    @property
    def seconds(self) -> float:
        """Estimate of its length when spoken, for the scheduler."""
        return max(0.2, weight(self.text) * SECONDS_PER_WEIGHT)


def clean(text: str, max_chars: int, param: str = "text") -> str:
    """Remove what cannot be spoken and would only do harm: controls, NUL, zero-width letters, lone surrogates.

    Raises:
        TooLarge: longer than `max_chars`.
        InvalidInput: nothing in it can be spoken.
    """
    if len(text) > max_chars:
        raise TooLarge(f"the text has {len(text)} characters; the limit is {max_chars}", param=param)
    kept = "".join(" " if c in BLANKS else c for c in text if c in BLANKS + "\n" or _speakable(c))
    kept = REPEATED.sub(r"\1\1\1", kept)
    kept = COMPATIBILITY.sub(lambda run: unicodedata.normalize("NFKC", run[0]), kept)
    lines = (SPACE.sub(" ", line).strip() for line in unicodedata.normalize("NFC", kept).split("\n"))
    cleaned = "\n".join(line for line in lines if line)
    if not any(unicodedata.category(c)[0] in "LN" for c in cleaned):
        raise InvalidInput("the text has no letter and no digit, so there is nothing to say", param=param)
    return cleaned


def split(text: str, language: str = "auto", longest_s: float = float("inf")) -> list[Piece]:
    """Cleaned text -> pieces in order, none heavier than `MAX_PIECE`, together the whole text.

    Args:
        text: from `clean`.
        language: zh, yue, en, ja, ko, or auto to find it for each piece.
        longest_s: of speech in one piece, if that is less; never less than a few words.

    Raises:
        InvalidInput: a piece is written in a script that no voice reads.
    """
    whole = detect_language(text) if language == "auto" else language
    limit = max(MIN_PIECE, min(MAX_PIECE, longest_s / SECONDS_PER_WEIGHT))
    pieces: list[Piece] = []
    for sentence in _split_after(SENTENCE_END, text):
        spoken = whole if language != "auto" else detect_language(sentence, default=whole)
        pieces += [Piece(part, spoken) for part in _bounded(sentence, limit)]
    return _without_silent(pieces)


def detect_language(text: str, default: str | None = None) -> str:
    """The language whose script the text is in.

    Args:
        text: any text.
        default: the answer for text without a letter, such as a number between two sentences.

    Raises:
        InvalidInput: no letter of a known script.
    """
    if HANGUL.search(text):
        return "ko"
    if KANA.search(text):
        return "ja"
    if HAN.search(text):
        if default in ("ja", "yue"):
            return default  # a sentence of letters that both share, in a text that is otherwise known
        return "yue" if CANTONESE.search(text) else "zh"
    if LATIN.search(text):
        return "en"
    letters = [c for c in text if unicodedata.category(c)[0] == "L"]
    if not letters:
        return default or "en"  # digits only
    script = unicodedata.name(letters[0], "unknown").split()[0].title()
    raise InvalidInput(f"no voice reads {script} script; languages: zh, yue, en, ja, ko", param="text")


def weight(text: str) -> float:
    """How long a text is to say, in Chinese letters."""
    return sum(1.0 if c.isdigit() or (c >= "\u1100" and c.isalpha()) else LATIN_WEIGHT for c in text)


def without_hints(text: str) -> str:
    """The text as one reads it: of a hint the word, and not how to say it."""
    return HINT.sub(lambda hint: hint[0][1:].partition("|")[0], text)


def _bounded(sentence: str, limit: float) -> list[str]:
    """A sentence in parts of at most `limit`: at commas, else at spaces, else wherever it must."""
    if weight(sentence) <= limit:
        return [sentence]
    parts: list[str] = []
    for clause in _split_after(CLAUSE_END, sentence):
        for part in [clause] if weight(clause) <= limit else _by_words(clause, limit):
            if parts and weight(parts[-1]) + weight(part) <= limit:
                parts[-1] += part
            else:
                parts.append(part)
    return parts


def _by_words(clause: str, limit: float) -> list[str]:
    words = re.findall(rf"(?:{HINT.pattern}|\S)+\s*|\s+", clause)
    longest = int(limit)  # letters: safe for every script, since no letter weighs more than one
    parts: list[str] = []
    for word in words:
        parts += [word] if weight(word) <= limit else [word[i : i + longest] for i in range(0, len(word), longest)]
    return parts


def _split_after(pattern: re.Pattern[str], text: str) -> list[str]:
    hints = deque(match.span() for match in HINT.finditer(text))
    parts, start = [], 0
    for match in pattern.finditer(text):
        while hints and hints[0][1] <= match.end():
            hints.popleft()
        is_in_hint = bool(hints) and hints[0][0] < match.end()
        if match.end() > start and not is_in_hint:
            parts.append(text[start : match.end()])
            start = match.end()
    return parts + ([text[start:]] if start < len(text) else [])


def _without_silent(pieces: list[Piece]) -> list[Piece]:
    """Join pieces without letter or digit ("…", "— ") to the one before or after: alone they would be silence."""
    joined: list[Piece] = []
    carried = ""
    for piece in pieces:
        if any(unicodedata.category(c)[0] in "LN" for c in piece.text):
            joined.append(Piece(carried + piece.text, piece.language))
            carried = ""
        elif joined:
            joined[-1] = Piece(joined[-1].text + piece.text, joined[-1].language)
        else:
            carried += piece.text
    return joined


def _speakable(c: str) -> bool:
    category = unicodedata.category(c)
    return category[0] not in "C" and category not in ("Zl", "Zp")
