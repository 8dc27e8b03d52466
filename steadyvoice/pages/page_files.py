"""Files of the pages: what a visitor has uploaded, and what a page offers for download."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import gradio as gr

from steadyvoice.errors import InvalidInput
from steadyvoice.pages.input_guard import is_upload
from steadyvoice.service.private_folder import FILES_KEPT_S, PrivateFolder
from steadyvoice.service.service import Service


@contextmanager
def admitted_upload(service: Service, request: gr.Request, path: str | None) -> Iterator[BinaryIO]:
    """Hold a place while the block runs, and give the uploaded file. Raises as `Admission.admitted` and `opened_upload`."""
    with service.admission.admitted(request), opened_upload(service.files, path) as file:
        yield file


@contextmanager
def opened_upload(files: PrivateFolder, path: str | None) -> Iterator[BinaryIO]:
    """The uploaded file, open for reading, if that is what the path is.

    Raises:
        InvalidInput: there is no file, or the path is not one that an upload made.
    """
    if not path:
        raise InvalidInput("no audio was given", param="file")
    try:
        if not is_upload(path):
            raise FileNotFoundError
        resolved = Path(path).resolve()
        files.touch(resolved)
        file = resolved.open("rb")
    except FileNotFoundError:
        raise InvalidInput(
            f"the audio is not an uploaded file, or it was deleted after {FILES_KEPT_S / 60:g} minutes; upload it again",
            param="file",
        ) from None
    with file:
        yield file


async def write_downloads(service: Service, contents: Mapping[str, bytes], what: str) -> list[Path]:
    """Files that the page offers, by name. None is left if the job is cancelled meanwhile.

    Raises:
        StorageFull: the disk, or the room for files, is full; `what` names the files in the error.
    """
    written: list[Path] = []
    try:
        await service.threads.run(lambda: written.extend(service.files.write(contents, what)))
    except BaseException:
        if written:
            service.files.discard(written[0])
        raise
    return written
