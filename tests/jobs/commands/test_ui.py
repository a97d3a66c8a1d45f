"""`isnet ui` serves MLflow's pages quietly, and ends on Ctrl-C without a word."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from jobs.commands.ui import _wait_until_up
from trainplane.errors import RunFailed


@pytest.mark.nightly
def test_pages_are_served_quietly_until_an_interruption(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "ui", "--port", "0", "--json"],
        env={**os.environ, "ISNET_HOME": str(tmp_path / "home"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        start_new_session=True,
    ) as command:
        try:
            assert command.stdout is not None
            said = json.loads(command.stdout.readline())
            with urllib.request.urlopen(said["address"], timeout=60) as page:
                assert page.status == 200
            # As a terminal does it: the whole group at once.
            os.killpg(command.pid, signal.SIGINT)
            out, err = command.communicate(timeout=60)
        finally:
            command.kill()
    assert "workflowType=machine_learning" in said["pages"]
    assert (command.returncode, out, err) == (0, b"", b"")
    log = Path(said["log"]).read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert "GET /" not in log
    # Nobody listens any more.
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(said["address"], timeout=5)


def test_a_server_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "ui.log"
    log.write_text("first line\nthe port is taken\n", encoding="utf-8")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
        with pytest.raises(RunFailed, match="the port is taken"):
            _wait_until_up(ended, "http://127.0.0.1:9", log)
