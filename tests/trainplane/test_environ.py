"""What child processes inherit."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from trainplane.environ import MAX_TEMPORARY_BYTES, child_environment, imports_from_current_folder


def test_a_file_here_stands_for_no_module_of_a_child(tmp_path, monkeypatch):
    (tmp_path / "colorsys.py").write_text("raise SystemExit('mine')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert not imports_from_current_folder()
    with child_environment():
        for words in (["-c", "import colorsys"], ["-m", "colorsys"]):
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
    assert "PYTHONSAFEPATH" not in os.environ


def test_children_of_a_process_that_imports_from_here_do_so_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    for here in ("", str(tmp_path)):
        monkeypatch.setattr(sys, "path", [here, *sys.path])
        with child_environment():
            assert "PYTHONSAFEPATH" not in os.environ


@pytest.mark.parametrize("length", [0, 60, 120])
def test_sockets_fit_below_the_temporary_folder(tmp_path, monkeypatch, length):
    folder = tmp_path / ("x" * length)
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with child_environment():
        short = Path(tempfile.gettempdir())
        assert len(os.fsencode(short)) <= MAX_TEMPORARY_BYTES or len(os.fsencode(folder)) <= MAX_TEMPORARY_BYTES
        assert short.resolve() == folder.resolve()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(short / ("s" * (107 - MAX_TEMPORARY_BYTES - 1))))
    assert os.environ["TMPDIR"] == str(folder)
    assert Path(tempfile.gettempdir()) == folder
    assert folder == short or not os.path.lexists(short)
