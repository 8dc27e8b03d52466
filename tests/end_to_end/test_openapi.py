"""/openapi.json describes what the apps really do: read by a validator, by schemathesis with all its checks, and by a browser."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from playwright.sync_api import Browser, Route

from steadyvoice.testing.running_apps import RunningApp

HERE = Path(__file__).parent
SEED = 20_261_124
EXAMPLES = 6  # per operation and phase
ERROR_BODY = {"$ref": "#/components/schemas/ErrorBody"}
OPENAI_PATHS = ("/v1/audio/", "/v1/models")


@pytest.fixture(params=["asr", "tts"])
def app(request: pytest.FixtureRequest) -> RunningApp:
    running: RunningApp = request.getfixturevalue(request.param)
    return running


def schema_of(app: RunningApp) -> dict:
    with app.client as client:
        return client.get("/openapi.json").json()


def operations(schema: dict) -> list[tuple[str, str, dict]]:
    return [(path, method, operation) for path, methods in schema["paths"].items() for method, operation in methods.items()]


def test_the_schema_is_valid_and_every_operation_has_a_name_of_its_own_a_tag_and_a_description(app: RunningApp) -> None:
    schema = schema_of(app)
    OpenAPIV31SpecValidator(schema).validate()
    names = [operation["operationId"] for _, _, operation in operations(schema)]
    assert len(names) == len(set(names))
    told = {tag["name"] for tag in schema["tags"]}
    for path, _, operation in operations(schema):
        assert set(operation["tags"]) <= told, path
        assert operation["description"], path


def test_every_error_of_every_operation_has_the_one_error_body(app: RunningApp) -> None:
    probes = ("/live", "/health", "/ready")  # whose 503 has the body of their 200
    for path, _, operation in operations(schema_of(app)):
        for status, response in operation["responses"].items():
            if status >= "400" and not (path in probes and status == "503"):
                assert response["content"] == {"application/json": {"schema": ERROR_BODY}}, (path, status)
        invalid = {"400", "422"} & operation["responses"].keys()
        if path.startswith(OPENAI_PATHS) and "requestBody" in operation:
            assert "400" in invalid
        elif "requestBody" in operation:
            assert "422" in invalid
            assert operation["responses"].keys() >= {"408", "413", "429", "500", "503"}


def test_bodies_have_fields_with_ranges_choices_and_examples(asr: RunningApp, tts: RunningApp) -> None:
    form = schema_of(asr)["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["file"]
    assert form["additionalProperties"] is False
    fields = form["properties"]
    assert fields["response_format"]["enum"] == ["json", "text", "srt", "vtt", "verbose_json"]
    assert (fields["temperature"]["minimum"], fields["temperature"]["maximum"]) == (0, 1)
    assert (fields["merge_length_s"]["minimum"], fields["merge_length_s"]["maximum"]) == (0, 30)
    assert fields["model"]["enum"] == ["", "pocketsphinx", "whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"]
    assert "at most 200 MB" in fields["file"]["description"]
    bodies = schema_of(tts)["components"]["schemas"]
    speeds = [(body["properties"]["speed"]["minimum"], body["properties"]["speed"]["maximum"]) for body in map(bodies.get, NAMES)]
    assert speeds == [(0.5, 2), (0.25, 4)]
    assert "happy" in bodies["SpeechBody"]["properties"]["emotion"]["enum"]
    assert bodies["SynthesizeBody"]["properties"]["text"]["examples"]


NAMES = ("SynthesizeBody", "SpeechBody")


def test_schemathesis_finds_nothing_with_all_its_checks(app: RunningApp) -> None:
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{app.url}/openapi.json", "--checks", "all"]
    options = ["--seed", str(SEED), "--max-examples", str(EXAMPLES), "--no-color", "--generation-database", ":memory:"]
    done = subprocess.run(
        [*command, *options],
        cwd=app.files,  # it leaves files behind
        env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.end_to_end.schemathesis_hooks", "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr


def test_the_documentation_opens_without_a_request_that_leaves_the_machine(app: RunningApp, browser: Browser) -> None:
    page = browser.new_page()
    foreign: list[str] = []

    def refuse(route: Route) -> None:
        foreign.append(route.request.url)
        route.abort()

    page.route(lambda url: not url.startswith((app.url, "data:", "blob:")), refuse)
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(f"{app.url}/docs")
    page.locator(".opblock-summary-path").first.wait_for()
    assert page.locator(".opblock").count() == len(operations(schema_of(app)))
    page.close()
    assert foreign == []
    assert failed == []
