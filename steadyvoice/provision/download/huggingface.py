"""Hugging Face, through its own client."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from steadyvoice.provision.download.hub import LISTING_S, FetchError, Hub, Listed, Listing, hex_digits
from steadyvoice.provision.release_files import Release


def connect(release: Release) -> Hub:
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get

    repository = release.repositories["huggingface"]
    api = HfApi(token=False)
    title = f"Hugging Face at {api.endpoint}"

    def list_files() -> Listing:
        info = api.model_info(repository, files_metadata=True, timeout=LISTING_S)
        revision = hex_digits(info.sha, 40)
        if revision is None:
            raise ValueError("it names no commit")
        files = {
            str(entry.rfilename): Listed(
                int(entry.size or 0),
                hex_digits(entry.lfs.sha256, 64) if entry.lfs else None,
                None if entry.lfs else hex_digits(entry.blob_id, 40),
            )
            for entry in info.siblings or []
        }

        def get(name: str, listed: Listed, folder: Path) -> None:
            # Not hf_hub_download: in this version it begins anew in every process, and throws away what it has.
            target, unfinished = folder / name, folder / f"{name}.incomplete"
            if target.exists():
                return  # _verify looks at it
            url = hf_hub_url(repository, name, revision=revision, endpoint=api.endpoint)
            headers = {"Accept-Encoding": "identity"}  # and so no token
            if unfinished.exists() and unfinished.stat().st_size > listed.size:
                unfinished.unlink()
            try:
                with _LimitedFile(unfinished, listed.size) as file:
                    if file.tell() < listed.size:
                        http_get(url, file, resume_size=file.tell(), headers=headers, displayed_filename=name)
            except HfHubHTTPError as error:
                if error.response.status_code == 416:  # the file ends before our part of it does
                    unfinished.unlink()
                raise
            unfinished.rename(target)

        return Listing(revision, files, get)

    return Hub(f"huggingface:{repository}", title, list_files)


class _LimitedFile(io.BufferedWriter):
    """A file that is appended to and does not grow over `limit` bytes: this client would write all that it is sent."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(io.FileIO(path, "a"))
        self.limit = limit

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self.limit:
            raise FetchError(f"more than the {self.limit} bytes that are listed came for {Path(str(self.raw.name)).stem}")  # type: ignore[attr-defined]
        return super().write(data)
