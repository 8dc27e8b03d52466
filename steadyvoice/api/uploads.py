"""Forms with a file, as the API's routes receive them.

The file is spooled: in memory up to `upload_slots.SMALL_BYTES`, then in an unnamed file that ends with its descriptor. Knows
nothing of what the files are for.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from fastapi import Request
from starlette.datastructures import FormData

from steadyvoice.service.disk_full import storing
from steadyvoice.service.service import Service


def expected_bytes(request: Request) -> int | None:
    """The size of the body, if it was told in advance."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isascii() and declared.isdigit() else None


async def receive_form(
    request: Request, service: Service, hold: AsyncExitStack, *, max_fields: int, max_field_bytes: int
) -> FormData:
    """The fields and at most one file of a form. `hold` closes the file.

    Raises:
        Overloaded: too many uploads are being received.
        StorageFull: the file does not fit the disk.
        SteadyvoiceError, HTTPException, ClientDisconnect: the body is too large, malformed or incomplete.
    """
    with service.upload_slots.slot(expected_bytes(request)), storing("the upload"):
        service.files.ensure()
        form = await request.form(max_files=1, max_fields=max_fields, max_part_size=max_field_bytes)
    hold.push_async_callback(form.close)
    return form
