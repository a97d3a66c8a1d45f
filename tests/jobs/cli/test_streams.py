"""Commands behave the same with streams that are closed, full, warned about or of another encoding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import argparse, sys, types
from jobs.cli import arguments, main
def command(args):
    import warnings
    warnings.warn("an old name", DeprecationWarning)
    main.notify("working on " + args.name)
    main.emit(args, {"name": args.name}, "done with " + args.name)
    return 0
def build_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(target="commands.cluster.stack:command")
    return parser
arguments.build_parser = build_parser
sys.modules["jobs.commands.cluster.stack"] = types.SimpleNamespace(command=command)
sys.exit(main.main())
"""


def shell(line: str, name: str = "photo", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a command that prints one message and one report, with the streams of a shell line."""
    # Unbuffered, argparse would drop the error of a write.
    variables.setdefault("PYTHONUNBUFFERED", "")
    environment = {**os.environ, **variables, "PROGRAM": PROGRAM, "PYTHON": sys.executable, "NAME": name}
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, check=False)


RUN = '"$PYTHON" -c "$PROGRAM" "$NAME"'


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "--json >&-", "--json 2>&-"])
def test_a_closed_stream_changes_nothing(closed: str) -> None:
    ran = shell(f"{RUN} {closed}")
    assert ran.returncode == 0
    assert b"Traceback" not in ran.stderr
    if ">&-" not in closed.replace("2>&-", ""):
        assert b"photo" in ran.stdout


def test_a_file_does_not_get_the_descriptor_of_a_closed_stream(tmp_path: Path) -> None:
    program = (
        "import subprocess\nfrom jobs.cli.streams import usable_streams\n"
        f"with usable_streams(), open({str(tmp_path / 'file')!r}, 'w') as file:\n"
        "    subprocess.run(['echo', 'chatter'], check=True); file.write('whole')\n"
    )
    subprocess.run(["bash", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, program], check=True)
    assert (tmp_path / "file").read_text() == "whole"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("option", ["", "--json"])
def test_a_full_disk_behind_the_report_is_told_in_a_sentence(option: str) -> None:
    ran = shell(f"{RUN} {option} >/dev/full")
    assert ran.returncode == 1
    assert ran.stderr.decode().splitlines()[-1] == (
        "isnet: the command has ended, but its report cannot be written (No space left on device); send it elsewhere"
    )
    assert b"Traceback" not in ran.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_help_that_nobody_gets_to_read_is_told_in_a_sentence() -> None:
    ran = shell(f"{RUN} --help >/dev/full")
    assert ran.returncode == 1
    sentence = b"isnet: standard output cannot be written (No space left on device); send it elsewhere\n"
    assert ran.stderr == sentence


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_messages_that_nobody_can_read_change_nothing() -> None:
    ran = shell(f"{RUN} 2>/dev/full")
    assert (ran.returncode, ran.stdout) == (0, b"done with photo\n")


@pytest.mark.parametrize("option", ["", "--json"])
def test_a_reader_that_has_gone_is_no_error(option: str) -> None:
    ran = shell(f"set -o pipefail; {RUN} {option} | true")
    assert ran.returncode == 0
    assert b"Traceback" not in ran.stderr
    assert b"Exception" not in ran.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252:strict"])
def test_a_terminal_of_another_encoding_gets_escapes(encoding: str) -> None:
    ran = shell(RUN, "выход", PYTHONIOENCODING=encoding)
    assert ran.returncode == 0
    assert ran.stdout == b"done with \\u0432\\u044b\\u0445\\u043e\\u0434\n"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_the_json_of_a_name_that_is_no_utf8_gives_its_bytes_back(encoding: str) -> None:
    ran = shell(RUN + " --json", os.fsdecode(b"caf\xe9 \xd1\x84"), PYTHONIOENCODING=encoding, PYTHONUTF8="1")
    assert ran.returncode == 0
    assert os.fsencode(json.loads(ran.stdout)["name"]) == b"caf\xe9 \xd1\x84"


@pytest.mark.parametrize("warnings", ["error", "e::DeprecationWarning", "default,error"])
def test_warnings_of_libraries_are_no_errors(warnings: str) -> None:
    ran = shell(RUN, PYTHONWARNINGS=warnings)
    assert (ran.returncode, ran.stdout) == (0, b"done with photo\n")
