"""What a submitted job runs first, on the cluster: `python -m jobs.cli.cluster_main COMMAND …`.

It looks whether the store and MLflow answer from here: an address that is right where the user sits may lead nowhere on
the cluster, and a run would find out after minutes of retries. Then it is `isnet COMMAND …`.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence

from trainplane.cluster.health import complaint

_TRIES, _PAUSE_S = 3, 2.0


def main(words: Sequence[str]) -> int:
    """Exit status of the command, or 2 where something does not answer and nothing was started."""
    from jobs.cluster.portable_args import addresses
    from trainplane.cluster.context import resolve
    from trainplane.errors import UserError

    try:
        context = resolve(None)
    except UserError as error:
        print(f"isnet: {error}", file=sys.stderr)
        return 2
    for address in addresses(context):
        if text := _persistent(address):
            print(
                f"isnet: {text}: it does not answer from {socket.gethostname()}, a node of the cluster, though it may "
                f"where you sit; give context {context.name!r} an address that the cluster reaches, or open the route",
                file=sys.stderr,
            )
            return 2
    from jobs.cli import main as cli

    return cli.main(list(words))


def _persistent(address: str) -> str | None:
    """The complaint of the last of a few tries: a server may be restarting."""
    for attempt in range(_TRIES):
        text = complaint(address, timeout_s=10.0)
        if text is None or attempt == _TRIES - 1:
            return text
        time.sleep(_PAUSE_S)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
