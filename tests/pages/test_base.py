from __future__ import annotations

import re
from types import SimpleNamespace

import gradio as gr
import pytest

import app_sensevoice
import app_tts
from steadyvoice.errors import InvalidInput, Overloaded
from steadyvoice.pages import base as ui


def visitor(accept_language: str) -> gr.Request:
    return SimpleNamespace(headers={"accept-language": accept_language}, session_hash="s", client=None)  # type: ignore[return-value]


@pytest.mark.parametrize("texts", [app_sensevoice.TEXTS, app_tts.TEXTS], ids=["asr", "tts"])
def test_every_text_exists_in_both_languages_with_the_same_blanks(texts: ui.Texts) -> None:
    for key, (english, chinese) in texts.items():
        assert sorted(re.findall(r"{(\w+)", english)) == sorted(re.findall(r"{(\w+)", chinese)), key
        assert re.search(r"[\u4e00-\u9fff]", chinese), key
        assert not re.search(r"[\u4e00-\u9fff]", english), key


@pytest.mark.parametrize(
    ("accepted", "chinese"), [("zh-CN,zh;q=0.9,en;q=0.8", True), ("en-US,en;q=0.9,zh;q=0.8", False), ("", False), ("ZH", True)]
)
def test_the_first_language_of_the_browser_decides(accepted: str, chinese: bool) -> None:
    assert ui.speaks_chinese(visitor(accepted)) is chinese
    assert ui.say(app_tts.TEXTS, visitor(accepted), "stopped") == ("已停止。" if chinese else "Stopped.")


def test_what_comes_from_outside_is_escaped() -> None:
    assert "<script>" not in ui.table(["<script>"], [["<script>alert(1)</script>"]], wide=0)
    assert "<b>" not in ui.explain(InvalidInput("<b>bold</b>"), visitor("en"))


def test_an_error_tells_when_to_come_back() -> None:
    full = Overloaded("full", retry_after_s=12.4)
    assert "try again in about 12 s" in ui.explain(full, visitor("en"))
    assert "12 秒" in ui.explain(full, visitor("zh"))
