from __future__ import annotations

import asyncio
import errno
import json

import pytest
from starlette.requests import Request

from steadyvoice.api.errors import answer_bug
from steadyvoice.errors import StorageFull
from steadyvoice.service.disk_full import storing


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_what_was_to_be_stored(number: int) -> None:
    with pytest.raises(StorageFull, match="no space left on the server's disk for the audio"), storing("the audio"):
        raise OSError(number, "full", "/a/path")


def test_other_errors_of_files_stay_what_they_are() -> None:
    with pytest.raises(PermissionError), storing("the audio"):
        raise PermissionError(errno.EACCES, "not allowed")


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 507), (errno.EDQUOT, 507), (errno.EACCES, 500)])
def test_a_full_disk_where_no_code_expects_it_is_507_too(number: int, status: int) -> None:
    answer = asyncio.run(answer_bug(Request({"type": "http"}), OSError(number, "full", "/a/path")))
    assert answer.status_code == status
    assert "/a/path" not in str(answer.body)
    assert json.loads(bytes(answer.body))["error"]["code"] == {507: "insufficient_storage", 500: "internal_error"}[status]
