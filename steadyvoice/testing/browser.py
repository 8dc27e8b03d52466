"""A real browser, as the tests of both pages use it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, ViewportSize, expect

from steadyvoice.testing.running_apps import RunningApp

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--mute-audio"),
]
DESKTOP, PHONE = ViewportSize(width=1200, height=900), ViewportSize(width=390, height=844)
WAIT_MS = 60_000


@contextmanager
def opened(
    browser: Browser, app: RunningApp, locale: str, viewport: ViewportSize = DESKTOP, console_errors: bool = False
) -> Iterator[Page]:
    """A fresh visitor's tab. Afterwards: no console error, no exception, no request to a foreign host.

    `console_errors` allows the lines that the browser itself writes for an answer that is not 2xx.
    """
    context = browser.new_context(locale=locale, viewport=viewport, permissions=["microphone"])
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" and not console_errors else None)
    page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
    page.on(
        "request", lambda r: None if r.url.startswith((app.url, "blob:", "data:")) else complaints.append(f"foreign: {r.url}")
    )
    page.goto(app.url)
    expect(page.locator("#sv-status")).not_to_be_empty(timeout=WAIT_MS)
    yield page
    context.close()
    assert complaints == []


def wait_done(page: Page) -> str:
    expect(page.locator("#sv-status")).to_contain_text("✓", timeout=WAIT_MS)
    return page.locator("#sv-status").inner_text()


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))
