"""The examples of README.md and docs/http-api.md run as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from steadyvoice.testing.running_apps import CLIPS, ROOT, RunningApp
from tests.audio import loudness, read

# Blocks that start the apps, or are a part of a program.
NOT_RUN = re.compile(r"start_app\.sh|\A[^\n]*\bclient = Client\(")


@dataclass(frozen=True)
class Example:
    """One block of code on a page."""

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def examples(page: str) -> list[Example]:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.finditer(r"^```(bash|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found = [Example(page, text.count("\n", 0, block.start()) + 1, block[1], block[2]) for block in blocks]
    return [example for example in found if not NOT_RUN.search(example.code)]


README = examples("README.md")
HTTP_API = examples("docs/http-api.md")


def run(example: Example, asr: RunningApp, tts: RunningApp, folder: Path) -> str:
    """What the example prints, run in a folder that has the files it names."""
    (folder / "tests").symlink_to(ROOT / "tests")
    shutil.copy(CLIPS[0], folder / "meeting.m4a")
    code = example.code.replace("http://127.0.0.1:6006", asr.url).replace("http://127.0.0.1:7860", tts.url)
    code = code.replace("curl ", "curl --silent --show-error --fail ")
    command = ["bash", "-ec", code] if example.language == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_pages_have_examples() -> None:
    assert [example.language for example in README] == ["bash", "python", "python"]
    assert len(HTTP_API) >= 4


@pytest.mark.parametrize("example", [*README, *HTTP_API], ids=str)
def test_an_example_runs(example: Example, asr: RunningApp, tts: RunningApp, tmp_path: Path) -> None:
    said = run(example, asr, tts, tmp_path)

    if "transcriptions" in example.code:
        assert said.strip()
    for name in re.findall(r"\bspeech\.(?:wav|mp3)\b", example.code):
        samples, rate = read((tmp_path / name).read_bytes())
        assert 0.5 < len(samples) / rate < 8
        assert loudness(samples) > 0.03


def test_every_route_and_field_of_the_api_is_described(asr: RunningApp, tts: RunningApp) -> None:
    page = (ROOT / "docs" / "http-api.md").read_text(encoding="utf-8")
    named = {re.sub(r"{\w+}", "{}", path) for path in re.findall(r"/[\w/{}.]+", page)}
    forms = [
        (asr, "/v1/audio/transcriptions", "multipart/form-data"),
        (tts, "/synthesize", "application/json"),
    ]
    for app, path, kind in forms:
        with app.client as client:
            schema = client.get("/openapi.json").json()
        body = schema["paths"][path]["post"]["requestBody"]["content"][kind]["schema"]
        fields = (schema["components"]["schemas"][body["$ref"].rsplit("/", 1)[1]] if "$ref" in body else body)["properties"]
        assert {re.sub(r"{\w+}", "{}", path) for path in schema["paths"]} - named == set()
        assert {field for field in fields if f"`{field}`" not in page} == set()
