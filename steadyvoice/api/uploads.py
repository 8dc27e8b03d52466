"""Forms with a file, as the API's routes receive them.

The file is spooled: in memory up to `upload_slots.SMALL_BYTES`, then in an unnamed file that ends with its descriptor. Knows
nothing of what the files are for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import Request
from starlette.datastructures import FormData

from steadyvoice.service.disk_full import storing
from steadyvoice.service.service import Service

T = TypeVar("T")


def expected_bytes(request: Request) -> int | None:
    """The size of the body, if it was told in advance."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isascii() and declared.isdigit() else None


@asynccontextmanager
async def admitted_form(
    request: Request, service: Service, parse: Callable[[FormData], T], *, max_fields: int, max_field_bytes: int
) -> AsyncIterator[T]:
    """Receive a form with at most one file, then hold a place while the block runs; gives what `parse` makes of the form.

    A request that would be refused is refused before its body is read. The file is closed when the block ends.

    Raises:
        Overloaded: the concurrency limit is reached, or too many uploads are being received.
        EngineUnavailable: the server is draining.
        StorageFull: the file does not fit the disk.
        SteadyvoiceError, HTTPException, ClientDisconnect: the body is too large, malformed or incomplete, or `parse` refuses it.
    """
    admission = service.admission
    admission.check(request)
    with admission.receiving(expected_bytes(request)), storing("the upload"):
        service.files.ensure()
        form = await request.form(max_files=1, max_fields=max_fields, max_part_size=max_field_bytes)
    try:
        parsed = parse(form)
        with admission.admitted(request):
            yield parsed
    finally:
        await form.close()
