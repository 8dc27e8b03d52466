"""What uploads leave on the disk: nothing that is not needed, nothing that others can read, and never more than is allowed."""

from __future__ import annotations

import http.client
import json
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from gradio_client import Client, handle_file

from steadyvoice.testing.running_apps import CLIPS, RunningApp, running
from tests.audio import clip, wav_bytes
from tests.disks import opened_files

PAGE = "/gradio_api/upload"
API = "/v1/audio/transcriptions"
SLOTS = 4  # one at work, one waiting, and two more
MB = 1_000_000


@pytest.fixture(scope="module")
def app() -> Iterator[RunningApp]:
    """With room for few uploads."""
    with running("app_sensevoice.py", CONCURRENCY="1", QUEUE_SIZE="1", MAX_UPLOAD_MB="5", MAX_STORED_MB="16") as app:
        yield app


def files(app: RunningApp) -> list[Path]:
    return [path for path in app.files.rglob("*") if path.is_file() and "steadyvoice-" in str(path.relative_to(app.files))]


def unfinished(app: RunningApp) -> list[str]:
    """The uploads that the app has open, also those that have no name."""
    return [target for target in opened_files(app.process.pid) if "/unfinished/" in target]


def until(app: RunningApp, condition: Callable[[], bool]) -> None:
    """Each question is preceded by a request to the app, so this never spins idly."""
    for _ in range(2_000):
        httpx.get(f"{app.url}/live")
        if condition():
            return
    raise AssertionError("it did not happen")


def half_sent(app: RunningApp, path: str, total: int, sent: int, *headers: str) -> socket.socket:
    """An upload that stops in the middle."""
    address = urlsplit(app.url)
    field = "files" if path == PAGE else "file"
    head = f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="a.wav"\r\n\r\n'.encode()
    connection = socket.create_connection((address.hostname, address.port), timeout=60)
    lines = [f"POST {path} HTTP/1.1", f"Host: {address.netloc}", "Content-Type: multipart/form-data; boundary=b"]
    lines += [f"Content-Length: {total}", *headers, "", ""]
    connection.sendall("\r\n".join(lines).encode() + (head + bytes(sent - len(head)) if sent else b""))
    return connection


def answer_to(connection: socket.socket) -> http.client.HTTPResponse:
    """The whole answer. The connection may be open for a while after it."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer


def test_all_files_of_the_page_lie_in_a_folder_that_only_its_user_can_read(app: RunningApp) -> None:
    client = Client(app.url, verbose=False)
    client.predict(handle_file(str(CLIPS[2])), api_name="/transcribe")
    (folder,) = app.files.glob("steadyvoice-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) & 0o077 for path in folder.rglob("*") if path.is_file()] == [0]


@pytest.mark.parametrize("path", [PAGE, API])
def test_an_upload_that_is_broken_off_leaves_neither_file_nor_descriptor(app: RunningApp, path: str) -> None:
    before, opened = files(app), opened_files(app.process.pid)
    connections = [half_sent(app, path, 3 * MB, 2 * MB) for _ in range(3)]
    until(app, lambda: len(unfinished(app)) == 3)
    for connection in connections:
        connection.close()
    until(app, lambda: not unfinished(app))
    assert files(app) == before
    assert opened_files(app.process.pid) == opened


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nx\r\n', 422),  # it never ends
        (b'--b\r\nContent-Disposition: form-data; name="files"\r\n\r\nx\r\n--b--', 422),  # text
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--", 422),
        (b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nx\r\n' * 20 + b"--b--", 422),
        (b"nothing of a form", 422),
        (b"", 422),
    ],
)
def test_a_malformed_upload_is_refused_and_leaves_no_file(app: RunningApp, content: bytes, problem: int) -> None:
    before = files(app)
    answer = app.client.post(PAGE, content=content, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == problem, answer.text
    assert answer.json()["error"]["message"]
    assert files(app) == before


def test_a_file_over_the_limit_is_refused_also_without_a_length(app: RunningApp) -> None:
    before = files(app)
    answer = app.client.post(PAGE, files={"files": ("a.wav", bytes(6 * MB))})
    assert answer.status_code == 413
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'

    def chunks() -> Iterator[bytes]:
        yield head
        yield from [bytes(MB)] * 7

    answer = app.client.post(PAGE, content=chunks(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413
    assert "5 MB" in answer.json()["error"]["message"]
    assert files(app) == before


@pytest.mark.parametrize(
    "name", ["../../x.wav", "/etc/passwd", "..", ".hidden", "a\\b.wav", "名字.wav", "x" * 300 + ".wav", "a/../b"]
)
def test_no_name_leads_out_of_the_folder(app: RunningApp, name: str) -> None:
    answer = app.client.post(PAGE, files={"files": (name, CLIPS[2].read_bytes())})
    (path,) = map(Path, answer.json())
    assert path.read_bytes() == CLIPS[2].read_bytes()
    (folder,) = app.files.glob("steadyvoice-*/kept")
    assert path.resolve().parent.parent == folder.resolve()
    assert not path.name.startswith(".")


def test_at_most_so_many_uploads_are_received_at_once_and_the_disk_holds_no_more(app: RunningApp) -> None:
    with ExitStack() as held:
        admitted = []
        for number in range(SLOTS):
            path = (PAGE, API)[number % 2]
            admitted.append(held.enter_context(closing(half_sent(app, path, 3 * MB, 2 * MB))))
            until(app, lambda count=number + 1: len(unfinished(app)) == count)  # type: ignore[misc]
        for path in (PAGE, API) * 6:
            with closing(half_sent(app, path, 3 * MB, 0, "Expect: 100-continue")) as refused:
                assert refused.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 429", "the client is not asked to send its body"
                answer = answer_to(refused)
                assert answer.headers["Retry-After"] == "5"
                assert json.loads(answer.read())["error"]["message"].startswith(f"{SLOTS} uploads")
        assert len(unfinished(app)) == SLOTS
        # What is small reaches no disk, so it is not kept waiting.
        assert app.client.post(API, files={"file": ("a.wav", wav_bytes(clip(CLIPS[2])))}).status_code == 200
        assert app.client.post(PAGE, files={"files": ("a.wav", CLIPS[2].read_bytes())}).status_code == 200
    until(app, lambda: not unfinished(app))
    assert app.client.post(API, files={"file": ("a.wav", bytes(2 * MB))}).status_code == 415


def test_a_client_that_sends_without_asking_sees_the_refusal(app: RunningApp) -> None:
    with ExitStack() as held:
        for _ in range(SLOTS):
            held.enter_context(closing(half_sent(app, API, 3 * MB, 2 * MB)))
        until(app, lambda: len(unfinished(app)) == SLOTS)
        answers = [app.client.post(path, files={name: bytes(4 * MB)}) for path, name in ((API, "file"), (PAGE, "files"))]
        assert [answer.status_code for answer in answers] == [429, 429]
        # One that stops in the middle is not waited for.
        stalled = held.enter_context(closing(half_sent(app, API, 3 * MB, MB)))
        assert answer_to(stalled).status == 429


def test_stored_uploads_are_bounded_and_the_refusal_names_the_limit(app: RunningApp) -> None:
    answers = [app.client.post(PAGE, files={"files": ("a.wav", bytes(4 * MB))}) for _ in range(8)]
    assert answers[0].status_code == 200
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) >= 5
    for answer in refused:
        assert answer.status_code == 507
        assert answer.json()["error"]["code"] == "insufficient_storage"
        assert "16 MB (STEADYVOICE_MAX_STORED_MB)" in answer.json()["error"]["message"]
        assert 1 <= int(answer.headers["retry-after"]) <= 300
    assert sum(path.stat().st_size for path in files(app)) <= 16 * MB


def test_the_progress_of_an_upload_is_told_until_it_is_done(asr: RunningApp) -> None:
    told: list[dict[str, object]] = []

    def listen() -> None:
        with httpx.stream("GET", f"{asr.url}{PAGE}_progress?upload_id=abc", timeout=60) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            told.extend(json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line)

    listener = threading.Thread(target=listen)
    listener.start()
    content = bytes(3 * MB)
    asr.client.post(f"{PAGE}?upload_id=abc", files={"files": ("long.wav", content)}).raise_for_status()
    listener.join(30)
    *updates, last = told
    assert last == {"msg": "done"}
    assert {update["orig_name"] for update in updates} == {"long.wav"}
    assert sum(int(str(update["chunk_size"])) for update in updates) == len(content)


def test_the_progress_of_an_upload_that_is_broken_off_ends_too(asr: RunningApp) -> None:
    connection = half_sent(asr, PAGE, 3 * MB, 2 * MB)
    connection.close()
    connection = half_sent(asr, f"{PAGE}?upload_id=gone", 3 * MB, 2 * MB)
    threading.Timer(0.2, connection.close).start()
    with httpx.stream("GET", f"{asr.url}{PAGE}_progress?upload_id=gone", timeout=60) as answer:
        assert answer.read().endswith(b'{"msg": "done"}\n\n')
    assert asr.client.get(f"{PAGE}_progress?upload_id=unknown").status_code == 404


def test_synthesize_writes_the_file_that_its_client_gets_and_no_other(tts: RunningApp) -> None:
    before = set(files(tts))
    Client(tts.url, verbose=False).predict("One file only.", api_name="/synthesize")
    assert [path.name for path in set(files(tts)) - before] == ["speech.wav"]
