"""start_app.sh in real bash, in a copy of the project with small apps in place of the real ones: what it starts, starts
again, and leaves behind, which must be nothing.

The copy's .venv borrows the packages of the interpreter that runs the tests, so nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import uuid
import venv
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from steadyvoice.provision.release_files import release_problem
from steadyvoice.settings import PREFIX, ROOT
from steadyvoice.testing.ports import free_port
from tests.provision.loopback_hub import LoopbackHub, release

TIMEOUT_S = 60.0  # for anything that is waited for; only a failure takes so long
ASR, TTS = "app_sensevoice.py", "app_tts.py"

# What the small apps do. Each notes its start in a file, so that starts can be counted.
NOTE = """
import os, signal, subprocess, sys, time
from pathlib import Path
starts = Path(sys.argv[0] + ".starts")
with starts.open("a") as file:
    file.write(f"{os.getpid()}\\n")
count = len(starts.read_text().splitlines())
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # print must not be interrupted by a handler that prints
def serve(on_term=lambda *_: sys.exit(0)):
    signal.signal(signal.SIGTERM, on_term)
    say(f"{sys.argv[0]} serves, start {count}")
    while True:
        signal.pause()
"""
SERVE = NOTE + "serve()"
CRASH = NOTE + "sys.exit(1)"
CRASH_ONCE = NOTE + "sys.exit(1) if count == 1 else serve()"
REFUSE = NOTE + "sys.exit(2)"
BE_STOPPED = NOTE + "sys.exit(0)"
DRAIN = NOTE + "serve(lambda *_: (say('drained'), sys.exit(0)))"
# Neither the app nor its child listens to SIGTERM.
STUBBORN = NOTE + "signal.signal(signal.SIGTERM, signal.SIG_IGN); subprocess.Popen(['sleep', '600']); serve(signal.SIG_IGN)"
LEAVE_A_CHILD_AND_CRASH = (
    NOTE
    + """
child = subprocess.Popen(["sleep", "600"])
Path(f"child.{count}").write_text(str(child.pid))
sys.exit(1) if count == 1 else serve()
"""
)
ANSWER_READY = (
    NOTE
    + """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
port = os.environ["STEADYVOICE_ASR_PORT" if "sensevoice" in sys.argv[0] else "STEADYVOICE_TTS_PORT"]
HTTPServer(("127.0.0.1", int(port)), Ready).serve_forever()
"""
)

# Found by `python -m pip` before the real one. Notes each call, and what it is told to do.
PIP = """
import sys
from pathlib import Path
print("pip", *sys.argv[1:], flush=True)
if "install" in sys.argv:
    with open("pip.calls", "a") as file:
        file.write("call\\n")
    exec(Path("pip.does").read_text() if Path("pip.does").exists() else "")
"""


class Run:
    """One run of start_app.sh, its output as it comes, and every process that comes of it."""

    def __init__(
        self, folder: Path, *arguments: str, cwd: Path | None = None, read_until: str | None = None, **environment: str
    ) -> None:
        self.mark = f"START_APP_TEST={uuid.uuid4()}"  # inherited, so that even an orphan is found
        kept = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "PYTHON"))}
        kept["STEADYVOICE_HUB"] = "none"  # no test is in need of a network
        ports = {"STEADYVOICE_ASR_PORT": str(free_port()), "STEADYVOICE_TTS_PORT": str(free_port())}
        self.process = subprocess.Popen(
            ["bash", str(folder / "start_app.sh"), *arguments],
            cwd=cwd or folder,
            env=kept | ports | environment | dict([self.mark.split("=")]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A shell cannot trap what was ignored before it: tests started with `&` ignore SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.output = ""
        self._read_until = read_until
        self._ended = False
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.output += line
                self._news.notify_all()
            if self._read_until is not None and self._read_until in line:
                self.process.stdout.close()
                break
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, text: str) -> None:
        with self._news:
            self._news.wait_for(lambda: text in self.output or self._ended, TIMEOUT_S)
            assert text in self.output, self.output

    def wait_for_end(self) -> int:
        """The exit code; all output has been read, and so every process that held it has ended."""
        code = self.process.wait(TIMEOUT_S)
        with self._news:
            assert self._news.wait_for(lambda: self._ended, TIMEOUT_S), f"something still holds the output\n{self.output}"
        return code

    def stop(self, signum: int = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        return self.wait_for_end()

    def processes(self) -> list[psutil.Process]:
        name, value = self.mark.split("=")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def clean_up(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the project, its name with a space, where everything seems installed and both apps serve."""
    copy = tmp_path / "steady voice"
    shutil.copytree(ROOT / "steadyvoice", copy / "steadyvoice", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "start_app.sh", copy)
    (copy / "requirements.txt").write_text("# nothing\n")
    (copy / "pip.py").write_text(PIP)
    (copy / ASR).write_text(SERVE)
    (copy / TTS).write_text(SERVE)
    venv.create(copy / ".venv", symlinks=True, with_pip=False)
    (site_packages,) = (copy / ".venv").glob("lib/python*/site-packages")
    (site_packages / "borrowed.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{sysconfig.get_paths()['platlib']}\n")
    stamp(copy).write_text(
        f"{hashlib.sha256(b'# nothing' + bytes([10])).hexdigest()} {sys.version_info[0]}.{sys.version_info[1]}\n"
    )
    return copy


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    """Runs that were put here are cleaned up after the test, failed or not."""
    started: list[Run] = []
    yield started
    for run in started:
        run.clean_up()
        print(run.output)  # pytest shows it beside a failure


@pytest.fixture
def start(folder: Path, runs: list[Run]):
    def start(*arguments: str, cwd: Path | None = None, **environment: str) -> Run:
        runs.append(Run(folder, *arguments, cwd=cwd, **environment))
        return runs[-1]

    return start


def stamp(folder: Path) -> Path:
    return folder / ".venv" / "installed"


def starts(folder: Path, app: str) -> int:
    notes = folder / f"{app}.starts"
    return len(notes.read_text().splitlines()) if notes.exists() else 0


def pip_calls(folder: Path) -> int:
    notes = folder / "pip.calls"
    return len(notes.read_text().splitlines()) if notes.exists() else 0


# What is asked for


def test_help_explains_itself_and_starts_nothing(folder: Path, start) -> None:
    run = start("--help")
    assert run.wait_for_end() == 0
    for said in ("asr", "tts", "--check", "STEADYVOICE_PYTHON", "Exit code"):
        assert said in run.output
    assert starts(folder, ASR) == 0


@pytest.mark.parametrize("arguments", [["--chekc"], ["asr", "tts"], [""], ["--accept-licence"], ["indextts", "--check"]])
def test_an_unknown_argument_is_refused_with_the_usage(arguments: list[str], start) -> None:
    run = start(*arguments)
    assert run.wait_for_end() == 2
    assert "Usage: bash start_app.sh" in run.output


def test_indextts2_is_not_installed_unless_its_licence_is_accepted(folder: Path, start) -> None:
    run = start("indextts")
    assert run.wait_for_end() == 2
    assert "bilibili Model Use License" in run.output
    assert run.output.endswith("indextts: the licence has to be accepted: read it, then add --accept-licence\n")
    run = start("indextts", "--accept-licence")  # with STEADYVOICE_HUB=none, as no test is in need of a network
    assert run.wait_for_end() == 2
    assert run.output.endswith("HUB=none fetches nothing: set it to modelscope or huggingface\n")
    assert starts(folder, ASR) == starts(folder, TTS) == 0


def test_check_shows_the_engines_and_starts_nothing(folder: Path, start) -> None:
    run = start("--check")
    assert run.wait_for_end() == 0, run.output
    assert "pocketsphinx" in run.output
    assert "espeak" in run.output
    assert "No problems found." in run.output
    assert starts(folder, ASR) == starts(folder, TTS) == 0


@pytest.mark.parametrize(("app", "other"), [("asr", "text to speech"), ("tts", "speech to text")])
def test_check_of_one_app_leaves_the_other_out(app: str, other: str, start) -> None:
    run = start(app, "--check")
    assert run.wait_for_end() == 0, run.output
    assert other not in run.output


def test_both_apps_run_by_default_whatever_folder_it_is_called_from(folder: Path, tmp_path: Path, start) -> None:
    run = start(cwd=tmp_path)
    run.wait_for(f"{ASR} serves")
    run.wait_for(f"{TTS} serves")
    assert run.stop() == 0


@pytest.mark.parametrize(("name", "app", "other"), [("asr", ASR, TTS), ("tts", TTS, ASR)])
def test_one_app_runs_alone_when_it_is_named(name: str, app: str, other: str, folder: Path, start) -> None:
    run = start(name)
    run.wait_for(f"{app} serves")
    assert run.stop() == 0
    assert starts(folder, other) == 0


def test_each_address_is_printed_once_when_its_app_is_ready(folder: Path, start) -> None:
    for app in (ASR, TTS):
        (folder / app).write_text(ANSWER_READY)
    ports = {"STEADYVOICE_ASR_PORT": str(free_port()), "STEADYVOICE_TTS_PORT": str(free_port())}
    run = start(**ports)
    for said in ("speech to text is ready", "text to speech is ready"):
        run.wait_for(said)
    assert run.stop() == 0
    for port in ports.values():
        assert len(re.findall(rf"is ready: http://127.0.0.1:{port}$", run.output, re.MULTILINE)) == 1


def test_the_apps_get_the_allocator_setting_and_no_analytics_but_stay_online(folder: Path, start) -> None:
    names = [
        "PYTORCH_CUDA_ALLOC_CONF",
        "GRADIO_ANALYTICS_ENABLED",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "STEADYVOICE_PYTHON",
    ]
    (folder / ASR).write_text(NOTE + f"say('environment', *[os.environ.get(name) for name in {names}]); serve()")
    run = start("asr", STEADYVOICE_PYTHON=sys.executable)
    run.wait_for("environment expandable_segments:True False None None None\n")
    assert run.stop() == 0
    run = start("asr", PYTORCH_CUDA_ALLOC_CONF="max_split_size_mb:64")
    run.wait_for("environment max_split_size_mb:64 False")
    assert run.stop() == 0


# What stops the start


def test_a_port_in_use_stops_the_start_with_a_sentence(folder: Path, start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = start(STEADYVOICE_TTS_PORT=str(port))
        assert run.wait_for_end() == 2
    assert f"port {port} on 127.0.0.1 is in use" in run.output
    assert "STEADYVOICE_TTS_PORT" in run.output
    assert starts(folder, ASR) == 0


def test_a_bad_setting_stops_the_start_naming_it(folder: Path, start) -> None:
    run = start("--check", STEADYVOICE_QUEUE_SIZE="many")
    assert run.wait_for_end() == 2
    assert "STEADYVOICE_QUEUE_SIZE='many'" in run.output
    assert "Traceback" not in run.output


def test_a_bad_setting_in_the_env_file_stops_the_start_too(folder: Path, start) -> None:
    (folder / ".env").write_text("STEADYVOICE_HOTS=0.0.0.0\n")
    run = start()
    assert run.wait_for_end() == 2
    assert "did you mean STEADYVOICE_HOST?" in run.output


def test_a_python_that_is_too_old_or_missing_is_refused_naming_what_was_tried(folder: Path, start) -> None:
    run = start(STEADYVOICE_PYTHON="/nowhere/python")
    assert run.wait_for_end() == 1
    assert "no Python 3.11 or newer among: /nowhere/python" in run.output
    assert "STEADYVOICE_PYTHON" in run.output


def test_a_python_without_its_venv_module_is_told_which_package_is_missing(folder: Path, start) -> None:
    shutil.rmtree(folder / ".venv")
    debian = folder / "debian-python"
    debian.write_text(f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; esac\nexec "{sys.executable}" "$@"\n')
    debian.chmod(0o755)
    run = start(STEADYVOICE_PYTHON=str(debian))
    assert run.wait_for_end() == 1
    assert f"apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-venv" in run.output


# What is installed


def test_nothing_is_installed_again_while_the_requirements_are_the_same(folder: Path, start) -> None:
    (folder / "requirements.txt").touch()  # a new date is no change
    assert start("--check").wait_for_end() == 0
    assert pip_calls(folder) == 0


def test_changed_requirements_are_installed_once(folder: Path, start) -> None:
    (folder / "requirements.txt").write_text("# something\n")
    for _ in range(2):
        assert start("--check").wait_for_end() == 0
    assert pip_calls(folder) == 1


def test_a_failed_installation_says_so_and_is_repeated(folder: Path, start) -> None:
    (folder / "requirements.txt").write_text("# something\n")
    (folder / "pip.does").write_text("sys.exit('no route to host')")
    run = start()
    assert run.wait_for_end() == 1
    assert "no route to host" in run.output
    assert "installing requirements.txt failed" in run.output
    assert starts(folder, ASR) == 0
    (folder / "pip.does").unlink()
    assert start("--check").wait_for_end() == 0
    assert pip_calls(folder) == 2


def test_requirements_that_change_back_after_a_failure_are_installed_again(folder: Path, start) -> None:
    before = (folder / "requirements.txt").read_text()
    (folder / "requirements.txt").write_text("# something\n")
    (folder / "pip.does").write_text("sys.exit('half done')")
    assert start("--check").wait_for_end() == 1
    (folder / "requirements.txt").write_text(before)
    (folder / "pip.does").unlink()
    assert start("--check").wait_for_end() == 0
    assert pip_calls(folder) == 2


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_installation_leaves_no_process_and_is_repeated(signum: int, folder: Path, start) -> None:
    (folder / "requirements.txt").write_text("# something\n")
    (folder / "pip.does").write_text(
        "import signal, subprocess; subprocess.Popen(['sleep', '600']); print('hangs', flush=True); signal.pause()"
    )
    run = start()
    run.wait_for("hangs")
    assert run.stop(signum) == 143
    assert run.processes() == []
    (folder / "pip.does").unlink()
    assert start("--check").wait_for_end() == 0
    assert pip_calls(folder) == 2


def test_two_terminals_do_not_install_at_the_same_time(folder: Path, start) -> None:
    (folder / "requirements.txt").write_text("# something\n")
    os.mkfifo(folder / "gate")
    (folder / "pip.does").write_text("print('at the gate', flush=True); open('gate').read()")
    first = start("--check")
    first.wait_for("at the gate")
    second = start("--check")
    second.wait_for("another start_app.sh is installing")
    (folder / "gate").write_text("open")
    assert first.wait_for_end() == second.wait_for_end() == 0
    assert pip_calls(folder) == 1


def test_another_python_gets_an_environment_of_its_own(folder: Path, start) -> None:
    """The environment here says that it was made by another one."""
    stamp(folder).write_text(stamp(folder).read_text().split()[0] + " 3.10\n")
    assert start("--check").wait_for_end() == 0
    assert pip_calls(folder) == 1


@pytest.mark.slow
def test_from_nothing_it_makes_an_environment_with_a_pip_of_its_own(folder: Path, start) -> None:
    shutil.rmtree(folder / ".venv")
    (folder / "pip.py").unlink()
    borrowed = os.pathsep.join({sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]})
    for _ in range(2):
        run = start("--check", STEADYVOICE_PYTHON=sys.executable, PYTHONPATH=borrowed)
        assert run.wait_for_end() == 0, run.output
    assert list((folder / ".venv").glob("lib/python*/site-packages/pip"))
    assert "installing" not in run.output


# What is fetched


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub(release(2_400_000)) as running:
        yield running


def test_the_weights_are_fetched_before_the_app_starts_and_only_once(folder: Path, start, hub: LoopbackHub) -> None:
    (folder / ASR).write_text(NOTE + "say('weights', Path('cache_hub/SenseVoiceSmall/model.pt').stat().st_size); serve()")
    for _ in range(2):
        run = start("asr", STEADYVOICE_HUB="modelscope", **hub.environment)
        run.wait_for("weights 2400000")
        assert run.stop() == 0
    assert release_problem(folder / "cache_hub" / "SenseVoiceSmall") is None
    assert hub.sent["model.pt"] == 2_400_000


def test_a_hub_that_cannot_be_reached_is_one_sentence_and_the_embedded_engine_runs(folder: Path, start) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    run = start("asr", STEADYVOICE_HUB="modelscope", MODELSCOPE_ENDPOINT=nobody)
    run.wait_for(f"{ASR} serves")
    assert run.stop() == 0
    (said,) = [line for line in run.output.splitlines() if line.startswith("hub: ")]
    assert said.startswith(f"hub: ModelScope at {nobody} gives no listing of SenseVoiceSmall: Connection refused")
    assert said.endswith("going on with the embedded recogniser")
    assert "pocketsphinx" in run.output


def test_an_engine_whose_weights_cannot_be_fetched_stops_the_start_if_it_was_asked_for(folder: Path, start) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    run = start("asr", STEADYVOICE_HUB="huggingface", HF_ENDPOINT=nobody, STEADYVOICE_ASR_ENGINE="sensevoice")
    assert run.wait_for_end() == 2
    assert f"Hugging Face at {nobody} gives no listing" in run.output
    assert starts(folder, ASR) == 0


@pytest.mark.parametrize("arguments", [["--check"], ["tts"]])
def test_neither_a_check_nor_text_to_speech_fetches_anything(arguments: list[str], start, hub: LoopbackHub) -> None:
    run = start(*arguments, STEADYVOICE_HUB="modelscope", **hub.environment)
    if arguments == ["tts"]:
        run.wait_for(f"{TTS} serves")
        run.stop()
    assert run.wait_for_end() == 0
    assert hub.asked == []


def test_a_signal_ends_the_download_and_the_next_start_continues_it(folder: Path, start, hub: LoopbackHub) -> None:
    hub.files["model.pt"] *= 10  # more than can be on its way
    hub.pause_after = 23_000_000
    run = start("asr", STEADYVOICE_HUB="modelscope", **hub.environment)
    assert hub.paused.wait(TIMEOUT_S)
    assert run.stop() == 143
    assert run.processes() == []
    hub.pause_after = None
    hub.go_on.set()
    run = start("asr", STEADYVOICE_HUB="modelscope", **hub.environment)
    run.wait_for(f"{ASR} serves")
    assert run.stop() == 0
    assert hub.downloads()[-1].first_byte > 0


# What happens when an app ends


def test_an_app_that_crashes_is_started_again_and_the_other_is_left_alone(folder: Path, start) -> None:
    (folder / ASR).write_text(CRASH_ONCE)
    run = start()
    run.wait_for(f"{TTS} serves, start 1")
    run.wait_for(f"{ASR} serves, start 2")
    assert f"{ASR} ended with status 1" in run.output
    assert run.stop() == 0
    assert starts(folder, ASR) == 2
    assert starts(folder, TTS) == 1


def test_an_app_that_is_killed_is_started_again(folder: Path, start) -> None:
    run = start("tts")
    run.wait_for(f"{TTS} serves, start 1")
    os.kill(int((folder / f"{TTS}.starts").read_text()), signal.SIGKILL)
    run.wait_for("ended with status 137")
    run.wait_for(f"{TTS} serves, start 2")
    assert run.stop() == 0


def test_the_pause_doubles_while_an_app_keeps_crashing(folder: Path, start) -> None:
    (folder / TTS).write_text(CRASH)
    run = start("tts")
    for pause in (1, 2, 4):
        run.wait_for(f"starting it again in {pause} s")
    assert run.stop() == 0


def test_what_a_crashed_app_leaves_behind_is_ended_before_it_is_started_again(folder: Path, start) -> None:
    (folder / ASR).write_text(LEAVE_A_CHILD_AND_CRASH)
    run = start("asr")
    run.wait_for(f"{ASR} serves, start 2")
    alive = {process.pid for process in run.processes()}
    assert [int((folder / f"child.{count}").read_text()) in alive for count in (1, 2)] == [False, True]
    assert run.stop() == 0
    assert run.processes() == []


@pytest.mark.parametrize(("bad", "good"), [(ASR, TTS), (TTS, ASR)])
def test_an_app_that_refuses_its_configuration_stops_everything(bad: str, good: str, folder: Path, start) -> None:
    (folder / bad).write_text(REFUSE)
    run = start()
    assert run.wait_for_end() == 2
    assert f"{bad} cannot run with this configuration" in run.output
    assert starts(folder, bad) == 1
    assert run.processes() == []


def test_an_app_that_was_asked_to_stop_is_not_started_again(folder: Path, start) -> None:
    (folder / ASR).write_text(BE_STOPPED)
    run = start()
    run.wait_for(f"{ASR} was asked to stop")
    run.wait_for(f"{TTS} serves")
    assert run.stop() == 0
    assert starts(folder, ASR) == 1


def test_when_every_app_was_asked_to_stop_the_script_ends(folder: Path, start) -> None:
    (folder / ASR).write_text(BE_STOPPED)
    run = start("asr")
    assert run.wait_for_end() == 0
    assert run.processes() == []


# What a signal leaves behind


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_the_apps_finish_and_leaves_no_process_behind(signum: int, folder: Path, start) -> None:
    for app in (ASR, TTS):
        (folder / app).write_text(DRAIN)
    run = start()
    run.wait_for(f"{ASR} serves")
    run.wait_for(f"{TTS} serves")
    assert run.stop(signum) == 0
    assert run.output.count("drained") == 2, run.output
    assert run.processes() == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_reaches_the_apps_only_through_the_script(signum: int, folder: Path, start) -> None:
    """A terminal's Ctrl-C, and `kill %1` in an interactive shell."""
    (folder / ASR).write_text(NOTE + "signal.signal(signal.SIGINT, lambda *_: os._exit(1))\n" + DRAIN.removeprefix(NOTE))
    run = start("asr")
    run.wait_for(f"{ASR} serves")
    asked = time.monotonic()
    os.killpg(run.process.pid, signum)
    assert run.wait_for_end() == 0
    assert time.monotonic() - asked < 15  # and not after the whole time that it may take
    assert run.output.count("drained") == 1
    assert run.processes() == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_answered_during_the_pause_before_a_start(signum: int, folder: Path, start) -> None:
    (folder / ASR).write_text(CRASH)
    run = start("asr")
    run.wait_for("starting it again in 4 s")
    begun, asked = starts(folder, ASR), time.monotonic()
    assert run.stop(signum) == 0
    assert time.monotonic() - asked < 3.5  # the pause was cut short, not waited out
    assert starts(folder, ASR) == begun
    assert run.processes() == []


def test_an_app_that_ignores_the_signal_is_killed_with_its_children_when_its_time_is_over(folder: Path, start) -> None:
    script = folder / "steadyvoice" / "provision" / "supervisor.py"
    shorter = script.read_text().replace("KILL_AFTER_S = 10", "KILL_AFTER_S = 1")
    assert shorter != script.read_text()
    script.write_text(shorter)
    (folder / ASR).write_text(STUBBORN)
    (folder / ".env").write_text("STEADYVOICE_DRAIN_S=0\n")
    run = start("asr")
    run.wait_for(f"{ASR} serves")
    assert run.stop() == 0
    assert "not everything ended within 1 s" in run.output
    assert run.processes() == []


def test_the_apps_are_stopped_even_when_nobody_reads_the_output_any_more(folder: Path, runs: list[Run]) -> None:
    """As with `bash start_app.sh 2>&1 | tee log`, where Ctrl-C ends tee as well."""
    os.mkfifo(folder / "second start")
    (folder / ASR).write_text(NOTE + "count == 2 and open('second start', 'w').close(); sys.exit(1)")
    run = Run(folder, read_until=f"{TTS} serves")
    runs.append(run)
    run.wait_for(f"{TTS} serves")
    (folder / "second start").read_text()  # by then the script has told of the first crash, to nobody
    assert run.stop() == 0
    assert run.processes() == []


# The real apps


def test_the_real_apps_work_survive_a_kill_and_leave_nothing_behind(folder: Path, start) -> None:
    for app in (ASR, TTS):
        shutil.copy(ROOT / app, folder)
    asr, tts = free_port(), free_port()
    run = start(STEADYVOICE_ASR_PORT=str(asr), STEADYVOICE_TTS_PORT=str(tts))
    run.wait_for("speech to text is ready")
    run.wait_for("text to speech is ready")
    clip = (ROOT / "tests" / "data" / "austen-0930.wav").read_bytes()

    def transcribe() -> str:
        answer = httpx.post(f"http://127.0.0.1:{asr}/v1/audio/transcriptions", files={"file": clip}, timeout=TIMEOUT_S)
        return str(answer.json()["text"])

    assert "amiable" in transcribe()
    assert httpx.post(f"http://127.0.0.1:{tts}/synthesize", json={"text": "Hello."}, timeout=TIMEOUT_S).status_code == 200
    apps = {app: next(p for p in run.processes() if app in p.cmdline()) for app in (ASR, TTS)}
    worker = next(p for p in apps[ASR].children() if "steadyvoice.worker" in p.cmdline())
    for process in (*apps.values(), worker):
        assert not [mapped for mapped in process.memory_maps() if "torch" in mapped.path], "nothing here needs torch"

    apps[ASR].kill()
    assert psutil.wait_procs([worker], timeout=5)[1] == [], "the worker must not outlive its app"
    run.wait_for(f"{ASR} ended with status 137")
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.ConnectError):
            assert "amiable" in transcribe()
            break
    assert apps[TTS].is_running()
    assert run.stop() == 0
    assert run.processes() == []
