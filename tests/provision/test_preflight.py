"""The screen before the start: what it says, and that each thing that would stop the apps is one clear sentence."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from steadyvoice.provision import hardware, preflight
from steadyvoice.provision.preflight import APPS, Hub, Machine, Report, check_port, judge, look_at_hub, plan_app, render, url
from steadyvoice.settings import PREFIX, ROOT, Settings, load_settings
from steadyvoice.testing.ports import free_port
from tests.provision.fake_checkout import install_checkout

CARD = hardware.Gpu("NVIDIA GeForce RTX 4090", "570.10", total=25_757_220_864, free=24_000_000_000)
MACHINE = Machine("3.11.9 (/opt/python)", ram_total=32_000_000_000, ram_available=16_000_000_000, gpus=(CARD,))
HUB = Hub(Path("/models"), exists=True, disk_free=50_000_000_000, names=("SenseVoiceSmall",))


@pytest.fixture(autouse=True)
def _only_free_ports_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for app in APPS.values():
        monkeypatch.setenv(app.port_setting, str(free_port()))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def settings(**values: object) -> Settings:
    return load_settings(env_file=None).model_copy(update=values)


def report(machine: Machine = MACHINE, hub: Hub = HUB, **values: object) -> Report:
    """What the two apps would do on `machine`, with `values` as settings."""
    chosen = settings(**values)
    return judge(machine, hub, tuple(plan_app(app, chosen, machine) for app in APPS.values()))


def test_a_machine_with_room_and_free_ports_has_no_problems() -> None:
    assert report().problems == ()
    assert render(report()).endswith("No problems found.")


def test_the_screen_names_machine_engines_limits_and_addresses() -> None:
    found = report()
    screen = render(found)
    for said in ("3.11.9", "16.0 GB available of 32.0 GB", "50.0 GB free at /models", "RTX 4090, driver 570.10, 24.0 GB free"):
        assert said in screen
    for plan in found.plans:
        assert plan.engine is not None
        assert plan.engine.spec.name in screen
        assert plan.engine.reason in screen
        assert f"http://127.0.0.1:{plan.port}" in screen
    assert "2 at work, 5 waiting" in screen
    assert "SenseVoiceSmall" in screen


def test_a_machine_without_a_card_is_told_that_embedded_engines_run() -> None:
    assert "none: embedded/CPU engines" in render(report(replace(MACHINE, gpus=())))


def test_a_small_card_takes_one_request_at_a_time() -> None:
    small = replace(MACHINE, gpus=(replace(CARD, total=12_000_000_000),))
    assert "1 at work, 5 waiting" in render(report(small))


def test_a_port_in_use_is_a_problem_naming_port_host_and_setting(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    (problem,) = report(tts_port=port).problems
    assert f"port {port} on 127.0.0.1 is in use" in problem
    assert "STEADYVOICE_TTS_PORT" in problem


def test_a_port_in_use_on_one_address_is_in_use_for_every_address(listener: socket.socket) -> None:
    state, problem = check_port("0.0.0.0", listener.getsockname()[1], "STEADYVOICE_ASR_PORT")
    assert state == "in use"
    assert problem is not None


def test_a_port_that_has_just_been_closed_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            accepted.close()  # our side closes first: the port is left in TIME_WAIT
    assert check_port("127.0.0.1", port, "STEADYVOICE_ASR_PORT") == ("free", None)


def test_a_port_is_tried_by_listening_as_the_server_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two listeners may share what two sockets that are only bound do not, and the other way round."""
    tried: list[tuple[str, int]] = []

    def refuse(host: str, port: int) -> socket.socket:
        tried.append((host, port))
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(preflight, "listen", refuse)
    state, problem = check_port("::1", 80, "STEADYVOICE_ASR_PORT")
    assert (tried, state) == ([("::1", 80)], "not usable")
    assert problem == "port 80 on ::1 needs more rights than you have: set STEADYVOICE_ASR_PORT to 1024 or higher"


def test_an_address_that_is_not_of_this_machine_is_one_problem_for_both_apps() -> None:
    (problem,) = report(host="192.0.2.1").problems  # reserved for documentation: nobody has it
    assert "STEADYVOICE_HOST=192.0.2.1 is not an address of this machine" in problem


def test_a_host_that_cannot_be_looked_up_is_a_problem_naming_it() -> None:
    (problem,) = report(host="no-such-host.invalid").problems
    assert "STEADYVOICE_HOST=no-such-host.invalid" in problem


def test_the_same_port_for_both_apps_is_a_problem_naming_both_settings() -> None:
    port = free_port()
    (problem,) = report(asr_port=port, tts_port=port).problems
    assert str(port) in problem
    assert "STEADYVOICE_ASR_PORT or STEADYVOICE_TTS_PORT" in problem


def test_too_little_memory_is_a_problem_and_two_apps_need_twice_as_much() -> None:
    machine = replace(MACHINE, ram_available=1_500_000_000)
    (problem,) = report(machine).problems
    assert "1.5 GB" in problem
    assert "2.0 GB" in problem
    one_app = judge(machine, HUB, (plan_app(APPS["tts"], settings(), machine),))
    assert one_app.problems == ()


def test_a_full_disk_is_a_problem_naming_the_folder_and_the_setting() -> None:
    (problem,) = report(hub=replace(HUB, disk_free=900_000_000)).problems
    assert "0.9 GB" in problem
    assert "/models" in problem
    assert "STEADYVOICE_CACHE_HUB" in problem


def test_a_cache_hub_that_is_a_file_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.touch()
    (problem,) = report(hub=look_at_hub(file)).problems
    assert f"STEADYVOICE_CACHE_HUB={file} is a file" in problem


def test_weights_are_listed_by_name_without_the_readme_and_hidden_files(tmp_path: Path) -> None:
    for name in ("SenseVoiceSmall", "IndexTTS-2", ".lock"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").touch()
    assert look_at_hub(tmp_path).names == ("IndexTTS-2", "SenseVoiceSmall")


def test_a_cache_hub_that_is_not_there_yet_is_no_problem_and_is_not_made(tmp_path: Path) -> None:
    hub = look_at_hub(tmp_path / "later")
    assert hub.problem is None
    assert hub.disk_free > 0
    assert not (tmp_path / "later").exists()
    assert "not there yet" in render(report(hub=hub))


def test_an_engine_that_cannot_work_is_a_problem_saying_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    problems = report().problems
    assert len(problems) == 2
    assert problems[0].startswith("speech to text: engine pocketsphinx cannot work: the package pocketsphinx")


def test_indextts2_is_shown_with_what_it_will_do_and_what_to_fear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(CARD, total=4_294_967_296)
    monkeypatch.setattr(hardware, "gpus", lambda: [small])
    monkeypatch.setattr(hardware, "ram_bytes", lambda: (32_000_000_000, 16_000_000_000))
    install_checkout(tmp_path)
    found = report(replace(MACHINE, gpus=(small,)), cache_hub=tmp_path)
    assert found.problems == ()
    assert f"indextts2 (version 2.0 in {tmp_path / 'index-tts'}; without Qwen, for which there is no room; half" in render(found)
    assert "1 beam, not known to fit under 5.5 GB, and of 4.3 GB it may run out" in render(found)


def test_an_indextts2_that_cannot_work_is_a_problem_only_for_who_asked_for_it(tmp_path: Path) -> None:
    (problem,) = report(cache_hub=tmp_path, tts_engine="indextts2").problems
    assert problem.startswith("text to speech: engine indextts2 cannot work: it is not installed: `bash start_app.sh indextts`")
    found = report(cache_hub=tmp_path)
    assert found.problems == ()
    assert "espeak (embedded engine: IndexTTS2 cannot work, it is not installed" in render(found)


def test_bad_settings_are_problems_and_the_machine_is_still_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}ASR_PORT", "99999")
    monkeypatch.setenv(f"{PREFIX}TTS_PROT", "7861")
    found = preflight.examine("both")
    assert len(found.problems) == 2
    assert any("STEADYVOICE_ASR_PORT='99999'" in problem for problem in found.problems)
    assert any("STEADYVOICE_TTS_PROT" in problem and "STEADYVOICE_TTS_PORT?" in problem for problem in found.problems)
    assert "RAM " in render(found)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("box.lan", "http://box.lan:80"),
    ],
)
def test_the_address_is_one_that_a_browser_can_visit(host: str, expected: str) -> None:
    assert url(host, 80) == expected


def test_a_crowded_machine_with_every_problem_is_still_one_screen(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    crowded = replace(MACHINE, gpus=(CARD,) * 8, ram_available=0)
    found = report(
        crowded, replace(HUB, disk_free=0, names=tuple(f"model-{n}" for n in range(100))), asr_port=port, tts_port=port
    )
    lines = render(found).splitlines()
    assert len(lines) <= 40
    assert lines[-len(found.problems) - 1] == f"{len(found.problems)} problems:"


def test_it_runs_without_torch_or_gradio() -> None:
    code = (
        "import json, sys; from steadyvoice.provision import preflight; preflight.render(preflight.examine('both')); "
        "print(json.dumps(sorted({'torch', 'gradio'} & set(sys.modules))))"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    assert json.loads(finished.stdout) == []


def test_the_command_exits_with_0_when_nothing_is_wrong() -> None:
    finished = run_command("asr")
    assert finished.returncode == 0, finished.stdout
    assert "speech to text" in finished.stdout
    assert "text to speech" not in finished.stdout


def test_the_command_exits_with_2_when_a_port_is_in_use(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYVOICE_ASR_PORT", str(listener.getsockname()[1]))
    finished = run_command("both")
    assert finished.returncode == 2
    assert finished.stdout.count("is in use: ") == 1


def test_apps_are_announced_once_when_they_are_ready(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:1")  # a proxy that leads nowhere
    monkeypatch.setattr(preflight, "POLL_S", 0.01)
    asked: list[str] = []

    class StartsUp(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if len(asked) > 2 else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), StartsUp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        preflight.announce(settings(tts_port=server.server_port), "tts")
        server.shutdown()
    assert asked == ["/ready"] * 3
    assert capsys.readouterr().out == f"text to speech is ready: http://127.0.0.1:{server.server_port}\n"


def run_command(apps: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "steadyvoice.provision.preflight", apps]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
