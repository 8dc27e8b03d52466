from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyvoice.api.response_spool import Spool

TIMEOUT_S = 20


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, TIMEOUT_S))


async def rest_of(spool: Spool) -> bytes:
    pieces = []
    while data := await spool.read():
        pieces.append(data)
    return b"".join(pieces)


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=40), st.none()), max_size=60), st.integers(0, 60), st.integers(0, 200))
def test_bytes_come_out_as_they_went_in_wherever_they_are_kept(steps: list[bytes | None], memory: int, file: int) -> None:
    """`None` is a read between writes."""

    async def scenario() -> None:
        spool, read = Spool(memory, file), bytearray()

        async def write() -> None:
            for data in filter(None, steps):
                await spool.write(data)
            spool.end()

        writing = asyncio.ensure_future(write())
        for _ in range(steps.count(None)):
            read.extend(await spool.read())
        read.extend(await rest_of(spool))
        await writing
        spool.close()
        assert bytes(read) == b"".join(filter(None, steps))

    run(scenario())


def test_a_reader_waits_for_bytes_and_for_the_end() -> None:
    async def scenario() -> None:
        spool = Spool()
        reading = asyncio.ensure_future(rest_of(spool))
        for data in (b"a", b"b"):
            await asyncio.sleep(0)
            await spool.write(data)
        assert not reading.done()
        spool.end()
        assert await reading == b"ab"

    run(scenario())


def test_little_is_kept_without_a_file_and_much_without_waiting_for_a_reader() -> None:
    async def scenario() -> None:
        spool = Spool()
        await spool.write(bytes(900_000))
        assert spool._file is None
        for _ in range(9):
            await spool.write(bytes(1_000_000))
        assert spool._file is not None
        assert os.fstat(spool._file.fileno()).st_size == 9_000_000
        spool.end()
        assert len(await rest_of(spool)) == 9_900_000
        assert os.fstat(spool._file.fileno()).st_size == 0, "the disk has it back as soon as it was read"
        spool.close()
        assert spool._file.closed

    run(scenario())


def test_where_the_disk_is_full_the_work_waits_for_the_reader(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def scenario() -> None:
        spool = Spool(memory_bytes=10)
        await spool.write(b"0123456789")
        monkeypatch.setattr(os, "pwrite", full)
        writing = asyncio.ensure_future(spool.write(b"abc"))
        await asyncio.sleep(0)
        assert not writing.done()
        assert await spool.read() == b"0123456789"
        await writing
        spool.end()
        assert await rest_of(spool) == b"abc"

    run(scenario())
    assert "No space left on device" in caplog.text
