"""Installs IndexTTS2 for a user who accepts its licence: checkout, weights and an environment of its own, in `cache_hub`.

`bash start_app.sh indextts` runs it. Nothing half-done looks whole: a marker is written last, and without it the engine is not
chosen. A clone that was cut short is removed; what has come of the weights is kept, and the next call goes on from there. The
environment is made in its final place, as none can be moved.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import FrameType

from steadyvoice.provision import hardware, indextts_checkout
from steadyvoice.provision.download.hub import FetchError, prepare_clients
from steadyvoice.provision.download.release import download, file_lock, part_of
from steadyvoice.provision.download.report import disk_error
from steadyvoice.provision.download.sensevoice import EXIT_INTERRUPTED, EXIT_PROBLEM
from steadyvoice.provision.indextts_checkout import MARKER, NAME, NotUsable
from steadyvoice.provision.release_files import Release, manifest_problem
from steadyvoice.provision.select_engine import gpu_total
from steadyvoice.settings import PREFIX, Settings, SettingsError, load_settings

REPOSITORY = "https://github.com/index-tts/index-tts"
LICENCE = (
    "IndexTTS2, its code and its weights, is not part of this program. It comes under the bilibili Model Use License, "
    "which is not open source.\n"
    f"Read its terms, those on commercial use among them, in the repository index-tts/index-tts: {REPOSITORY}"
)
NEEDED_DISK = 20e9  # bytes: weights of 9 GB and an environment with torch
PYTHONS = ("python3.11", "python3.10", "python3", "python", sys.executable)
FITS = (
    "import ensurepip, sys, venv; "
    f"sys.exit(not {indextts_checkout.PYTHON_AT_LEAST} <= sys.version_info[:2] < {indextts_checkout.PYTHON_BELOW})"
)
EXIT_TERMINATED = 128 + signal.SIGTERM


class InstallError(Exception):
    """Something stands in the way. The message is one sentence."""


def install(settings: Settings) -> None:
    """Bring what is missing of IndexTTS2. The licence has been accepted.

    Raises:
        InstallError, NotUsable: a program, the network or this machine stands in the way.
        FetchError: the same of the weights; what has come of them is kept.
    """
    if settings.indextts_python is not None:
        raise InstallError(f"{PREFIX}INDEXTTS_PYTHON names an installation of your own: unset it to have another one made")
    if settings.hub == "none":
        raise InstallError(f"{PREFIX}HUB=none fetches nothing: set it to modelscope or huggingface")
    fit = indextts_checkout.advice(gpu_total(settings), hardware.ram_bytes()[0])
    home = indextts_checkout.home(settings)
    try:
        settings.cache_hub.mkdir(parents=True, exist_ok=True)
        with file_lock(settings.cache_hub, NAME):
            if _is_whole(settings, qwen=fit.qwen):
                _say(f"nothing is missing in {home}")
                return
            make_environment = _maker_of_environments()  # what it lacks is known before gigabytes have come
            _clone(home)
            _download_weights(settings, home / "checkpoints", qwen=fit.qwen)
            try:
                indextts_checkout.find_checkout(settings)
            except NotUsable:  # for want of the marker, or of an interpreter that works
                _run(make_environment, home, "the environment could not be made")
            _complete(settings, home, qwen=fit.qwen)
    except OSError as error:
        raise disk_error(settings.cache_hub, error) from error


def _is_whole(settings: Settings, *, qwen: bool) -> bool:
    try:
        return indextts_checkout.weights_problem(indextts_checkout.find_checkout(settings), qwen=qwen) is None
    except NotUsable:
        return False


def _maker_of_environments() -> list[str]:
    """The command that is run in the checkout. Raises InstallError."""
    low, high = (".".join(map(str, version)) for version in (indextts_checkout.PYTHON_AT_LEAST, indextts_checkout.PYTHON_BELOW))
    if uv := shutil.which("uv"):
        return [uv, "sync", "--python", f">={low},<{high}"]
    for candidate in filter(None, map(shutil.which, PYTHONS)):
        if subprocess.run([candidate, "-c", FITS], capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0:
            making = '"$0" -m venv .venv && exec .venv/bin/python -m pip install --disable-pip-version-check --editable .'
            return ["/bin/sh", "-c", making, candidate]
    raise InstallError(
        "IndexTTS2 is for Python 3.10 and 3.11, and neither is here, nor is uv: install uv, or python3.11 with venv"
    )


def _clone(home: Path) -> None:
    """The checkout, whole or not at all. Raises InstallError."""
    if (home / "indextts").is_dir():
        return
    if home.exists() and any(home.iterdir()):
        raise InstallError(f"{home} is no checkout of index-tts, and this program did not put it there: remove it")
    git = shutil.which("git")
    if git is None:
        raise InstallError("git is not installed: Debian, Ubuntu: apt-get install git")
    if (free := hardware.free_disk_bytes(home)) < NEEDED_DISK:
        raise InstallError(
            f"IndexTTS2 needs {NEEDED_DISK / 1e9:.0f} GB of free disk at {home.parent}, {free / 1e9:.1f} GB are free: "
            f"make room, or set {PREFIX}CACHE_HUB to a larger disk"
        )
    part = part_of(home)
    shutil.rmtree(part, ignore_errors=True)
    try:
        _run([git, "clone", "--depth", "1", REPOSITORY, str(part)], home.parent, f"{REPOSITORY} could not be cloned")
        checkpoints = part / "checkpoints"
        # What the repository itself keeps there goes to where the weights are gathered, but for what comes with them.
        for name in indextts_checkout.MAIN.files:
            (checkpoints / name).unlink(missing_ok=True)
        if checkpoints.is_dir():
            checkpoints.rename(part_of(checkpoints))
        part.rename(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _download_weights(settings: Settings, checkpoints: Path, *, qwen: bool) -> None:
    """Raises FetchError and OSError."""
    main = indextts_checkout.MAIN
    _download(replace(main, files=(*main.files, indextts_checkout.QWEN)) if qwen else main, checkpoints, settings.hub)
    hf_cache = checkpoints / "hf_cache"
    for release in (
        indextts_checkout.W2V_BERT,
        indextts_checkout.BIGVGAN,
        indextts_checkout.CAMPPLUS,
        indextts_checkout.SEMANTIC_CODEC,
    ):
        _download(release, hf_cache / release.name, settings.hub)
    # These two are read under other names than they come with.
    _link(hf_cache / indextts_checkout.CAMPPLUS.files[0], indextts_checkout.CAMPPLUS)
    _link(hf_cache / indextts_checkout.SEMANTIC_CODEC_FILE, indextts_checkout.SEMANTIC_CODEC)


def _download(release: Release, folder: Path, source: str) -> None:
    def problem() -> str | None:
        missing = [name for name in release.files if not (folder / name).exists()]
        return f"{folder} has no {', '.join(missing)}" if missing else manifest_problem(folder)

    download(release, folder, source, problem)


def _link(path: Path, release: Release) -> None:
    if not path.exists():
        path.symlink_to(Path(release.name) / release.files[0])


def _complete(settings: Settings, home: Path, *, qwen: bool) -> None:
    """Look the whole over and mark it as such. Raises InstallError and NotUsable."""
    as_own = settings.model_copy(update={"indextts_python": indextts_checkout.interpreter(settings)})
    checkout = indextts_checkout.find_checkout(as_own)
    if problem := indextts_checkout.weights_problem(checkout, qwen=qwen):
        raise InstallError(problem)
    (home / MARKER).write_text(f"bilibili Model Use License, accepted {date.today().isoformat()}\n")
    _say(f"version {checkout.version} is whole, in {home}")


def _run(command: list[str], folder: Path, failure: str) -> None:
    """A program that says on stderr what it does. Raises InstallError."""
    unwanted = ("PYTHONPATH", "PYTHONHOME", "UV_PROJECT_ENVIRONMENT")  # the environment is to lie in the checkout
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    # The weights do not come through Git, and public repositories ask for no password.
    ours = {"GIT_LFS_SKIP_SMUDGE": "1", "GIT_TERMINAL_PROMPT": "0"}
    status = subprocess.run(
        command, cwd=folder, env=kept | ours, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False
    ).returncode
    if status:
        raise InstallError(f"{failure}: {Path(command[0]).name} ended with status {status} and says why above")


def accept_licence(settings: Settings, *, accepted: bool) -> None:
    """Show what the licence is and have it accepted, on the terminal if need be. Raises InstallError if it is not."""
    if (indextts_checkout.home(settings) / MARKER).is_file():
        return
    print(LICENCE, file=sys.stderr, flush=True)  # noqa: T201
    if accepted:
        return
    if not sys.stdin.isatty():
        raise InstallError("the licence has to be accepted: read it, then add --accept-licence")
    if input("Do you accept it? [y/N] ").strip().lower() not in ("y", "yes"):
        raise InstallError("the licence was not accepted, and nothing was installed")


def _say(sentence: str) -> None:
    print(f"indextts: {sentence}", file=sys.stderr, flush=True)  # noqa: T201


def _terminated(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(EXIT_TERMINATED)


def main() -> int:
    """0: it is installed; 2: it is not, and one sentence says why."""
    parser = argparse.ArgumentParser(prog="start_app.sh indextts", description="Install IndexTTS2.")
    parser.add_argument("--accept-licence", action="store_true", help="you have read its licence and accept it")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _terminated)  # the program that is running ends with us
    try:
        settings = load_settings()
        accept_licence(settings, accepted=arguments.accept_licence)
        prepare_clients()
        install(settings)
    except SettingsError as error:
        _say(str(error).replace("\n", "\nindextts: "))
        return EXIT_PROBLEM
    except FetchError as error:
        _say(f"{error}; what has come is kept, and `{indextts_checkout.COMMAND}` goes on from there")
        return EXIT_PROBLEM
    except (InstallError, NotUsable) as error:
        _say(str(error))
        return EXIT_PROBLEM
    except (KeyboardInterrupt, EOFError):
        _say(f"interrupted; `{indextts_checkout.COMMAND}` goes on from there")
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
