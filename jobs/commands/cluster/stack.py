"""`isnet stack up|status|down`: a local stack and its context `stack`."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from jobs.cli.main import emit
from jobs.cli.streams import notify
from trainplane.cluster import context_file
from trainplane.cluster.context import resolve
from trainplane.cluster.stack.stack import ComponentStatus, Stack
from trainplane.command_line import command_line
from trainplane.tracking.pages import experiments_page


def up(args: argparse.Namespace) -> int:
    """Starts the stack, and writes its context."""
    file, stack = context_file.config_file(Path.cwd()), _stack()
    # A file that cannot be changed is refused before anything starts.
    context_file.check(file)
    started = time.monotonic()
    stack.up(store=args.store, timeout_s=args.timeout, emit=notify)
    values, secrets = stack.context()
    context_file.write(file, values, secrets)
    took_s = time.monotonic() - started
    parts = stack.status()
    lines, store = [_line(part) for part in parts], stack.layout.load().store
    # Say it each time: data is lost at the end.
    if store == "moto":
        lines.append(
            "store      is a MOCK: its objects are in memory and are lost at `down`; for a real one install Ceph"
        )
    password, token = secrets["MLFLOW_TRACKING_PASSWORD"], secrets["RAY_AUTH_TOKEN"]
    name = context_file.NAME
    lines += [
        f"up after {took_s:.0f} s; every command runs on it with --context {name} ({file})",
        f'without the option: export ISNET_CONTEXT={name}, or write default = "{name}" as the first line of that file',
        f"MLflow's pages: {experiments_page(values['tracking'])}, user admin, password in {password}",
        f"Ray's pages:    {values['ray']}, token in {token}",
    ]
    payload = {
        "context": name,
        "file": str(file),
        "pages": {"mlflow": values["tracking"], "ray": values["ray"]},
        "secrets": {name: str(path) for name, path in secrets.items()},
        "seconds": round(took_s, 1),
        "store": store,
    }
    emit(args, {**payload, "parts": [_payload(part) for part in parts]}, "\n".join(lines))
    return 0 if all(part.state == "up" for part in parts) else 1


def status(args: argparse.Namespace) -> int:
    """Shows the state of each part."""
    parts = _stack().status()
    is_up = bool(parts) and all(part.state == "up" for part in parts)
    text = "\n".join(_line(part) for part in parts) or (
        f"there is no stack here; `{command_line('stack', 'up')}` starts one"
    )
    emit(args, {"ok": is_up, "parts": [_payload(part) for part in parts]}, text)
    return 0 if is_up else 1


def down(args: argparse.Namespace) -> int:
    """Stops the stack."""
    started, stack = time.monotonic(), _stack()
    count = stack.down(wipe=args.wipe, emit=notify)
    # A context without its stack would only mislead.
    if args.wipe:
        context_file.remove(context_file.config_file(Path.cwd()))
    text = f"down: {count} processes ended in {time.monotonic() - started:.0f} s" if count else "nothing was running"
    text += "; its data, logs, secrets and context are removed" if args.wipe else ""
    emit(args, {"ended": count, "wiped": args.wipe, "seconds": round(time.monotonic() - started, 1)}, text)
    return 0


def _stack() -> Stack:
    """Returns the stack of this `.isnet/`."""
    # In the home of the local context, even if another context is chosen.
    return Stack(resolve("local").home / "stack")


def _line(part: ComponentStatus) -> str:
    text = f"{part.name:<10} {part.state:<7} {part.address:<28} {part.rss_bytes / 2**20:6.0f} MiB"
    return text if part.state == "up" else f"{text}  {part.what}; log: {part.log}"


def _payload(part: ComponentStatus) -> dict[str, object]:
    return {**asdict(part), "pids": list(part.pids)}
