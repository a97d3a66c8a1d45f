"""Runs `ray start` so that the node stays on loopback.

    python -m trainplane.cluster.stack.ray_start start …

Ray replaces a node's 127.0.0.1 by an address for other machines, and listens on all interfaces. It keeps the address
where a cluster of several machines seems impossible, and there it refuses to add a node. So the command itself is told
that it is possible, and its child processes that it is not.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs Ray's own command line without replacing the address."""
    from ray._private import services
    from ray.scripts import scripts

    from trainplane.cluster.ray_session import LOOPBACK_VARIABLES

    services.resolve_ip_for_localhost = lambda host: host
    # Its children read this when they import Ray; this process has imported it.
    os.environ.update(LOOPBACK_VARIABLES)
    sys.argv[0] = "ray"
    scripts.main()


if __name__ == "__main__":
    main()
