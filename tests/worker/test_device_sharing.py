from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steadyvoice.worker.device_sharing import SharedDevice

ANOTHER = """
import sys
from pathlib import Path
from steadyvoice.worker.device_sharing import SharedDevice
device = SharedDevice(Path({folder!r}))
with device.loading():
    device.claim(1_000, "cpu")
    print("loading", flush=True)
    sys.stdin.readline()
print("loaded", flush=True)
for line in sys.stdin:
    print(device.is_asked_to_leave(), flush=True)
"""

Another = subprocess.Popen[str]


@pytest.fixture
def another(tmp_path: Path) -> Iterator[Callable[[], Another]]:
    """Starts another worker on the same device, which is loading."""
    started: list[Another] = []

    def start() -> Another:
        command = [sys.executable, "-c", ANOTHER.format(folder=str(tmp_path))]
        root = Path(__file__).resolve().parent.parent.parent
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
        started.append(process)
        assert said(process) == "loading"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def said(process: Another) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: Another) -> None:
    assert process.stdin is not None
    process.stdin.write("go on\n")
    process.stdin.flush()


def test_loads_on_one_device_come_one_after_the_other(tmp_path: Path, another: Callable[[], Another]) -> None:
    other = another()
    mine = threading.Event()

    def load() -> None:
        with SharedDevice(tmp_path).loading():
            mine.set()

    thread = threading.Thread(target=load)
    thread.start()

    assert not mine.wait(0.5)  # as long as the other loads
    tell(other)
    assert mine.wait(30)
    thread.join()


def test_a_worker_that_dies_while_it_loads_lets_the_next_one_load(tmp_path: Path, another: Callable[[], Another]) -> None:
    other = another()
    other.send_signal(signal.SIGKILL)

    with SharedDevice(tmp_path).loading():
        assert other.wait(30) == -signal.SIGKILL


def test_what_others_have_claimed_counts_while_they_live(tmp_path: Path, another: Callable[[], Another]) -> None:
    device = SharedDevice(tmp_path)
    device.claim(5, "cpu")  # one's own does not
    assert device.claimed_by_others("cpu") == 0
    other = another()

    assert device.claimed_by_others("cpu") == 1_000
    assert device.claimed_by_others("another card") == 0

    other.kill()
    other.wait()
    assert device.claimed_by_others("cpu") == 0
    assert len(list(tmp_path.glob("claim.*"))) == 1  # one's own; what the dead one left is gone


def test_where_the_folder_cannot_be_used_a_worker_has_the_device_to_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    device = SharedDevice(tmp_path / "file" / "folder")

    with device.loading():
        device.claim(5, "cpu")

    assert device.claimed_by_others("cpu") == 0
    assert not device.ask_others_to_leave(1e9)
    assert not device.is_asked_to_leave()


def test_what_is_no_note_and_no_claim_disturbs_nobody(tmp_path: Path) -> None:
    device = SharedDevice(tmp_path)
    (tmp_path / "please-leave").write_bytes(b"\xff\xfe")
    (tmp_path / "claim.nobody").write_bytes(b"\xff")

    assert device.is_asked_to_leave()
    assert device.claimed_by_others("cpu") == 0


def test_another_worker_hears_once_that_it_is_asked_to_leave(tmp_path: Path, another: Callable[[], Another]) -> None:
    other = another()
    tell(other)
    assert said(other) == "loaded"
    tell(other)
    assert said(other) == "False"
    device = SharedDevice(tmp_path)

    left = threading.Thread(target=device.ask_others_to_leave, args=(30.0,))
    left.start()
    while not (tmp_path / "please-leave").exists():
        pass
    tell(other)
    answer = said(other)
    tell(other)
    again = said(other)
    other.kill()
    other.wait()
    left.join()

    assert (answer, again) == ("True", "False")
    assert not device.is_asked_to_leave()  # it was its own note


def test_asking_is_over_at_once_when_nobody_else_is_there(tmp_path: Path) -> None:
    assert not SharedDevice(tmp_path).ask_others_to_leave(1e9)
    assert not SharedDevice(None).ask_others_to_leave(1e9)


def test_asking_gives_up_when_nobody_leaves(tmp_path: Path, another: Callable[[], Another]) -> None:
    another()

    assert not SharedDevice(tmp_path).ask_others_to_leave(0.3)
