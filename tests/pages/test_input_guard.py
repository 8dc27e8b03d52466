"""What a page's inputs take, whatever component they are, and what is told of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from steadyvoice.errors import InvalidInput
from steadyvoice.pages import base as ui
from steadyvoice.pages.input_guard import typed
from steadyvoice.service.speech.request import SpeechOptions

META = {"meta": {"_type": "gradio.FileData"}}


def upload(client: TestClient) -> str:
    path: str = client.post("/gradio_api/upload", files={"files": ("a.wav", b"x")}).json()[0]
    return path


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "page"))
    with ui.blocks("a page", tmp_path / "page") as blocks:
        inputs = [
            gr.File(),
            gr.Image(),
            gr.JSON(),
            gr.MultimodalTextbox(),
            gr.Gallery(),
            gr.Number(),
            ui.uploaded_audio(label="sound"),
        ]
        gr.Button().click(lambda *values: str(values), inputs, gr.Textbox(), api_name="all")
        gr.Button().click(lambda values: 1 / 0, gr.Textbox(), gr.Textbox(), api_name="bug")
        gr.Button().click(lambda value: value, gr.Number(label="count", minimum=0), gr.Textbox(), api_name="one")
    with TestClient(gr.mount_gradio_app(FastAPI(), blocks, "/", show_error=False)) as client:
        yield client


def call(client: TestClient, name: str, data: list[Any], **more: Any) -> str:
    answer = client.post(f"/gradio_api/run/{name}", json={"data": data, **more}).json()
    return str(answer.get("error") or answer["data"])


@pytest.mark.parametrize("index", range(6))
def test_a_component_that_is_added_takes_no_file_until_it_is_declared(page: TestClient, index: int, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    file = {"path": str(tmp_path / "secret.png"), **META}
    for value in (file, [file], [{"image": file}], {"text": "", "files": [file]}, {"path": upload(page), **META}):
        data = [None] * 7
        data[index] = value  # type: ignore[call-overload]
        assert "takes no JSON object and no file" in call(page, "all", data)
    assert not list((tmp_path / "page").rglob("*.png"))


def test_a_declared_input_takes_an_upload_and_nothing_else(page: TestClient, tmp_path: Path) -> None:
    own = upload(page)
    assert own in call(page, "all", [*[None] * 6, {"path": own, "url": "http://127.0.0.1:9/a.wav", "is_stream": True, **META}])
    (tmp_path / "a.wav").write_bytes(b"x")
    for other in (
        {"path": str(tmp_path / "a.wav"), **META},
        {"path": own + "x", **META},
        [own],
        own,
        7,
        {"url": own},
        {"path": [own]},
    ):
        assert call(page, "all", [*[None] * 6, other]) == "sound is not an uploaded file; paths and URLs are not opened"


def test_a_file_beside_the_values_is_refused_too(page: TestClient) -> None:
    event_data = {"of": [{"path": "/etc/hostname", **META}]}
    assert call(page, "one", [7], event_data=event_data) == "event_data takes no file"
    assert call(page, "one", [7], event_data={"index": [0, 1], "value": "x"}) == "['7']"


def test_what_does_not_fit_is_told_and_a_bug_is_not_explained(page: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    assert call(page, "one", ["seven"]) == "a value does not fit its input"
    assert call(page, "one", []) == "0 values were given for 1 inputs: count"
    assert call(page, "one", [7, {"path": "/etc/hostname", **META}]) == "2 values were given for 1 inputs: count"
    nested: list[Any] = []
    for _ in range(40):
        nested = [nested]
    assert call(page, "one", [nested]) == "count has lists in more than 16 levels"
    assert not caplog.records
    assert call(page, "bug", ["x"]) == "internal error"
    assert "ZeroDivisionError" in caplog.text


def test_a_value_of_the_wrong_type_is_told_with_its_parameter() -> None:
    assert typed(SpeechOptions, text="Hello.", speed="1.5", speaker_id=3, seed=None).speed == 1.5
    for wrong in (
        {"text": None},
        {"text": 7},
        {"language": ["en"]},
        {"speed": "fast"},
        {"speed": None},
        {"emotion_strength": {}},
        {"speaker_id": None},
        {"speaker_id": [1]},
        {"emotion_vector": "happy"},
        {"emotion_vector": [[1]]},
        {"emotion_voice": [1]},
    ):
        with pytest.raises(InvalidInput, match=f"^{next(iter(wrong))}: ") as told:
            typed(SpeechOptions, **({"text": "Hello."} | wrong))
        assert told.value.param == next(iter(wrong))
