"""Arguments of `isnet serve`."""

from __future__ import annotations

import argparse
from typing import Any

from jobs.cli.arg_types import command, count, number, port, size


def share(text: str) -> float:
    """Parses a share of the traffic: 0.1 or 10%."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; need one such as 0.1 or 10%") from error
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share; need more than 0 and at most 1, such as 0.1")
    return value


def share_or_word(text: str) -> float | str:
    """Parses a share, `shadow` or `off`."""
    return text if text in ("shadow", "off") else share(text)


def serve(commands: Any) -> None:
    """Adds `isnet serve`."""
    parser = command(commands, "serve", "commands.serve:serve", "a page and an API over versions of a registered model")
    parser.add_argument("name", metavar="NAME", help="registered model")
    parser.add_argument(
        "--alias", default="production", metavar="ALIAS", help="served and followed, default production"
    )
    # A second version, and its part of the traffic.
    parser.add_argument("--candidate", metavar="VERSION", help="a version that is offered beside it")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--shadow", action="store_true", help="mirror requests to the candidate; nobody sees its answers")
    mode.add_argument("--canary", type=share, metavar="SHARE", help="of the requests, answered by the candidate: 0.1")
    parser.add_argument(
        "--widen", action="store_true", help="let a canary's share widen by itself, as far as its gates pass"
    )
    # Where, and how much at once.
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on, default 127.0.0.1")
    parser.add_argument("--port", type=port, default=8080, metavar="N", help="default 8080; 0: a free one")
    parser.add_argument("--workers", type=count, metavar="N", help="fills at once (default: half of the processors)")
    parser.add_argument("--queue", type=count, default=64, metavar="N", help="requests that may wait, default 64")
    parser.add_argument(
        "--max-bytes", type=size, default=128 << 20, metavar="SIZE", help="of a request's body, default 128M"
    )
    parser.add_argument(
        # A quarter of a GiB as 24-bit RGB, as everywhere.
        "--max-pixels",
        type=number,
        default=89_478_485,
        metavar="N",
        help="of a photo, default 89478485",
    )
    parser.add_argument(
        "--keep",
        choices=("none", "facts", "pictures"),
        default="facts",
        help="the most that is recorded of a request; pictures only where the user agrees (default: facts)",
    )
    # On Ray Serve: pip install 'isnet-platform[serve]'.
    parser.add_argument("--on-ray", action="store_true", help="compute on replicas of Ray Serve")
    parser.add_argument("--replicas", type=count, default=1, metavar="N", help="with --on-ray, default 1")
    parser.add_argument("--gpus", type=float, default=0.0, metavar="N", help="of each replica, such as 0.5; default 0")


def share_of_model(actions: Any) -> None:
    """Adds `isnet models share`."""
    parser = command(
        actions, "share", "commands.serve:change_share", "give a candidate a share of the traffic, or take it away"
    )
    parser.add_argument("name", metavar="NAME", help="registered model")
    parser.add_argument("version", metavar="VERSION", help="the candidate")
    parser.add_argument(
        "share",
        metavar="SHARE",
        type=share_or_word,
        help="of the requests, such as 0.1 or 10%%; shadow: mirrored alone; off: none",
    )
    parser.add_argument("--to", default="production", metavar="ALIAS", help="default production")
    parser.add_argument("--reason", default="by hand", metavar="TEXT", help="kept in the audit")
