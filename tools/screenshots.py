"""Screenshots of both pages for README.md: `python tools/screenshots.py [FOLDER]`, by default docs/images.

Starts both apps on free ports with their embedded engines and no weights, so the pictures do not depend on the machine.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from steadyvoice.testing.browser import ARGUMENTS, CHROMIUM, WAIT_MS, opened, wait_done
from steadyvoice.testing.running_apps import CLIPS, ROOT, running

IMAGES = ROOT / "docs" / "images"
VIEWPORT = ViewportSize(width=1000, height=760)
TEXT = "The meeting starts at nine. Bring the plans with you."


def transcribe(page: Page) -> None:
    """Recognise the first test clip."""
    page.locator("#sv-audio input[type=file]").set_input_files(CLIPS[0])
    expect(page.locator("#sv-audio")).to_contain_text(re.compile(r"\d:\d\d"), timeout=WAIT_MS)
    page.get_by_role("button", name="Transcribe").click()
    wait_done(page)


def speak(page: Page) -> None:
    """Speak two sentences."""
    page.locator("#sv-input textarea").fill(TEXT)
    page.locator("#sv-start").click()
    wait_done(page)
    expect(page.locator("#sv-result")).to_contain_text(re.compile(r"\d:\d\d"), timeout=WAIT_MS)


def save_screenshots(browser: Browser, folder: Path) -> None:
    """Write one picture of each page, after it has done a piece of work."""
    pages = [("app_sensevoice.py", transcribe, "speech-to-text.png"), ("app_tts.py", speak, "text-to-speech.png")]
    for script, use, name in pages:
        with running(script) as app, opened(browser, app, "en-US", VIEWPORT) as page:
            use(page)
            page.screenshot(path=folder / name, animations="disabled")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        save_screenshots(browser, folder)
        browser.close()


if __name__ == "__main__":
    main()
