"""What the requests of this process met, counted for whoever shows it; free of boto3, which few runs need."""

from __future__ import annotations

import threading


class Tally:
    """A number that only grows, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add_one(self) -> None:
        with self._lock:
            self.value += 1


RETRIES = Tally()
