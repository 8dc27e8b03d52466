"""Uploads to the pages: Gradio's routes and protocol, with limits, and files that are deleted on every way out.

Gradio's own route leaves the temporary files of an upload that is broken off, and on a full disk their descriptors too. These
routes are found before Gradio's, which is mounted later. Knows HTTP; the files belong to `private_folder`.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any

from cachetools import TTLCache
from fastapi import FastAPI, Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from steadyvoice.api.streaming import server_sent
from steadyvoice.api.uploads import expected_bytes
from steadyvoice.errors import InvalidInput, NotFound, TooLarge
from steadyvoice.service.disk_full import storing
from steadyvoice.service.private_folder import PrivateFolder
from steadyvoice.service.service import Service

UPLOAD = "/gradio_api/upload"
PROGRESS = "/gradio_api/upload_progress"
MAX_FILES = 16  # in one upload; the pages and both Gradio clients send one
MAX_FIELD_BYTES = 4_000
MAX_NAME_BYTES = 200  # of UTF-8
TRACKED = 1_000  # uploads whose progress may be asked for
TRACKED_S = 3_600.0
APPEARS_S = 3.0  # in which an upload begins after its progress was asked for
PROGRESS_S = 0.05  # between two messages
HEARTBEAT_S = 15.0

UploadId = Annotated[str, Query(max_length=64)]


def add_upload_routes(app: FastAPI, service: Service) -> None:
    """Called before the page is mounted."""
    tracker = ProgressTracker()

    @app.post(UPLOAD, include_in_schema=False)
    async def upload(request: Request, upload_id: UploadId | None = None) -> list[str]:
        """Files in the field `files`; the answer is a list of their paths, which a client then sends to an endpoint."""
        limit, declared = service.settings.max_upload_bytes, expected_bytes(request)
        room = service.files.room(limit if declared is None else declared)
        with service.admission.receiving(declared), room, tracker.tracked(upload_id) as progress:
            return [str(path) for path in await _received(request, service.files, limit, progress)]

    @app.get(PROGRESS, include_in_schema=False)
    async def upload_progress(upload_id: UploadId) -> Response:
        """Server-sent events: the bytes of each file that came since the last event, then `done`."""
        progress = await tracker.find(upload_id)
        if progress is None:
            raise NotFound("there is no upload with this upload_id", param="upload_id")
        return StreamingResponse(progress.events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _received(request: Request, files: PrivateFolder, max_bytes: int, progress: Progress) -> list[Path]:
    """Raises InvalidInput, StorageFull, HTTPException, ClientDisconnect; no file is left then."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPException(400, "the body is no multipart/form-data")
    with storing("the upload"):
        files.ensure()
        async with aclosing(request.stream()) as stream:
            parser = FileParser(request, stream, files.unfinished, progress.add)
            kept: list[Path] = []
            try:
                parts = (await parser.parse()).getlist("files")
                if not parts:
                    raise InvalidInput("the form has no file in the field 'files'", param="files")
                for part in parts:
                    if isinstance(part, str):
                        raise InvalidInput("the field 'files' is text and no file", param="files")
                    if (part.size or 0) > max_bytes:
                        raise TooLarge(f"the file has {part.size} bytes; the limit is {max_bytes}", param="files")
                    part.file.close()
                    kept.append(files.keep(Path(part.file.name), safe_name(part.filename or "")))
                return kept
            except MultiPartException as error:
                raise HTTPException(400, error.message) from None
            except BaseException:
                for path in kept:
                    files.discard(path)
                raise
            finally:
                parser.delete_files()


class FileParser(MultiPartParser):
    """Starlette's parser, with each file in a named file from its first byte, so that it can be moved instead of copied."""

    def __init__(self, request: Request, stream: Any, folder: Path, on_data: Callable[[str, int], None]) -> None:
        super().__init__(request.headers, stream, max_files=MAX_FILES, max_fields=MAX_FILES, max_part_size=MAX_FIELD_BYTES)
        self._folder = folder
        self._on_data = on_data
        self._files: list[IO[bytes]] = []

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        if (part := self._current_part.file) is not None:
            file = tempfile.NamedTemporaryFile(dir=self._folder, delete=False)  # noqa: SIM115 - closed in `delete_files`
            self._files.append(file)
            part.file.close()
            part.file = file  # type: ignore[assignment]

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        super().on_part_data(data, start, end)
        if (part := self._current_part.file) is not None:
            self._on_data(part.filename or "", end - start)

    def delete_files(self) -> None:
        """Close all files, and delete those that were not moved elsewhere."""
        for file in self._files:
            with suppress(OSError):  # what was not written yet does not fit the disk; it is closed all the same
                file.close()
            with suppress(FileNotFoundError):
                os.unlink(file.name)


def safe_name(name: str) -> str:
    """A file name that may have been chosen to do harm, without folders, hidden names and unusual characters."""
    stem, dot, suffix = name.replace("\\", "/").rsplit("/", 1)[-1].rpartition(".")
    stem, suffix = _plain(stem if dot else suffix), _plain(suffix)[:16] if dot else ""
    room = MAX_NAME_BYTES - len(suffix.encode()) - 1
    stem = stem.encode()[:room].decode(errors="ignore").strip() or "upload"
    return f"{stem}.{suffix}" if suffix else stem


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isalnum() or c in "-_ .").strip(" .")


# --- progress


@dataclass
class Progress:
    """The bytes of one upload that its client has not been told of yet."""

    name: str = ""  # of the file that is arriving
    n_bytes: int = 0
    done: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, name: str, n_bytes: int) -> None:
        self.n_bytes = n_bytes + (self.n_bytes if name == self.name else 0)
        self.name = name
        self.news.set()

    def finish(self) -> None:
        self.done = True
        self.news.set()

    async def events(self) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    if not self.done:
                        await self.news.wait()
            except TimeoutError:
                yield server_sent({"msg": "heartbeat"})
                continue
            self.news.clear()
            if self.n_bytes:
                yield server_sent({"msg": "update", "orig_name": self.name, "chunk_size": self.n_bytes})
                self.n_bytes = 0
            if self.done:
                yield server_sent({"msg": "done"})
                return
            await asyncio.sleep(PROGRESS_S)


class ProgressTracker:
    """The progress of the uploads of the last hour, by the id that the client chose. Runs on the event loop."""

    def __init__(self) -> None:
        self._uploads: TTLCache[str, Progress] = TTLCache(TRACKED, TRACKED_S)

    @contextmanager
    def tracked(self, upload_id: str | None) -> Any:
        """The progress of an upload, which is done when the block ends, however it ends."""
        progress = Progress()
        if upload_id is not None:
            self._uploads[upload_id] = progress
        try:
            yield progress
        finally:
            progress.finish()

    async def find(self, upload_id: str) -> Progress | None:
        """The page asks for the progress at the moment when it begins to send, so the upload may be a moment late."""
        deadline = time.monotonic() + APPEARS_S
        while (progress := self._uploads.get(upload_id)) is None and time.monotonic() < deadline:
            await asyncio.sleep(PROGRESS_S)
        return progress
