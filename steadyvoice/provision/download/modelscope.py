"""ModelScope, through its own client."""

from __future__ import annotations

from pathlib import Path

from steadyvoice.provision.download.hub import FetchError, Hub, Listed, Listing, hex_digits, removed_sentence
from steadyvoice.provision.release_files import Release

BRANCH = "master"  # ModelScope's listing is not of one commit


def connect(release: Release, home: Path) -> Hub:
    """`home` is an empty folder in which the client may write."""
    # Not `modelscope` itself, which is this client and some more: that imports torch, in 1 s and more.
    from modelscope_hub import HubApi, HubConfig
    from modelscope_hub.errors import FileIntegrityError

    repository = release.repositories["modelscope"]
    # An empty token is none, wherever one might be found.
    config = HubConfig(token="", config_dir=home, cache_dir=home)
    title = f"ModelScope at {config.endpoint}"

    def list_files() -> Listing:
        api = HubApi(config)
        # Not api.list_repo_files: it leaves out the commits.
        entries = api.legacy.list_repo_files(repository, "model", revision=BRANCH)
        found = {str(entry["Path"]): entry for entry in entries if entry.get("Type") != "tree"}
        files = {name: Listed(int(entry["Size"]), hex_digits(entry.get("Sha256"), 64)) for name, entry in found.items()}
        # The latest commit that changed what we fetch names it better than the branch, which moves on.
        ours = (entry for name, entry in found.items() if release.wants(name))
        latest = max(ours, key=lambda entry: entry.get("CommittedDate") or 0, default={})

        def get(name: str, listed: Listed, folder: Path) -> None:
            try:
                api.download_file(
                    repository,
                    "model",
                    name,
                    revision=BRANCH,
                    local_dir=folder,
                    expected_sha256=listed.sha256,
                    file_size=listed.size,
                )
            except FileIntegrityError as error:  # after three attempts; the client has removed the file
                raise FetchError(removed_sentence(name, title, "it has not the size or the SHA-256 that is listed")) from error

        return Listing(hex_digits(latest.get("Revision"), 40) or BRANCH, files, get)

    return Hub(f"modelscope:{repository}", title, list_files)
