"""Runs the apps as child processes, starts a crashed one again and stops all of them in order.

`start_app.sh` becomes this process when environment and weights are ready. Each child has a session of its own: Ctrl-C on the
terminal reaches the supervisor alone, and what a child leaves behind can be killed as one process group. Only the standard
library is imported, since this process stays for as long as the apps run.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SCRIPTS = {"asr": ("app_sensevoice.py",), "tts": ("app_tts.py",), "both": ("app_sensevoice.py", "app_tts.py")}
FIRST_PAUSE_S = 1.0  # before a crashed app is started again; doubles with each further crash
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0  # a crash after so long a run starts over with the first pause
KILL_AFTER_S = 10  # on top of the time that an app takes to drain
EXIT_BAD_START = 2  # of an app: a configuration that no restart will mend
EXIT_NOT_STARTED = 127  # as a shell reports it
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class App:
    """One program that is to run. Times are monotonic seconds."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    retry_at: float | None = None  # of a crashed app
    pause_s: float = FIRST_PAUSE_S  # before the next restart


@dataclass(frozen=True, slots=True)
class Ended:
    """A child has ended. `status` is as in a shell: 128 plus the number of the signal that killed it."""

    app: App
    status: int


class Supervisor:
    """See the module's docstring. `stop` may be called from a signal handler or another thread; `run` is called once."""

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        *,
        drain_s: float,
        kill_after_s: float = KILL_AFTER_S,
        first_pause_s: float = FIRST_PAUSE_S,
        helper: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            commands: name -> command line of each app.
            drain_s: seconds that an app may take to finish its requests when it is stopped.
            kill_after_s: seconds after which an app is killed, on top of `drain_s`.
            helper: a command that runs beside the apps, is not restarted and ends with them.
        """
        self._first_pause_s = first_pause_s
        self._apps = [App(name, command, pause_s=first_pause_s) for name, command in commands.items()]
        self._helper = App("helper", helper) if helper else None
        self._stop_after_s = drain_s + kill_after_s
        self._events: queue.SimpleQueue[Ended | None] = queue.SimpleQueue()  # its `put` is safe in a signal handler
        self._exit_code = 0

    def stop(self) -> None:
        """End `run`: the apps get SIGTERM and, after their time, SIGKILL."""
        self._events.put(None)

    def run(self) -> int:
        """Run the apps until all of them were asked to stop, one refuses its configuration, or `stop` is called.

        Returns the exit code: `EXIT_BAD_START` if an app refused its configuration, else 0.
        """
        for app in (*self._apps, *([self._helper] if self._helper else [])):
            self._start(app)
        while self._apps:
            try:
                ended = self._events.get(timeout=self._seconds_to_next_start())
            except queue.Empty:
                self._start_due_apps()
                continue
            if ended is None or not self._goes_on_after(ended):
                break
        self._stop_all()
        return self._exit_code

    def _start(self, app: App) -> None:
        app.started, app.retry_at = time.monotonic(), None
        try:
            app.process = subprocess.Popen(app.command, stdin=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            say(f"{app.name} cannot be started: {error}")
            self._events.put(Ended(app, EXIT_NOT_STARTED))
            return
        threading.Thread(target=self._wait_for_end, args=(app, app.process), daemon=True).start()

    def _wait_for_end(self, app: App, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        self._events.put(Ended(app, status if status >= 0 else 128 - status))

    def _seconds_to_next_start(self) -> float | None:
        """None while no app waits for its restart."""
        times = [app.retry_at for app in self._apps if app.retry_at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _start_due_apps(self) -> None:
        for app in self._apps:
            if app.retry_at is not None and app.retry_at <= time.monotonic():
                self._start(app)

    def _goes_on_after(self, ended: Ended) -> bool:
        """Decide what the end of a child means. Returns whether the others go on."""
        app, status = ended.app, ended.status
        _kill_group(app)  # what a crash left behind would keep the port or the memory
        app.process = None
        if app is self._helper:
            return True
        lasted_s = time.monotonic() - app.started
        if status == 0:
            say(f"{app.name} was asked to stop")
            self._apps.remove(app)
        elif status == EXIT_BAD_START:
            say(f"{app.name} cannot run with this configuration; it says why above")
            self._exit_code = EXIT_BAD_START
            return False
        else:
            if lasted_s >= STEADY_S:
                app.pause_s = self._first_pause_s
            say(f"{app.name} ended with status {status} after {lasted_s:.0f} s; starting it again in {app.pause_s:g} s")
            app.retry_at = time.monotonic() + app.pause_s
            app.pause_s = min(2 * app.pause_s, LONGEST_PAUSE_S)
        return True

    def _stop_all(self) -> None:
        """Ask the children to finish, wait as long as that may take, then kill what is left of their process groups."""
        children = [app for app in (*self._apps, self._helper) if app is not None and app.process is not None]
        for app in children:
            assert app.process is not None
            app.process.terminate()
        running, deadline = list(children), time.monotonic() + self._stop_after_s
        while running and (left_s := deadline - time.monotonic()) > 0:
            try:
                ended = self._events.get(timeout=left_s)
            except queue.Empty:
                break
            if ended is not None and ended.app in running:
                running.remove(ended.app)
        if running:
            say(f"not everything ended within {self._stop_after_s:g} s; ending it now")
        for app in children:
            _kill_group(app)
        for app in running:
            assert app.process is not None
            app.process.wait()


def _kill_group(app: App) -> None:
    """Kill the child, if it still runs, and all processes that it has left in its group."""
    if app.process is not None:
        try:
            os.killpg(app.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # the group is empty, or holds only zombies


def say(sentence: str) -> None:
    """One line on stderr. Unbuffered: what `print` could not write would fail again when Python exits, with status 120."""
    try:
        os.write(2, f"start_app: {sentence}\n".encode())
    except OSError:
        pass  # Ctrl-C also ends the `tee` that reads the output; the apps must be stopped all the same


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m steadyvoice.provision.supervisor", description="Run the apps.")
    parser.add_argument("apps", choices=SCRIPTS, help="which apps")
    parser.add_argument("--drain-s", type=float, default=30.0, help="seconds that an app takes to finish its requests")
    arguments = parser.parse_args()
    supervisor = Supervisor(
        {script: [sys.executable, script] for script in SCRIPTS[arguments.apps]},
        drain_s=arguments.drain_s,
        helper=[sys.executable, "-m", "steadyvoice.provision.preflight", "--announce", arguments.apps],
    )
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and `&` in a script, ignore some on purpose
            signal.signal(number, lambda *_: supervisor.stop())
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
