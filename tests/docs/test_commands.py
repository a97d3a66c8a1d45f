"""The commands of README.md and docs/, run in their order from where a reader starts.

commands.yaml says which are shortened, and which are run at night or never, with the reason. What a later page repeats
word for word is run once. So is the demo: where ISNET_DEMO_HOME names the home that `make demo` left (.ci/run), the
commands go on from there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from doc_pages import ROOT, Block, Command, agrees, begins, steps_of, table
from warm_isnet import warm_isnet

from jobs.data.demo_photos import packaged_photos

TABLE = table()
SERVER_S = 120.0


class Reader:
    """Somebody who types what the pages say, in one folder with a clone's files."""

    def __init__(self, folder: Path, programs: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.servers = stack.enter_context(ExitStack())
        self.is_new_demo = "ISNET_DEMO_HOME" not in os.environ
        # What a clone has, without a copy; the demo's home under its usual name.
        self.folder.mkdir()
        for entry in ROOT.iterdir():
            if entry.name not in (".git", ".isnet", "isnet.toml"):
                (folder / entry.name).symlink_to(entry)
        if not self.is_new_demo:
            (folder / ".isnet").symlink_to(os.environ["ISNET_DEMO_HOME"])
        self._provide_pictures(folder.parent / "me")
        dropped = ("ISNET_HOME", "ISNET_CONTEXT", "RAY_ADDRESS", "AWS_ENDPOINT_URL", "ISNET_DEMO_HOME")
        self.environment = {name: value for name, value in os.environ.items() if name not in dropped}
        self.environment |= {
            "HOME": str(folder.parent / "me"),
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONWARNINGS": "ignore",
        }

    def _provide_pictures(self, home: Path) -> None:
        """`~/Pictures`, and a folder of masks."""
        import numpy as np
        from PIL import Image

        from isnet.masks import irregular

        (home / "Pictures").mkdir(parents=True)
        sides = packaged_photos()
        for source in [*sides.train, *sides.val]:
            (home / "Pictures" / source.name).write_bytes(source.read())
        (self.folder / "masks").mkdir()
        for number in range(8):
            hole = irregular(64, 64, np.random.default_rng(number), ratio=(0.1, 0.3))
            Image.fromarray(np.where(hole, np.uint8(255), np.uint8(0))).save(self.folder / "masks" / f"{number}.png")

    def text_to_type(self, command: Command) -> str:
        """The command with shorter words, and with the ids that a reader would put in."""
        text = TABLE.instead.get(command.text, command.text)
        for long, short in TABLE.shorter.items():
            text = text.replace(long, short)
        if "RUN_ID" in text:
            text = text.replace("RUN_ID", self._demo_run(" --context stack" if "--context stack" in text else ""))
        return text

    def _demo_run(self, context: str) -> str:
        """The run that the demo or `isnet train demo` printed last, by the settings that it names."""
        listed = self.run(f"isnet runs list --json{context}")
        assert listed.returncode == 0, listed.stderr
        runs = json.loads(listed.stdout)["runs"]
        # Runs of other settings have them in their names.
        return next(
            run["run_id"]
            for run in runs
            if run["experiment"] == "isnet-demo" and run["name"].startswith(("finetune, ", "demo, "))
        )

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", text], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )

    def end_stack(self) -> None:
        """Ends the stack, if it was started."""
        if (self.folder / ".isnet" / "stack").exists():
            self.run("isnet stack down --wipe")

    def take(self, step: Command | Block) -> str | None:
        """Does one step; returns what is wrong with it."""
        if isinstance(step, Block):
            return self._take_block(step)
        address = next((url for start, url in TABLE.servers.items() if begins(step.text, start)), None)
        if address:
            return self._serve(step, address)
        text = self.text_to_type(step)
        ran = self.run(text)
        expected = next((statuses for start, statuses in TABLE.status.items() if begins(step.text, start)), [0])
        if ran.returncode not in expected and not _lacks_code_alone(step, ran):
            return f"{step}\n  typed as {text}\n  status {ran.returncode}\n{ran.stdout[-1500:]}{ran.stderr[-3000:]}"
        if step.shown and not any(agrees(step.shown, printed) for printed in (ran.stdout, ran.stderr)):
            return f"{step}\n  printed\n{ran.stdout}{ran.stderr[-3000:]}\n  the page shows\n" + "\n".join(step.shown)
        return None

    def _take_block(self, block: Block) -> str | None:
        text = block.text
        for long, short in TABLE.shorter.items():
            text = text.replace(long, short)
        if block.file is not None:
            (self.folder / block.file).write_text(text)
            return None
        (self.folder / "script.py").write_text(text)
        ran = self.run("python script.py")
        return f"{block.page}:{block.line}: the script ended with\n{ran.stderr[-3000:]}" if ran.returncode else None

    def _serve(self, command: Command, address: str) -> str | None:
        # A reader interrupts the one before.
        self.servers.close()
        process = subprocess.Popen(
            ["bash", "-c", command.text],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.servers.callback(_interrupt, process)
        deadline = time.monotonic() + SERVER_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                return f"{command}\n  ended with {process.returncode}: {process.stderr.read()[-2000:]}"
            try:
                with urllib.request.urlopen(address, timeout=5):
                    return None
            except OSError:
                time.sleep(0.3)
        return f"{command}\n  does not answer at {address} within {SERVER_S:.0f} s"


def _lacks_code_alone(command: Command, ran: subprocess.CompletedProcess[str]) -> bool:
    """Whether a run cannot be reproduced just because this checkout has many changes that nobody committed."""
    missing = ran.stdout.partition("missing or changed since then:\n")[2].splitlines()
    reproduces = begins(command.text, "isnet runs reproduce …")
    return reproduces and bool(missing) and all(line.strip().startswith("code:") for line in missing)


def _interrupt(process: subprocess.Popen[str]) -> None:
    # As Ctrl-C in a terminal does.
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=30)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
        break


def read_all(tmp_path: Path, *, at_night: bool) -> None:
    taken, wrong = [], []
    typed: set[str] = set()
    with ExitStack() as stack:
        reader = Reader(tmp_path / "clone", stack.enter_context(warm_isnet()), stack)
        # Whatever goes wrong, no cluster is left.
        stack.callback(reader.end_stack)
        for step in _all_steps(reader):
            if isinstance(step, Command):
                if TABLE.reason("never", step) or (TABLE.reason("nightly", step) and not at_night):
                    continue
                if step.text in typed and not step.shown:
                    continue
                typed.add(step.text)
                # .ci/run has run it as it is written.
                if step.text == "make demo" and not reader.is_new_demo:
                    continue
            started = time.monotonic()
            problem = reader.take(step)
            taken.append(
                (time.monotonic() - started, step if isinstance(step, Command) else f"{step.page}:{step.line}")
            )
            if problem:
                wrong.append(problem)
    for seconds, name in taken:
        print(f"{seconds:6.1f} s  {name}")
    assert not wrong, "\n\n".join([f"{len(wrong)} of {len(taken)} went wrong", *wrong])


def _all_steps(reader: Reader) -> Iterator[Command | Block]:
    for page in TABLE.pages:
        yield from steps_of(page)
        # A page's servers are for its own commands.
        reader.servers.close()


@pytest.mark.real
def test_commands_of_the_manual_do_what_it_says(tmp_path):
    read_all(tmp_path, at_night=False)


@pytest.mark.nightly
def test_all_commands_of_the_manual_do_what_it_says(tmp_path, monkeypatch):
    if shutil.which("mlflow", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("MLflow's command is not installed")
    # With a demo of its own: it changes what the home has.
    monkeypatch.delenv("ISNET_DEMO_HOME", raising=False)
    read_all(tmp_path, at_night=True)
