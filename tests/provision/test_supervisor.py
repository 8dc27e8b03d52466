"""The supervisor with tiny shell programs in place of the apps."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from steadyvoice.provision import supervisor as module
from steadyvoice.provision.supervisor import Supervisor
from steadyvoice.settings import ROOT

TIMEOUT_S = 30.0  # for anything that is waited for; only a failure takes so long
SERVE = "sleep 600"


class Listener:
    """Lines that programs send: `echo words | $tell`, in a shell that `tell` was put into."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._file = os.fdopen(os.open(path, os.O_RDWR), "r")  # also a writer, so that it has no end

    def line(self) -> str:
        return self._file.readline().strip()

    def close(self) -> None:
        self._file.close()


class Running:
    """A supervisor in a thread, what it says, and the exit code that `run` returned."""

    def __init__(self, supervisor: Supervisor, said: queue.Queue[str]) -> None:
        self.supervisor = supervisor
        self._said = said
        self._codes: queue.Queue[int] = queue.Queue()
        threading.Thread(target=lambda: self._codes.put(supervisor.run()), daemon=True).start()

    def next_said(self) -> str:
        return self._said.get(timeout=TIMEOUT_S)

    def exit_code(self) -> int:
        return self._codes.get(timeout=TIMEOUT_S)

    def stop(self) -> int:
        self.supervisor.stop()
        return self.exit_code()


Run = Callable[..., Running]


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(tmp_path / "lines")
    yield listener
    listener.close()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, listener: Listener) -> Iterator[Run]:
    said: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(module, "say", said.put)
    started: list[Running] = []

    def run(helper: str | None = None, *, drain_s: float = TIMEOUT_S, first_pause_s: float = 0.01, **scripts: str) -> Running:
        """`scripts` are shell scripts by name. `tell "words"` sends them to the listener."""

        def command(script: str) -> list[str]:
            return ["sh", "-c", f'tell() {{ echo "$*" >>"{listener.path}"; }}\n{script}']

        supervisor = Supervisor(
            {name: command(script) for name, script in scripts.items()},
            drain_s=drain_s,
            kill_after_s=0.2 if drain_s == 0 else TIMEOUT_S,
            first_pause_s=first_pause_s,
            helper=command(helper) if helper else None,
        )
        started.append(Running(supervisor, said))
        return started[-1]

    yield run
    for running in started:
        running.supervisor.stop()


def gate(path: Path) -> Path:
    """A shell that runs `cat` on it goes on when something is written to it."""
    os.mkfifo(path)
    return path


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def has_ended(pid: int) -> bool:
    """Whether a process that is no child of ours ends; a signal takes effect a moment after it was sent."""
    deadline = time.monotonic() + TIMEOUT_S
    while is_running(pid):
        if time.monotonic() > deadline:
            return False
    return True


def test_a_crashed_app_is_started_again_and_the_other_is_left_alone(run: Run, listener: Listener, tmp_path: Path) -> None:
    running = run(crashing=f'if mkdir "{tmp_path}/once"; then exit 3; fi; tell again; {SERVE}', steady=f"tell steady; {SERVE}")

    assert sorted([listener.line(), listener.line()]) == ["again", "steady"]
    assert running.next_said() == "crashing ended with status 3 after 0 s; starting it again in 0.01 s"
    assert running.stop() == 0


def test_an_app_that_a_signal_killed_has_a_status_as_in_a_shell(run: Run) -> None:
    running = run(app="kill -KILL $$", first_pause_s=600)

    assert running.next_said() == "app ended with status 137 after 0 s; starting it again in 600 s"
    assert running.stop() == 0


def test_the_pause_doubles_up_to_its_limit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.05)
    running = run(app="exit 1")

    pauses = [running.next_said().split()[-2] for _ in range(5)]

    assert pauses == ["0.01", "0.02", "0.04", "0.05", "0.05"]
    assert running.stop() == 0


def test_after_a_steady_run_the_pause_is_short_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEADY_S", 0.0)
    running = run(app="exit 1")

    assert {running.next_said().split()[-2] for _ in range(4)} == {"0.01"}
    assert running.stop() == 0


def test_a_stop_cuts_the_pause_before_a_restart_short(run: Run) -> None:
    running = run(app="exit 1", first_pause_s=600)
    running.next_said()
    asked = time.monotonic()

    assert running.stop() == 0
    assert time.monotonic() - asked < TIMEOUT_S


def test_an_app_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    said: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(module, "say", said.put)
    running = Running(Supervisor({"app": ["/nowhere/python"]}, drain_s=0, first_pause_s=600), said)

    assert running.next_said().startswith("app cannot be started: ")
    assert running.next_said() == "app ended with status 127 after 0 s; starting it again in 600 s"
    assert running.stop() == 0


def test_an_app_that_refuses_its_configuration_stops_all(run: Run, listener: Listener, tmp_path: Path) -> None:
    end = gate(tmp_path / "end")
    running = run(other=f"tell $$; {SERVE}", refusing=f'cat "{end}"; exit 2')
    other = int(listener.line())
    end.write_text("")

    assert running.exit_code() == 2
    assert running.next_said() == "refusing cannot run with this configuration; it says why above"
    assert has_ended(other)


def test_it_ends_when_every_app_was_asked_to_stop(run: Run, listener: Listener, tmp_path: Path) -> None:
    end = gate(tmp_path / "end")
    running = run(f"tell $$; {SERVE}", app=f'cat "{end}"; exit 0')
    helper = int(listener.line())
    end.write_text("")

    assert running.exit_code() == 0
    assert running.next_said() == "app was asked to stop"
    assert has_ended(helper)


def test_the_end_of_the_helper_changes_nothing(run: Run, listener: Listener) -> None:
    running = run("exit 2", app=f"tell serves; {SERVE}")

    assert listener.line() == "serves"
    assert running.stop() == 0


def test_what_a_crashed_app_leaves_behind_is_killed_before_its_restart(run: Run, listener: Listener, tmp_path: Path) -> None:
    running = run(app=f'{SERVE} & tell $!; mkdir "{tmp_path}/once" && exit 1; wait')
    orphan, child = int(listener.line()), int(listener.line())

    assert has_ended(orphan)
    assert is_running(child)
    assert running.stop() == 0
    assert has_ended(child)


def test_a_stop_lets_the_apps_finish(run: Run, listener: Listener) -> None:
    running = run(app="trap 'tell finished; exit 0' TERM; tell serves; sleep 600 & wait")
    assert listener.line() == "serves"

    assert running.stop() == 0
    assert listener.line() == "finished"


def test_an_app_that_ignores_the_stop_is_killed_with_its_children(run: Run, listener: Listener) -> None:
    running = run(app="trap '' TERM; sleep 600 & tell $$ $!; wait", drain_s=0)
    app, child = map(int, listener.line().split())

    assert running.stop() == 0
    assert running.next_said() == "not everything ended within 0.2 s; ending it now"
    assert has_ended(app)
    assert has_ended(child)


def test_each_app_has_a_session_of_its_own_and_no_terminal_to_read(run: Run, listener: Listener) -> None:
    running = run(app=f"tell $$ $(ps -o sid= -p $$) $(readlink /proc/self/fd/0); {SERVE}")

    pid, session, stdin = listener.line().split()

    assert pid == session
    assert stdin == "/dev/null"
    assert running.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_real_program(number: signal.Signals, tmp_path: Path, listener: Listener) -> None:
    (tmp_path / "app_tts.py").write_text(f"open({str(listener.path)!r}, 'w').write('serves\\n')\nimport time; time.sleep(600)")
    process = supervise(tmp_path)
    assert listener.line() == "serves"

    process.send_signal(number)

    assert process.wait(TIMEOUT_S) == 0


def test_a_signal_that_was_ignored_before_stays_ignored(tmp_path: Path, listener: Listener) -> None:
    """As under nohup."""
    program = f"open({str(listener.path)!r}, 'w').write('serves\\n')\nimport time; time.sleep(600)"
    (tmp_path / "app_tts.py").write_text(program)
    process = supervise(tmp_path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert listener.line() == "serves"

    process.send_signal(signal.SIGHUP)

    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.terminate()
    assert process.wait(TIMEOUT_S) == 0


def supervise(folder: Path, preexec_fn: Callable[[], object] | None = None) -> subprocess.Popen[bytes]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment = os.environ | {"PYTHONPATH": str(ROOT), "STEADYVOICE_TTS_PORT": str(free.getsockname()[1])}
    return subprocess.Popen(
        [sys.executable, "-m", "steadyvoice.provision.supervisor", "--drain-s", "5", "tts"],
        cwd=folder,
        env=environment,
        preexec_fn=preexec_fn,
    )
