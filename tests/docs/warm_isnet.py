"""`isnet` without the seconds of its imports: a process that has them forks for every command.

Each command has a process, current folder, environment and open files of its own, as when a shell starts it; only the
imports are shared. The folder that `warm_isnet` yields goes to the front of PATH.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Sends its words, folder, environment and open files; passes signals on; ends with the status that comes back.
_CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(line, [len(call).to_bytes(8, "big")], [0, 1, 2])
    line.sendall(call)
    command = int.from_bytes(line.recv(4), "big")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os.kill(command, number))
    status = line.recv(4)
sys.exit(int.from_bytes(status, "big") if status else 137)
"""
_START_S = 120.0


@contextmanager
def warm_isnet() -> Iterator[Path]:
    """Yields a folder with a program `isnet`."""
    # A socket's path has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="isnet-") as folder:
        address = f"{folder}/socket"
        client = Path(folder) / "isnet"
        client.write_text(_CLIENT.format(python=sys.executable, address=address))
        client.chmod(0o755)
        server = subprocess.Popen([sys.executable, __file__, address], start_new_session=True)
        try:
            deadline = time.monotonic() + _START_S
            while not Path(address).exists():
                assert server.poll() is None, "the process that forks has ended"
                assert time.monotonic() < deadline, "the process that forks does not answer"
                time.sleep(0.05)
            yield Path(folder)
        finally:
            server.terminate()
            server.wait()


def _serve(address: str) -> None:
    from jobs.cli.main import main

    _import_everything()
    with socket.socket(socket.AF_UNIX) as listener:
        # Bound under another name first, so that the socket exists when it listens.
        listener.bind(f"{address}.new")
        listener.listen()
        os.rename(f"{address}.new", address)
        while True:
            line, _ = listener.accept()
            # Ended children of earlier calls.
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if os.fork() == 0:
                listener.close()
                _run(line, main)
            line.close()


def _import_everything() -> None:
    # What most commands import. Not Ray, which keeps threads.
    import mlflow.pyfunc
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.tracking
    import torch

    import isnet.inpaint
    import jobs.commands.models
    import jobs.commands.runs
    import jobs.commands.train
    import jobs.evaluation.run
    import jobs.isnet_task

    assert all((mlflow, torch, isnet, jobs))


def _run(line: socket.socket, main) -> None:
    status = 1
    try:
        head, descriptors, _, _ = socket.recv_fds(line, 8, 3)
        call = b""
        while len(call) < int.from_bytes(head, "big"):
            call += line.recv(1 << 20)
        words, folder, environment = json.loads(call)
        line.sendall(os.getpid().to_bytes(4, "big"))
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
            os.close(descriptor)
        # Made anew: those of the parent know what its descriptors were.
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(number, mode, encoding="utf-8", closefd=False) for number, mode in enumerate("rww")
        )
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["isnet", *words]
        # The interpreter reads this one at its start only.
        sys.path[1:1] = [path for path in environment.get("PYTHONPATH", "").split(":") if path]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            status = main(words)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        # What Python does at an exit.
        import atexit

        atexit._run_exitfuncs()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        with suppress(OSError):
            line.sendall(int(status or 0).to_bytes(4, "big"))
        os._exit(int(status or 0))


if __name__ == "__main__":
    _serve(sys.argv[1])
