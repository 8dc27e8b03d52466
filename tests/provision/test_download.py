"""The release comes whole or not at all: the real clients against a hub on loopback that does what hubs and networks do wrong."""

from __future__ import annotations

import builtins
import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from steadyvoice.provision.download import huggingface, modelscope
from steadyvoice.provision.download import release as release_module
from steadyvoice.provision.download.hub import FetchError
from steadyvoice.provision.download.sensevoice import fetch
from steadyvoice.provision.release_files import FILES, MANIFEST, release_problem, revision_of
from steadyvoice.settings import PREFIX, ROOT, Settings
from tests.provision.loopback_hub import COMMIT, WEIGHTS, LoopbackHub, release
from tests.provision.test_release_files import put_by_hand

TIMEOUT_S = 60.0  # for anything that is waited for; only a failure takes so long
BOTH = pytest.mark.parametrize("source", ["modelscope", "huggingface"])
SIZE = 2_400_000  # of the weights
# Hugging Face's client writes in blocks of 10 MiB, and only what has been written can be resumed.
LARGE = 24_000_000

MAIN = "import sys; from steadyvoice.provision.download import sensevoice; sys.exit(sensevoice.main())"
# Lists on stdout whatever touched the network, and the packages that were loaded.
WATCHED = """
import sys
touched = []
sys.addaudithook(lambda event, arguments: touched.append(f"{event} {arguments}") if event.startswith("socket.") else None)
from steadyvoice.provision.download import sensevoice
code = sensevoice.main()
print(*touched, *{name.split(".")[0] for name in sys.modules}, sep="\\n")
sys.exit(code)
"""
IMPATIENT = """
import functools, sys
from steadyvoice.provision.download import sensevoice
sensevoice.fetch = functools.partial(sensevoice.fetch, listing_s=0.5)
sys.exit(sensevoice.main())
"""
SURE_OF_ITS_DISK = "from steadyvoice.provision import hardware; hardware.free_disk_bytes = lambda folder: 10**12\n" + MAIN
TALKATIVE = "from steadyvoice.provision.download import report; report.REPORT_S = 0.01\n" + MAIN


@pytest.fixture
def server() -> Iterator[LoopbackHub]:
    with LoopbackHub(release(SIZE)) as running:
        yield running


@pytest.fixture
def large_server() -> Iterator[LoopbackHub]:
    with LoopbackHub(release(LARGE)) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache hub"


def environment(cache: Path, server: LoopbackHub | None = None, **settings: str) -> dict[str, str]:
    """Of a process that sees nothing of the user's: no home, no tokens, no proxies, no settings."""
    own = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LD_LIBRARY_PATH")}
    home = {"HOME": str(cache.parent / "home"), "TMPDIR": str(cache.parent)}
    named = {PREFIX + name if name.lower() in Settings.model_fields else name: value for name, value in settings.items()}
    return own | home | (server.environment if server else {}) | {f"{PREFIX}CACHE_HUB": str(cache)} | named


def begin(cache: Path, server: LoopbackHub | None = None, script: str = MAIN, **settings: str) -> subprocess.Popen[str]:
    """A download in a process of its own. `HUB=` is STEADYVOICE_HUB; what is no setting stands for itself."""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment(cache, server, **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(cache: Path, server: LoopbackHub | None = None, script: str = MAIN, **settings: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    process = begin(cache, server, script, **settings)
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    return process.returncode, out, err


def settings(cache: Path, **values: object) -> Settings:
    return Settings(_env_file=None, cache_hub=cache, **values)  # type: ignore[call-arg, arg-type]


def download(cache: Path, server: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """From ModelScope, in this process."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    fetch(settings(cache, hub="modelscope"), listing_s=TIMEOUT_S)


def whole(cache: Path, server: LoopbackHub) -> Path:
    """The release directory, after a look at every byte."""
    folder = cache / "SenseVoiceSmall"
    assert release_problem(folder) is None
    assert {path.name for path in folder.iterdir()} == {*FILES, MANIFEST}
    for name in FILES:
        assert (folder / name).read_bytes() == server.files[name], name
    assert not (cache / ".SenseVoiceSmall.part").exists()
    return folder


def one_sentence(err: str) -> str:
    """The last line, which is what stopped it; a traceback or an escape sequence of the hub's would be no sentence."""
    assert "Traceback" not in err
    assert "\x1b" not in err
    return err.splitlines()[-1]


# What comes


@BOTH
def test_the_release_comes_whole_and_nothing_else_does(source: str, cache: Path, server: LoopbackHub) -> None:
    code, _, err = run(cache, server, HUB=source)
    assert code == 0, err
    folder = whole(cache, server)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["revision"] == revision_of(folder) == COMMIT
    assert manifest["source"].startswith(f"{source}:")
    contents = {name: server.files[name] for name in FILES}
    assert manifest["files"] == {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in contents.items()
    }
    assert server.sent == {name: len(content) for name, content in contents.items()}
    # One listing, and a redirect and a file for each: no statistics, no probes.
    assert len(server.asked) == 1 + 2 * len(FILES)
    assert {asked.method for asked in server.asked} == {"GET"}
    assert "SenseVoiceSmall, revision" in one_sentence(err)


@BOTH
def test_no_token_of_the_user_reaches_a_hub(source: str, cache: Path, server: LoopbackHub) -> None:
    home = cache.parent / "home"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "token").write_text("secret-hf")
    (home / ".netrc").write_text("machine 127.0.0.1 login me password secret-netrc\n")
    (home / ".netrc").chmod(0o600)
    tokens = dict.fromkeys(("MODELSCOPE_API_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"), "secret-token")
    server.statuses[WEIGHTS] = 404
    run(cache, server, HUB=source, **tokens)
    assert len(server.asked) == 2 * len(FILES)
    for asked in server.asked:
        assert not {"authorization", "cookie"} & set(asked.headers)
        assert "secret" not in str(asked)
    assert not (home / ".modelscope").exists(), "the clients keep nothing of this"


def test_with_the_release_in_place_nothing_is_connected_to(cache: Path, server: LoopbackHub) -> None:
    put_by_hand(cache / "SenseVoiceSmall")
    proxies = {"http_proxy": server.url, "https_proxy": server.url, "all_proxy": server.url}
    code, out, err = run(cache, server, WATCHED, ASR_ENGINE="sensevoice", **proxies)
    assert (code, err) == (0, "")
    assert "socket.connect" not in out
    assert "socket.getaddrinfo" not in out
    assert not {"modelscope", "modelscope_hub", "huggingface_hub", "requests", "torch"} & set(out.splitlines())
    assert server.asked == []


@pytest.mark.parametrize(
    "choice",
    [
        {"hub": "none"},
        {"asr_engine": "pocketsphinx"},
        {"sensevoice_dir": Path("/x")},
        {"asr_engine": "funasr", "funasr_model": "paraformer-zh"},
    ],
    ids=str,
)
def test_nothing_is_fetched_for_who_does_not_want_it(
    choice: dict[str, object], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hub in (modelscope, huggingface):
        monkeypatch.setattr(hub, "connect", lambda *_: pytest.fail("a client was made"))
    fetch(settings(cache, **choice))
    assert not cache.exists()


def test_what_the_app_imports_drags_in_no_client() -> None:
    code = (
        "import json, sys; from steadyvoice.provision.download import sensevoice; "
        "print(json.dumps(sorted({'modelscope', 'modelscope_hub', 'huggingface_hub', 'requests', 'torch'} & set(sys.modules))))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert json.loads(finished.stdout) == []


def test_progress_in_a_log_is_a_line_now_and_then_and_no_bar(cache: Path, server: LoopbackHub) -> None:
    server.pause_after = SIZE // 2
    process = begin(cache, server, TALKATIVE)
    assert process.stderr is not None
    for line in process.stderr:
        if "are here" in line:
            server.go_on.set()
            break
    _, rest = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert line.startswith("hub: ")
    assert line.endswith(" of 2.4 MB are here\n")
    assert "\r" not in line + rest
    whole(cache, server)


# What is cut, and continues


@BOTH
def test_a_cut_connection_is_resumed_where_it_was(source: str, cache: Path, large_server: LoopbackHub) -> None:
    large_server.cuts = [15_000_000]
    code, _, err = run(cache, large_server, HUB=source)
    assert code == 0, err
    whole(cache, large_server)
    first, second = large_server.downloads()
    assert first.first_byte == 0
    assert second.first_byte > 0
    assert large_server.sent[WEIGHTS] == 15_000_000 + LARGE - second.first_byte


@BOTH
def test_a_start_after_a_kill_continues_where_the_other_was(source: str, cache: Path, large_server: LoopbackHub) -> None:
    large_server.pause_after = LARGE - 500_000
    process = begin(cache, large_server, HUB=source)
    assert large_server.paused.wait(TIMEOUT_S)
    process.kill()
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == -signal.SIGKILL
    assert not (cache / "SenseVoiceSmall").exists()
    large_server.pause_after = None
    large_server.go_on.set()
    before = len(large_server.downloads())
    code, _, err = run(cache, large_server, HUB=source)
    assert code == 0, err
    whole(cache, large_server)
    (resumed,) = large_server.downloads()[before:]
    assert resumed.first_byte > LARGE // 4
    assert [len(large_server.downloads(name)) for name in FILES if name != WEIGHTS] == [1] * 4, "what had come stays"


def test_a_connection_that_is_always_cut_is_given_up_and_the_next_start_continues(cache: Path, server: LoopbackHub) -> None:
    server.cuts = [500_000, 500_000]
    code, _, err = run(cache, server, MODELSCOPE_DOWNLOAD_MAX_RETRIES="1")
    assert code == 0
    assert "model.pt did not come from ModelScope" in one_sentence(err)
    assert "the next start continues; going on with the embedded recogniser" in one_sentence(err)
    assert release_problem(cache / "SenseVoiceSmall") is not None
    code, _, err = run(cache, server)
    assert code == 0, err
    whole(cache, server)
    assert [asked.first_byte for asked in server.downloads()] == [0, 500_000, 1_000_000]
    assert server.sent[WEIGHTS] == SIZE
    assert "1.4 MB of 2.4 MB are still to come" in err


def test_what_one_hub_began_another_finishes(cache: Path, server: LoopbackHub) -> None:
    server.cuts = [500_000]
    assert run(cache, server, MODELSCOPE_DOWNLOAD_MAX_RETRIES="0")[0] == 0
    assert run(cache, server, HUB="huggingface")[0] == 0
    whole(cache, server)
    assert server.sent[WEIGHTS] == SIZE


def test_two_starts_at_once_fetch_once_and_the_second_says_that_it_waits(cache: Path, server: LoopbackHub) -> None:
    server.pause_after = SIZE // 2
    first = begin(cache, server)
    assert server.paused.wait(TIMEOUT_S)
    second = begin(cache, server, HUB="huggingface")
    assert second.stderr is not None
    waits = second.stderr.readline()
    server.go_on.set()
    for process in (first, second):
        _, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, err
    assert waits == "hub: another start is fetching SenseVoiceSmall; waiting for it\n"
    whole(cache, server)
    assert server.sent == {name: len(server.files[name]) for name in FILES}


def test_a_fetched_release_that_was_damaged_is_mended_with_what_is_missing_only(cache: Path, server: LoopbackHub) -> None:
    assert run(cache, server)[0] == 0
    folder = whole(cache, server)
    os.truncate(folder / "config.yaml", 10)
    (folder / "am.mvn").unlink()
    assert release_problem(folder) is not None
    code, _, err = run(cache, server)
    assert code == 0, err
    whole(cache, server)
    assert {name: len(server.downloads(name)) for name in FILES} == dict.fromkeys(FILES, 1) | {"config.yaml": 2, "am.mvn": 2}


def test_a_folder_that_somebody_else_began_is_left_alone(
    cache: Path, server: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache / "SenseVoiceSmall"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("mine")
    with pytest.raises(FetchError, match=r"has no am.mvn, model.pt, \*.bpe.model, and this program did not put it there"):
        download(cache, server, monkeypatch)
    assert [path.read_text() for path in folder.iterdir()] == ["mine"]
    assert server.sent == {}


def test_an_empty_folder_is_no_hindrance(cache: Path, server: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "SenseVoiceSmall").mkdir(parents=True)
    download(cache, server, monkeypatch)
    whole(cache, server)


# What a hub does wrong


@BOTH
def test_a_file_with_another_checksum_is_removed_and_the_next_start_fetches_it_again(
    source: str, cache: Path, server: LoopbackHub
) -> None:
    server.served[WEIGHTS] = bytes(SIZE)
    code, _, err = run(cache, server, HUB=source, ASR_ENGINE="sensevoice")
    assert code == 2
    said = one_sentence(err)
    assert "model.pt from" in said
    assert "was removed" in said
    assert "SHA-256" in said
    assert said.endswith("STEADYVOICE_ASR_ENGINE=sensevoice cannot work without it")
    assert not (cache / "SenseVoiceSmall").exists()
    assert not list((cache / ".SenseVoiceSmall.part").glob("model.pt*"))
    server.served.clear()
    code, _, err = run(cache, server, HUB=source, ASR_ENGINE="sensevoice")
    assert code == 0, err
    whole(cache, server)
    assert len(server.downloads("am.mvn")) == 1


def test_a_small_file_with_another_git_checksum_is_refused(cache: Path, server: LoopbackHub) -> None:
    """Hugging Face lists no SHA-256 of what it keeps in Git."""
    server.served["config.yaml"] = server.files["config.yaml"].swapcase()
    code, _, err = run(cache, server, HUB="huggingface")
    assert code == 0
    assert "config.yaml from Hugging Face" in one_sentence(err)
    assert "Git SHA-1" in one_sentence(err)
    assert not (cache / "SenseVoiceSmall").exists()


@pytest.mark.parametrize(
    ("source", "size"), [("modelscope", SIZE - 1_000), ("huggingface", SIZE - 1_000), ("huggingface", 2 * SIZE)]
)
def test_a_file_of_another_size_than_listed_is_refused(source: str, size: int, cache: Path, server: LoopbackHub) -> None:
    server.served[WEIGHTS] = (server.files[WEIGHTS] * 2)[:size]
    code, _, err = run(cache, server, HUB=source, ASR_ENGINE="funasr")
    assert code == 2
    assert "model.pt" in one_sentence(err)
    assert not (cache / "SenseVoiceSmall").exists()
    assert all(path.stat().st_size <= SIZE for path in (cache / ".SenseVoiceSmall.part").iterdir())


@pytest.mark.parametrize(("source", "status"), [("modelscope", 404), ("huggingface", 500)])
def test_a_hub_that_answers_with_an_error_is_quoted(source: str, status: int, cache: Path, server: LoopbackHub) -> None:
    server.statuses["listing"] = status
    code, _, err = run(cache, server, HUB=source)
    assert code == 0
    assert f"gives no listing of SenseVoiceSmall: it answers {status}; going on with the embedded" in one_sentence(err)
    assert server.url in one_sentence(err)
    assert not cache.exists(), "nothing is left behind"


@pytest.mark.parametrize(("source", "status"), [("huggingface", 404), ("modelscope", 500)])
def test_a_file_that_is_listed_but_not_given_is_named(source: str, status: int, cache: Path, server: LoopbackHub) -> None:
    server.statuses["am.mvn"] = status
    code, _, err = run(cache, server, HUB=source, MODELSCOPE_DOWNLOAD_MAX_RETRIES="0")
    assert code == 0
    assert "am.mvn did not come from" in one_sentence(err)
    assert f"it answers {status}" in one_sentence(err)


def test_a_part_that_is_longer_than_what_the_hub_has_now_is_dropped(cache: Path, server: LoopbackHub) -> None:
    server.cuts = [1_000_000]
    run(cache, server, MODELSCOPE_DOWNLOAD_MAX_RETRIES="0")
    server.served[WEIGHTS] = server.files[WEIGHTS][:500_000]
    assert "it answers 416" in one_sentence(run(cache, server, HUB="huggingface")[2])
    assert not list((cache / ".SenseVoiceSmall.part").glob("model.pt*"))


def lists_a_path(name: str) -> Callable[[LoopbackHub], None]:
    return lambda server: server.listed_too.append(name)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lists_a_path("../../.bashrc"), r"lists '../../.bashrc', which is no name"),
        (lists_a_path("/etc/passwd"), r"lists '/etc/passwd', which is no name"),
        (lists_a_path("example\\..\\x"), r"which is no name"),
        (lists_a_path("a\x1b[2Jb"), r"lists 'a\\x1b\[2Jb', which is no name"),
        (lambda server: server.listed_too.extend(map(str, range(100))), r"lists 108 files, more than the 100"),
        (lambda server: server.listed_sizes.update({WEIGHTS: 5 * 10**9}), r"lists 5000.0 MB, more than the 4000.0 MB"),
        (lambda server: server.listed_sizes.update({WEIGHTS: -1}), r"lists no size for model.pt"),
        (lambda server: server.files.pop("am.mvn"), r"lists no am.mvn"),
        (lambda server: server.statuses.update(listing=200), r"gives no listing of SenseVoiceSmall: JSONDecodeError"),
        (lambda server: server.sha256.update({WEIGHTS: None}), r"lists no SHA-256 of model.pt"),
        (lambda server: server.sha256.update({WEIGHTS: "0" * 40}), r"lists no SHA-256 of model.pt"),
    ],
)
def test_an_absurd_listing_is_refused_before_anything_is_fetched(
    wrong: Callable[[LoopbackHub], Any], said: str, cache: Path, server: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(server)
    with pytest.raises(FetchError, match=said):
        download(cache, server, monkeypatch)
    assert len(server.asked) == 1
    assert not cache.exists()


def test_hugging_face_too_has_to_list_a_checksum_of_the_weights(cache: Path, server: LoopbackHub) -> None:
    server.sha256[WEIGHTS] = None
    code, _, err = run(cache, server, HUB="huggingface", ASR_ENGINE="sensevoice")
    assert code == 2
    assert "lists no SHA-256 of model.pt" in one_sentence(err)
    assert not cache.exists()


# What a network does wrong


def test_a_hub_that_is_not_there_is_one_sentence_and_stops_only_who_asked_for_the_engine(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}"
    code, _, err = run(cache, HUB="huggingface", ASR_ENGINE="sensevoice", HF_ENDPOINT=closed)
    assert code == 2
    assert f"Hugging Face at {closed} gives no listing of SenseVoiceSmall: Connection refused;" in one_sentence(err)
    assert "going on" not in err
    code, _, err = run(cache, HUB="huggingface", HF_ENDPOINT=closed)
    assert code == 0
    assert "Connection refused; going on with the embedded recogniser" in one_sentence(err)


def test_a_name_that_nobody_knows_is_one_sentence(cache: Path) -> None:
    code, _, err = run(cache, MODELSCOPE_ENDPOINT="https://no-such-hub.invalid")
    assert code == 0
    assert "ModelScope at https://no-such-hub.invalid gives no listing" in one_sentence(err)


def test_a_hub_that_never_answers_is_given_up_when_its_time_is_over(cache: Path, server: LoopbackHub) -> None:
    server.silent = True
    code, _, err = run(cache, server, IMPATIENT)
    assert code == 0
    assert "gives no listing of SenseVoiceSmall: no answer within 0.5 s; going on" in one_sentence(err)


@BOTH
def test_an_address_that_swallows_connections_is_given_up_when_its_time_is_over(source: str, cache: Path) -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):  # with its queue full, the kernel answers no more
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        hole = f"http://127.0.0.1:{full.getsockname()[1]}"
        code, _, err = run(cache, None, IMPATIENT, HUB=source, MODELSCOPE_ENDPOINT=hole, HF_ENDPOINT=hole)
    assert code == 0
    assert "no answer within 0.5 s" in one_sentence(err)


# What a disk does wrong


def test_too_little_disk_is_said_before_anything_is_fetched_naming_both_numbers(
    cache: Path, server: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_module.hardware, "free_disk_bytes", lambda folder: 2_500_000)
    with pytest.raises(FetchError, match=r"needs 2.7 MB of free disk at .*cache hub, 2.5 MB are free: .*STEADYVOICE_CACHE_HUB"):
        download(cache, server, monkeypatch)
    assert server.sent == {}


def on_a_small_disk(cache: Path, server: LoopbackHub, script: str, source: str) -> tuple[int, str]:
    """Run with `cache` on a real disk of 1 MiB, in a mount namespace that ends with the process."""
    cache.mkdir()
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f'mount -t tmpfs -o size=1m tmpfs "{cache}"'
    if not shutil.which("unshare") or subprocess.run([*unshare, mount], check=False, capture_output=True).returncode:
        pytest.skip("a REAL full disk needs user namespaces, which this machine refuses; the next test pretends one")
    finished = subprocess.run(
        [*unshare, f'{mount} && exec "$@"', "sh", sys.executable, "-c", script],
        cwd=ROOT,
        env=environment(cache, server, HUB=source),
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    return finished.returncode, one_sentence(finished.stderr)


def test_a_disk_that_is_really_small_is_measured_rightly(cache: Path, server: LoopbackHub) -> None:
    code, said = on_a_small_disk(cache, server, MAIN, "modelscope")
    assert code == 0
    assert "needs 2.7 MB of free disk" in said
    assert "1.0 MB are free" in said


@BOTH
def test_a_disk_that_fills_up_in_the_middle_is_one_sentence(source: str, cache: Path, server: LoopbackHub) -> None:
    code, said = on_a_small_disk(cache, server, SURE_OF_ITS_DISK, source)
    assert code == 0
    assert f"the disk at {cache} is full: make room, or set STEADYVOICE_CACHE_HUB to a larger disk; what has come is kept" in said
    assert len(server.downloads()) == 1, "it is not tried again"


def test_a_disk_that_is_said_to_be_full_is_one_sentence(
    cache: Path, server: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pretended, for machines where the test before is skipped."""
    real = builtins.open

    def fills_up(path: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if str(path).endswith("model.pt.incomplete"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, mode, *arguments, **named)

    monkeypatch.setattr(builtins, "open", fills_up)
    with pytest.raises(FetchError, match=r"the disk at .* is full: make room, or set STEADYVOICE_CACHE_HUB"):
        download(cache, server, monkeypatch)


def test_a_cache_hub_that_cannot_be_made_is_one_sentence(
    cache: Path, server: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file")
    with pytest.raises(FetchError, match="cannot be written: "):
        download(cache / "below", server, monkeypatch)


def test_a_bad_setting_is_told_and_stops_the_start(cache: Path) -> None:
    code, _, err = run(cache, HUB="somewhere")
    assert code == 2
    assert "STEADYVOICE_HUB='somewhere'" in one_sentence(err)
