"""`ray start …` that stays on loopback: `python -m trainplane.cluster.stack.ray_start start …`.

Ray replaces a node's address 127.0.0.1 by one that other machines reach, and listens on all of them then. It leaves the
address alone where it thinks that there can be no cluster of several machines, and in that case refuses to add a node.
So the command itself is told that there can, and what it starts that there cannot.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Ray's own command, with the address as it was given."""
    from ray._private import services
    from ray.scripts import scripts

    from trainplane.cluster.ray_session import ON_LOOPBACK

    services.resolve_ip_for_localhost = lambda host: host
    # Its children read this when they import Ray; this process has imported it.
    os.environ.update(ON_LOOPBACK)
    sys.argv[0] = "ray"
    scripts.main()


if __name__ == "__main__":
    main()
