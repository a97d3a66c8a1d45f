"""The Chromium of the system, driven by Playwright, and `isnet serve` for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

STARTS_S = 300


@contextmanager
def chromium() -> Iterator[Any]:
    """Starts the browser without a window; skips the test where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("needs a browser: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
    with playwright.sync_playwright() as driver:
        # Chromium has no sandbox for root, as in a container.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=found, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def isnet_serve(home: Path, *words: str) -> Iterator[dict[str, Any]]:
    """Runs `isnet serve WORDS`; gives what it prints once it answers: address, page, token and versions."""
    command = [sys.executable, "-m", "jobs.cli", "serve", *words, "--port", "0", "--json"]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=home.parent,
            env={**os.environ, "ISNET_HOME": str(home)},
            start_new_session=True,
        )
        # A server that hangs closes the pipe by its end.
        alarm = threading.Timer(STARTS_S, process.kill)
        alarm.start()
        try:
            line = process.stdout.readline()
            alarm.cancel()
            if not line:
                errors.seek(0)
                raise AssertionError(f"isnet serve did not start: {errors.read().decode(errors='replace')[-2000:]}")
            yield json.loads(line)
        finally:
            alarm.cancel()
            # How it ends in peace is tested in tests/jobs/serving/test_command.py.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
