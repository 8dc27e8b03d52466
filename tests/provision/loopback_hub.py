"""A small ModelScope and Hugging Face on loopback: listing, redirect to the storage, Range. It can do what real ones do wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER_COMMIT = "f" * 40
WEIGHTS = "model.pt"
BLOCK = 64 * 1024

_SENSEVOICE = ("iic/SenseVoiceSmall", "FunAudioLLM/SenseVoiceSmall")
_LARGE = (".pt", ".pth", ".bin", ".safetensors")
_REPOSITORY = "([^/]+/[^/]+)"
_MODELSCOPE = re.compile(f"/api/v1/models/{_REPOSITORY}/repo")
_MODELSCOPE_LISTING = re.compile(f"/api/v1/models/{_REPOSITORY}/repo/files")
_HUGGINGFACE_LISTING = re.compile(f"/api/models/{_REPOSITORY}")
_HUGGINGFACE_FILE = re.compile(rf"/{_REPOSITORY}/resolve/{COMMIT}/(.+)")
_STORAGE = "/storage/"


def release(size: int) -> dict[str, bytes]:
    """A release in name and shape, with `size` random bytes for weights. What is not wanted of a hub comes last."""
    return {
        "am.mvn": b"<Nnet>\n" * 1_600,
        "chn_jpn_yue_eng_ko_spectok.bpe.model": os.urandom(30_000),
        "config.yaml": b"encoder: SenseVoiceEncoderSmall\n" * 50,
        "configuration.json": b'{"framework": "pytorch"}\n',
        WEIGHTS: os.urandom(size),
        "README.md": b"# SenseVoiceSmall\n",
        "example/zh.mp3": os.urandom(5_000),
        "fig/sensevoice.png": os.urandom(5_000),
    }


def prefix(repository: str) -> str:
    """What is before the names of a repository's files; nothing for SenseVoiceSmall's."""
    return "" if repository in _SENSEVOICE else f"{repository}/"


@dataclass
class Asked:
    """One request that came in."""

    method: str
    path: str  # with the query
    headers: dict[str, str]  # names in lower case

    @property
    def first_byte(self) -> int:
        found = re.match(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(found[1]) if found else 0


@dataclass
class LoopbackHub:
    """The hub, running between `with` and its end. Whoever changes what it does wrong does so between two requests."""

    files: dict[str, bytes]
    others: dict[str, bytes] = field(default_factory=dict)  # of other repositories, as owner/repository/name
    sha256: dict[str, str | None] = field(default_factory=dict)  # listed in place of the true one
    listed_sizes: dict[str, int] = field(default_factory=dict)  # likewise
    listed_too: list[str] = field(default_factory=list)  # names with nothing behind them
    served: dict[str, bytes] = field(default_factory=dict)  # in place of what is listed
    statuses: dict[str, int] = field(default_factory=dict)  # answered in place of a file; "listing" is one
    cuts: list[int] = field(default_factory=list)  # each next request for the weights is cut after so many bytes
    pause_after: int | None = None  # bytes of the weights, after which it sets `paused` and waits for `go_on`
    silent: bool = False  # the listing is never answered

    def __post_init__(self) -> None:
        self.asked: list[Asked] = []
        self.sent: dict[str, int] = {}  # bytes of each file in all answers together
        self.paused, self.go_on, self.ended = threading.Event(), threading.Event(), threading.Event()
        hub = self

        class Handler(_Handler):
            def __init__(self, *arguments: Any) -> None:
                self.hub = hub
                super().__init__(*arguments)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What leads both clients here."""
        return {"MODELSCOPE_ENDPOINT": self.url, "HF_ENDPOINT": self.url}

    def downloads(self, name: str = WEIGHTS) -> list[Asked]:
        """The requests to the storage for one file."""
        return [asked for asked in self.asked if asked.path == _STORAGE + name]

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.go_on.set()
        self.server.shutdown()
        self.server.server_close()

    def has(self, repository: str) -> bool:
        return any(key.startswith(prefix(repository)) for key in self.others | self.files)

    def content(self, key: str) -> bytes:
        """What is served for a name, which has its repository before it unless that is SenseVoiceSmall."""
        return (self.others | self.files | self.served)[key]

    def entries(self, repository: str) -> list[tuple[str, int, str | None]]:
        """(name, size, SHA-256) as listed."""
        before = prefix(repository)
        ours = self.files
        if before:
            ours = {key.removeprefix(before): content for key, content in self.others.items() if key.startswith(before)}
        found: list[tuple[str, int, str | None]] = []
        for name, content in ours.items():
            true = hashlib.sha256(content).hexdigest()
            found.append((name, self.listed_sizes.get(before + name, len(content)), self.sha256.get(before + name, true)))
        # What is listed without being there is listed of SenseVoiceSmall.
        return found + [(name, 1, hashlib.sha256(name.encode()).hexdigest()) for name in self.listed_too if not before]

    def modelscope_listing(self, repository: str) -> object:
        files = [
            {
                "Name": name.rsplit("/", 1)[-1],
                "Path": name,
                "Type": "blob",
                "Size": size,
                "Sha256": sha256,
                "IsLFS": name.endswith(_LARGE),
                "Revision": COMMIT if name == "config.yaml" else OLDER_COMMIT,
                "CommittedDate": 1_727_000_000 if name == "config.yaml" else 1_720_000_000,
            }
            for name, size, sha256 in self.entries(repository)
        ]
        folder = {"Name": "example", "Path": "example", "Type": "tree", "Size": 0, "Sha256": ""}
        return {"Code": 200, "Success": True, "Data": {"Files": [folder, *files], "LatestCommitter": {"ShortId": COMMIT[:8]}}}

    def huggingface_listing(self, repository: str) -> object:
        siblings: list[dict[str, object]] = []
        for name, size, sha256 in self.entries(repository):
            original = (self.others | self.files).get(prefix(repository) + name, b"")
            blob = hashlib.sha1(b"blob %d\0" % size + original).hexdigest()
            lfs = {"sha256": sha256, "size": size, "pointerSize": 134}
            kept = {"lfs": lfs} if name.endswith(_LARGE) and sha256 else {}
            siblings.append({"rfilename": name, "size": size, "blobId": blob} | kept)
        return {"id": repository, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would hold each body back until its headers are acknowledged, for 40 ms

    def do_GET(self) -> None:
        self.asked = Asked(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        self.hub.asked.append(self.asked)
        split = urlsplit(self.path)
        query = parse_qs(split.query)
        if found := _MODELSCOPE_LISTING.fullmatch(split.path):
            self.list_files(self.hub.modelscope_listing, found[1])
        elif found := _HUGGINGFACE_LISTING.fullmatch(split.path):
            self.list_files(self.hub.huggingface_listing, found[1])
        elif (found := _MODELSCOPE.fullmatch(split.path)) and query["Revision"] == ["master"]:
            self.redirect(prefix(found[1]) + query["FilePath"][0])
        elif found := _HUGGINGFACE_FILE.fullmatch(split.path):
            self.redirect(prefix(found[1]) + found[2])
        elif split.path.startswith(_STORAGE):
            self.send_file(split.path.removeprefix(_STORAGE))
        else:
            self.answer(404)

    do_HEAD = do_POST = do_GET  # recorded; no client should

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def list_files(self, listing: Any, repository: str) -> None:
        if self.hub.silent:
            self.hub.ended.wait()
            self.close_connection = True
        elif not self.hub.has(repository):
            self.answer(404)
        elif status := self.hub.statuses.get("listing"):
            self.answer(status, b"\x1b[31mno\x1b[0m listing here\n")
        else:
            self.answer(200, json.dumps(listing(repository)).encode(), Content_Type="application/json")

    def redirect(self, name: str) -> None:
        if status := self.hub.statuses.get(name):
            self.answer(status)
        else:
            self.answer(302, Location=f"{self.hub.url}{_STORAGE}{name}")

    def send_file(self, name: str) -> None:
        hub = self.hub
        content = hub.content(name)
        start = self.asked.first_byte
        if start >= len(content):
            self.answer(416, Content_Range=f"bytes */{len(content)}")
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if name == WEIGHTS and hub.cuts:
            end = min(end, start + hub.cuts.pop(0))
        for position in range(start, end, BLOCK):
            if name == WEIGHTS and hub.pause_after is not None and position - start >= hub.pause_after:
                hub.paused.set()
                hub.go_on.wait()
            block = content[position : min(position + BLOCK, end)]
            try:
                self.wfile.write(block)
            except OSError:  # the client went away
                self.close_connection = True
                return
            hub.sent[name] = hub.sent.get(name, 0) + len(block)
        if end < len(content):
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
