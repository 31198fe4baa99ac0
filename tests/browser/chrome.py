"""A headless Chromium: Debian's, or the one that CHROME names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
)


class NoBrowserError(Exception):
    """This machine has no Chromium, or nothing to drive it with."""


@contextmanager
def open_browser(width: int, height: int) -> Iterator[Any]:
    """A selenium driver whose window has this size in pixels. Raises NoBrowserError."""
    chrome = os.environ.get("CHROME") or next(filter(None, map(shutil.which, CHROMES)), None)
    driver = shutil.which("chromedriver")
    if not chrome or not driver:
        raise NoBrowserError("no Chromium with its chromedriver on this machine (Debian: chromium, chromium-driver)")
    try:
        from selenium import webdriver
    except ImportError:
        raise NoBrowserError("selenium is not installed (the extra dev has it)") from None
    options = webdriver.ChromeOptions()
    options.binary_location = chrome
    for flag in (*FLAGS, f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield started
    finally:
        started.quit()
