"""The real dashboard process, and a real Chromium to look at it with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("TALLYSTICK_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 60_000
NEEDS_CHROMIUM = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason=f"no Chromium: none of {', '.join(PROGRAMS)} is on PATH and TALLYSTICK_CHROMIUM names none",
    ),
]


@contextmanager
def dashboard_process(collector: str, folder: Path) -> Iterator[str]:
    """Run ``tallystick dashboard`` in ``folder``; yield its address once somebody answers there."""
    command = [sys.executable, "-m", "tallystick", "dashboard", "--collector", collector, "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "Dashboard at " in line, line
        _until_it_answers(line.split()[2])
        yield line.split()[2]
    finally:
        process.terminate()
        process.communicate(timeout=60)


def _until_it_answers(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url, timeout=10).close()
        except (URLError, OSError):  # the line comes before the port is open
            assert time.monotonic() < deadline, f"nobody answers at {url}"
            time.sleep(0.1)
        else:
            return


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()
