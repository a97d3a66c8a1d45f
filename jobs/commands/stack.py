"""`isnet stack up·status·down`: a local stack of real parts, and the context `stack` that leads to it."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

from jobs.cli.main import emit
from trainplane.cluster import context_file
from trainplane.cluster.context import resolve
from trainplane.cluster.stack.stack import PartStatus, Stack


def up(args: argparse.Namespace) -> int:
    """`isnet stack up`"""
    file, stack = context_file.config_file(Path.cwd()), _stack()
    context_file.check(file)
    begun = time.monotonic()
    stack.up(store=args.store, timeout_s=args.timeout, say=_say)
    values, secrets = stack.context()
    context_file.write(file, values, secrets)
    took_s = time.monotonic() - begun
    parts = stack.status()
    lines, store = [_line(part) for part in parts], stack.site.load().store
    if store == "moto":
        lines.append("store      is a MOCK: its objects are in memory and go with `down`; for a real one install Ceph")
    password = secrets["MLFLOW_TRACKING_PASSWORD"]
    lines += [
        f"up after {took_s:.0f} s; every command runs on it with --context {context_file.NAME} ({file})",
        f"MLflow's pages: {values['tracking']}, user admin, password in {password}",
    ]
    payload = {
        "context": context_file.NAME,
        "file": str(file),
        "seconds": round(took_s, 1),
        "store": store,
    }
    emit(args, {**payload, "parts": [_payload(part) for part in parts]}, "\n".join(lines))
    return 0 if all(part.state == "up" for part in parts) else 1


def status(args: argparse.Namespace) -> int:
    """`isnet stack status`"""
    parts = _stack().status()
    is_up = bool(parts) and all(part.state == "up" for part in parts)
    text = "\n".join(_line(part) for part in parts) or "there is no stack here; `isnet stack up` starts one"
    emit(args, {"ok": is_up, "parts": [_payload(part) for part in parts]}, text)
    return 0 if is_up else 1


def down(args: argparse.Namespace) -> int:
    """`isnet stack down`"""
    begun, stack = time.monotonic(), _stack()
    count = stack.down(wipe=args.wipe, say=_say)
    if args.wipe:
        context_file.remove(context_file.config_file(Path.cwd()))
    text = f"down: {count} processes ended in {time.monotonic() - begun:.0f} s" if count else "nothing was running"
    text += "; nothing of it is left" if args.wipe else ""
    emit(args, {"ended": count, "wiped": args.wipe, "seconds": round(time.monotonic() - begun, 1)}, text)
    return 0


def _stack() -> Stack:
    """One for each `.isnet/`; the local context's home, whichever context is chosen."""
    return Stack(resolve("local").home / "stack")


def _say(text: str) -> None:
    print(f"isnet: {text}", file=sys.stderr, flush=True)


def _line(part: PartStatus) -> str:
    text = f"{part.name:<10} {part.state:<7} {part.address:<28} {part.rss_bytes / 2**20:6.0f} MiB"
    return text if part.state == "up" else f"{text}  {part.what}; log: {part.log}"


def _payload(part: PartStatus) -> dict[str, object]:
    return {**asdict(part), "pids": list(part.pids)}
