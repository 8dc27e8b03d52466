from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from steadyvoice.engine.worker_process import WorkerSpec
from steadyvoice.errors import InvalidInput
from steadyvoice.pages.page_files import opened_upload, write_downloads
from steadyvoice.provision.service_factory import create_service
from steadyvoice.service.private_folder import FILES_KEPT_S, PrivateFolder
from steadyvoice.settings import Settings


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateFolder]:
    folder = PrivateFolder("asr", 1_000_000, tmp_path / "files")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder.kept))
    yield folder
    folder.close()


def upload(files: PrivateFolder) -> Path:
    part = files.unfinished / "part"
    part.write_bytes(b"sound")
    return files.keep(part, "a.wav")


def test_only_what_was_uploaded_is_opened(files: PrivateFolder, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")
    link = files.kept / "link.wav"
    link.symlink_to(tmp_path / "a.wav")
    for path in (str(tmp_path / "a.wav"), str(link), str(files.kept), "/etc/passwd", "http://127.0.0.1/a.wav", "../a", None, ""):
        with pytest.raises(InvalidInput), opened_upload(files, path):
            pass
    (downloaded,) = files.write({"a.wav": b"sound"}, "the downloads")
    with pytest.raises(InvalidInput), opened_upload(files, str(downloaded)):
        pass
    with opened_upload(files, str(upload(files))) as file:
        assert file.read() == b"sound"


def test_an_upload_that_is_used_again_stays_for_another_hour(files: PrivateFolder) -> None:
    uploaded = upload(files)
    os.utime(uploaded, (time.time() - FILES_KEPT_S + 10,) * 2)
    with opened_upload(files, str(uploaded)):
        pass
    assert uploaded.stat().st_mtime > time.time() - 10


def test_an_upload_that_was_deleted_is_asked_for_again(files: PrivateFolder) -> None:
    uploaded = upload(files)
    files.discard(uploaded)
    with pytest.raises(InvalidInput, match="deleted after 60 minutes; upload it again"), opened_upload(files, str(uploaded)):
        pass


def test_a_job_that_is_cancelled_while_its_files_are_written_leaves_none() -> None:
    service = create_service(Settings(), "asr", WorkerSpec("never:Started"))
    began, go_on = threading.Event(), threading.Event()

    class Slow(dict[str, bytes]):
        def values(self):  # type: ignore[no-untyped-def]
            began.set()
            go_on.wait(30)
            return super().values()

    async def cancelled() -> None:
        writing = asyncio.create_task(write_downloads(service, Slow({"a.txt": b"x"}), "the downloads"))
        await asyncio.to_thread(began.wait, 30)
        writing.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await writing

    asyncio.run(cancelled())
    assert not list(service.files.kept.iterdir())
    service.close()
