"""SenseVoiceSmall before the speech-to-text app starts: the program `python -m steadyvoice.provision.download`."""

from __future__ import annotations

from steadyvoice.provision.download.hub import LISTING_S, FetchError, prepare_clients
from steadyvoice.provision.download.release import download
from steadyvoice.provision.download.report import say
from steadyvoice.provision.release_files import SENSEVOICE, is_wanted, release_dir, release_problem
from steadyvoice.settings import PREFIX, Settings, SettingsError, load_settings

EXIT_PROBLEM = 2
EXIT_INTERRUPTED = 130


def fetch(settings: Settings, *, listing_s: float = LISTING_S) -> None:
    """Download SenseVoiceSmall into `cache_hub`, unless it is there or the settings want none of it. Raises as `download`."""
    folder = release_dir(settings)
    if is_wanted(settings):
        download(SENSEVOICE, folder, settings.hub, lambda: release_problem(folder), listing_s=listing_s)


def main() -> int:
    """0: the release is here, or is not needed; 2: it was asked for and is not here, or a setting is wrong."""
    prepare_clients()
    try:
        settings = load_settings()
        fetch(settings)
    except SettingsError as error:
        say(str(error).replace("\n", "\nhub: "))
        return EXIT_PROBLEM
    except FetchError as error:
        if settings.asr_engine == "auto":
            say(f"{error}; going on with the embedded recogniser")
            return 0
        say(f"{error}; {PREFIX}ASR_ENGINE={settings.asr_engine} cannot work without it")
        return EXIT_PROBLEM
    except KeyboardInterrupt:
        say("interrupted; the next start continues")
        return EXIT_INTERRUPTED
    return 0
