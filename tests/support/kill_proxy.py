"""The object store's proxy in a process of its own: `kill_proxy.py ENDPOINT PORT FOLDER`, until it is killed.

It sees a checkpoint's requests go by, and so knows two of the moments.
"""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path

from moments import Moments

from trainplane.testing.fault_proxy import FaultProxy

_SENT = re.compile(r"/step-(\d+)/(tensors\.safetensors|manifest\.json)$")


class Watcher:
    """A fault that spoils nothing."""

    def __init__(self, moments: Moments) -> None:
        self._moments = moments
        self._committed = 0

    def __call__(self, method: str, path: str, number: int) -> None:
        if self._committed:
            step, self._committed = self._committed, 0
            self._moments.reach("commit", step)
        sent = _SENT.search(path) if method == "PUT" else None
        if sent and sent[2] == "manifest.json":
            self._committed = int(sent[1])
        elif sent:
            self._moments.reach("upload", int(sent[1]))


def main(endpoint: str, port: str, folder: str) -> None:
    with FaultProxy(endpoint, port=int(port)) as proxy:
        proxy.fault = Watcher(Moments(Path(folder)))
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
