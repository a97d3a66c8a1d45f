"""Entry point of a job on the cluster.

`python -m jobs.cli.cluster_main COMMAND …` first checks that the store and MLflow answer from here. An address that is
right on the user's machine may be unreachable here, and a run would fail only after minutes of retries.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence

from trainplane.cluster.health import health_error

_TRIES, _PAUSE_S = 3, 2.0


def main(argv: Sequence[str]) -> int:
    """Runs the command if all servers answer; else returns 2."""
    from jobs.cluster.portable_args import required_addresses
    from trainplane.cluster.context import resolve
    from trainplane.errors import UserError

    try:
        # The context travelled with the job, in its current folder.
        context = resolve(None)
    except UserError as error:
        print(f"isnet: {error}", file=sys.stderr)
        return 2
    # Each server, seen from this node.
    for address in required_addresses(context):
        if reason := _unreachable(address):
            print(
                f"isnet: {reason}: it does not answer from {socket.gethostname()}, a node of the cluster, although it "
                f"may answer on your machine; give context {context.name!r} an address that the cluster reaches, or "
                "open the route",
                file=sys.stderr,
            )
            return 2
    # All answer: run the command as on the user's machine.
    from jobs.cli import main as cli

    return cli.main(list(argv))


def _unreachable(address: str) -> str | None:
    """Returns the reason if a server does not answer."""
    # A few attempts, as a server may be restarting.
    for attempt in range(_TRIES):
        reason = health_error(address, timeout_s=10.0)
        if reason is None or attempt == _TRIES - 1:
            return reason
        time.sleep(_PAUSE_S)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
