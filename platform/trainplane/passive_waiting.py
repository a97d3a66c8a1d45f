"""Makes threads of parallel regions sleep while they wait.

OpenMP's threads spin by default. As soon as other work wants the cores, spinning takes them from the thread that
everybody waits for: a step on two threads was 3 to 12 times slower than on one (`isnet bench threads`). How work is
divided among threads does not change, so results keep their bits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

# The standard's variable, and those of GNU's and Intel's runtimes. Each runtime reads them once, when it is loaded.
_SLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
NAMES = tuple(_SLEEP)


def passive_waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that make threads sleep; values that are set win."""
    # The other two would overrule this choice.
    if environment.get("OMP_WAIT_POLICY", "").strip().upper() == "ACTIVE":
        return {name: environment[name] for name in NAMES if name in environment}
    return {name: environment.get(name, value) for name, value in _SLEEP.items()}


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets the variables; call it before torch is imported."""
    environment.update(passive_waiting(environment))
