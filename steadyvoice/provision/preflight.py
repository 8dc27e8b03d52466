"""One screen before the start: what this machine has, what each app will do with it, and whatever would stop it.

`python -m steadyvoice.provision.preflight {both|asr|tts}` prints it and exits with 2 when there is a problem, so that a user
meets a taken port in the first second and not after a model has loaded. With `--announce` it waits for running apps instead and
prints the address of each when it is ready. Loads no model; imports neither torch nor gradio.
"""

from __future__ import annotations

import argparse
import errno
import http.client
import platform
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from steadyvoice.admission.capacity import Capacity, capacity_for
from steadyvoice.engine_specs import EngineChoice, NoEngine
from steadyvoice.provision import hardware
from steadyvoice.provision.select_engine import choose_recognizer, choose_synthesizer
from steadyvoice.server.listen import listen
from steadyvoice.settings import PREFIX, Settings, SettingsError, load_settings

MIN_RAM_PER_APP = 1e9  # bytes available; a page, a decoder and an embedded engine
MIN_DISK = 1e9  # bytes free at cache_hub
NAMES_SHOWN = 12  # of what lies in cache_hub: the report stays one screen
NOT_WEIGHTS = frozenset({"README.md"})  # what git keeps in cache_hub
EXIT_PROBLEM = 2
POLL_S = 0.5
ANSWER_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class App:
    """One of the two apps, as the settings name it."""

    key: str
    title: str
    port_field: str  # of Settings
    choose: Callable[[Settings], EngineChoice]

    @property
    def port_setting(self) -> str:
        return PREFIX + self.port_field.upper()

    def port(self, settings: Settings) -> int:
        return int(getattr(settings, self.port_field))


APPS = {
    "asr": App("asr", "speech to text", "asr_port", choose_recognizer),
    "tts": App("tts", "text to speech", "tts_port", choose_synthesizer),
}
WANTED = {"both": ("asr", "tts"), "asr": ("asr",), "tts": ("tts",)}


@dataclass(frozen=True)
class Machine:
    """What is here. Bytes."""

    python: str
    ram_total: int
    ram_available: int
    gpus: tuple[hardware.Gpu, ...]


@dataclass(frozen=True)
class Hub:
    """The folder of weights. `problem` says why it cannot be used; the rest is then empty."""

    path: Path
    exists: bool = False  # if not, it is made when something is put there
    disk_free: int = 0  # bytes
    names: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class AppPlan:
    """What one app will do. `engine` is None when no engine can work; `problems` says why."""

    app: App
    host: str
    port: int
    port_state: str  # "free", "in use" or "not usable"
    url: str
    engine: EngineChoice | None
    capacity: Capacity
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """The whole screen. Without valid settings there is neither a hub nor a plan."""

    machine: Machine
    hub: Hub | None
    plans: tuple[AppPlan, ...]
    problems: tuple[str, ...]


def look_at_machine() -> Machine:
    total, available = hardware.ram_bytes()
    return Machine(f"{platform.python_version()} ({sys.executable})", total, available, tuple(hardware.gpus()))


def look_at_hub(path: Path) -> Hub:
    setting = f"{PREFIX}CACHE_HUB={path}"
    try:
        if path.exists() and not path.is_dir():
            return Hub(path, problem=f"{setting} is a file; it has to be a folder")
        exists = path.exists()
        names = sorted(p.name for p in path.iterdir() if not p.name.startswith(".")) if exists else []
        weights = tuple(name for name in names if name not in NOT_WEIGHTS)
        return Hub(path, exists, hardware.free_disk_bytes(path), weights)
    except OSError as error:
        return Hub(path, problem=f"{setting} cannot be read: {error.strerror}")


def plan_app(app: App, settings: Settings, machine: Machine) -> AppPlan:
    """The engine, limits and address of one app, with the port tried."""
    port = app.port(settings)
    port_state, port_problem = check_port(settings.host, port, app.port_setting)
    engine, engine_problem = None, None
    card_bytes = machine.gpus[0].total if machine.gpus else None
    try:
        engine = app.choose(settings)
    except NoEngine as error:
        engine_problem = f"{app.title}: {error}"
    return AppPlan(
        app=app,
        host=settings.host,
        port=port,
        port_state=port_state,
        url=url(settings.host, port),
        engine=engine,
        capacity=capacity_for(settings.queue_size, settings.concurrency, settings.gpu_memory_gb, card_bytes),
        problems=tuple(filter(None, (port_problem, engine_problem))),
    )


def check_port(host: str, port: int, setting: str) -> tuple[str, str | None]:
    """(state, problem or None), found by listening as the server will, for a moment."""
    where = f"{PREFIX}HOST={host}"
    try:
        listen(host, port).close()
    except UnicodeError:
        return "not usable", f"{where} is no name that could be looked up"
    except OSError as error:
        if error.errno is not None and error.errno < 0:  # of getaddrinfo
            return "not usable", f"{where} cannot be looked up: set it to 127.0.0.1, or to 0.0.0.0 for all addresses"
        if error.errno == errno.EADDRINUSE:
            return "in use", f"port {port} on {host} is in use: stop what listens there, or set {setting} to a free port"
        if error.errno == errno.EACCES:
            return "not usable", f"port {port} on {host} needs more rights than you have: set {setting} to 1024 or higher"
        if error.errno == errno.EADDRNOTAVAIL:
            return "not usable", f"{where} is not an address of this machine: set it to 127.0.0.1, or to 0.0.0.0 for all"
        return "not usable", f"port {port} on {host} cannot be opened ({setting}, {PREFIX}HOST): {error.strerror}"
    return "free", None


def url(host: str, port: int) -> str:
    """Where a browser on this machine finds the app: an address of "everywhere" is none to visit."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def judge(machine: Machine, hub: Hub, plans: tuple[AppPlan, ...]) -> Report:
    """Everything that was seen, and what is wrong with it. Pure."""
    problems = [problem for plan in plans for problem in plan.problems]
    if len({plan.port for plan in plans}) < len(plans):
        names = " or ".join(plan.app.port_setting for plan in plans)
        problems.append(f"both apps would listen on port {plans[0].port}: change {names}")
    needed = len(plans) * MIN_RAM_PER_APP
    if machine.ram_available < needed:
        problems.append(
            f"{_gb(machine.ram_available)} of RAM are available, {_gb(needed)} are needed: close other programs"
            + (", or start one app only" if len(plans) > 1 else "")
        )
    if hub.problem:
        problems.append(hub.problem)
    elif hub.disk_free < MIN_DISK:
        problems.append(
            f"{_gb(hub.disk_free)} of disk are free at {hub.path}, {_gb(MIN_DISK)} are needed: "
            f"make room, or set {PREFIX}CACHE_HUB to a larger disk"
        )
    return Report(machine, hub, plans, tuple(dict.fromkeys(problems)))  # both apps may say the same of the host


def examine(wanted: str) -> Report:
    """Look at everything that `wanted`, one of "both", "asr", "tts", needs."""
    machine = look_at_machine()
    try:
        settings = load_settings()
    except SettingsError as error:
        return Report(machine, None, (), tuple(str(error).splitlines()))
    plans = tuple(plan_app(APPS[key], settings, machine) for key in WANTED[wanted])
    return judge(machine, look_at_hub(settings.cache_hub), plans)


def render(report: Report) -> str:
    """The screen as text."""
    machine = report.machine
    lines = [
        f"Python     {machine.python}",
        f"RAM        {_gb(machine.ram_available)} available of {_gb(machine.ram_total)}",
    ]
    if report.hub and not report.hub.problem:
        lines.append(
            f"Disk       {_gb(report.hub.disk_free)} free at {report.hub.path}{'' if report.hub.exists else ' (not there yet)'}"
        )
    lines += [f"GPU        {gpu.name}, driver {gpu.driver}, {_gb(gpu.free)} free of {_gb(gpu.total)}" for gpu in machine.gpus]
    if not machine.gpus:
        lines.append("GPU        none: embedded/CPU engines")
    if report.hub and not report.hub.problem:
        lines.append(f"Weights    {_listed(report.hub.names)}")
    for plan in report.plans:
        engine = f"{plan.engine.spec.name} ({plan.engine.reason})" if plan.engine else "none"
        work = plan.capacity
        lines += [
            "",
            plan.app.title,
            f"  engine   {engine}",
            f"  port     {plan.port} on {plan.host}: {plan.port_state}",
            f"  limits   {work.concurrency} at work, {work.queue_size} waiting",
            f"  page     {plan.url}",
        ]
    lines.append("")
    if report.problems:
        lines.append(f"{len(report.problems)} problem{'s' if len(report.problems) > 1 else ''}:")
        lines += [f"  - {problem}" for problem in report.problems]
    else:
        lines.append("No problems found.")
    return "\n".join(lines)


def announce(settings: Settings, wanted: str) -> None:
    """Wait until every app has once answered /ready with 200; print the address of each as it does."""
    # An http_proxy of the environment is not the way to an app on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    waiting = [APPS[key] for key in WANTED[wanted]]
    while waiting:
        for app in tuple(waiting):
            address = url(settings.host, app.port(settings))
            try:
                with opener.open(f"{address}/ready", timeout=ANSWER_TIMEOUT_S):
                    print(f"{app.title} is ready: {address}", flush=True)  # noqa: T201
                waiting.remove(app)
            except (OSError, http.client.HTTPException):
                pass  # not yet: refused, 503 while it starts, or cut off while it restarts
        if waiting:
            time.sleep(POLL_S)


def _gb(amount: float) -> str:
    return f"{amount / 1e9:.1f} GB"


def _listed(names: tuple[str, ...]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m steadyvoice.provision.preflight", description="What will run, and what stops it."
    )
    parser.add_argument("apps", choices=WANTED, help="which apps")
    parser.add_argument("--announce", action="store_true", help="wait for the running apps and print their addresses")
    arguments = parser.parse_args()
    if arguments.announce:
        announce(load_settings(), arguments.apps)
        return 0
    report = examine(arguments.apps)
    print(render(report), flush=True)  # noqa: T201
    return EXIT_PROBLEM if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
