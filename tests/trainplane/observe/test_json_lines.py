"""Log lines as JSON: every line of standard error is one object, and standard output stays as it is."""

import io
import json
import os
import subprocess
import sys

import pytest

from trainplane.errors import UserError
from trainplane.observe.json_lines import JsonLines, log_format


def test_lines_become_objects_and_drawn_lines_count_once():
    raw = io.StringIO()
    stream = JsonLines(raw)
    stream.write("isnet: half a ")
    assert raw.getvalue() == ""
    stream.write("line\n\n10 %\r50 %\r100 %\nrest")
    stream.end_line()
    lines = [json.loads(line) for line in raw.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["half a line", "100 %", "rest"]
    assert all(set(line) == {"time", "level", "logger", "pid", "message"} for line in lines)
    assert not stream.isatty()


def test_a_command_speaks_json_by_its_context_even_where_it_fails(tmp_path):
    (tmp_path / "isnet.toml").write_text('default = "here"\n[context.here]\nlog = "json"\n')
    environment = {**os.environ, "ISNET_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "jobs.cli", "notify", "test"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = [json.loads(text) for text in done.stderr.splitlines()]
    assert line["message"].startswith("context 'here' names nobody to tell")


def test_other_formats_are_refused():
    with pytest.raises(UserError, match="need text or json"):
        log_format("xml", "log of context 'lab'")
