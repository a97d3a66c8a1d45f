"""Exact moments of a run, for tests that kill something there: whoever comes to the armed one says so, and waits.

Files in one folder, because those who come there are many processes.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

MOMENTS = ("before", "staging", "upload", "commit")
HOLD_S = 60.0


@dataclass(frozen=True)
class Moments:
    """The moments of one checkpoint.

    before  -- in the step that ends in it
    staging -- while the state is copied
    upload  -- while its tensors are sent
    commit  -- at the first request after its manifest
    """

    folder: Path

    def arm(self, moment: str, step: int) -> None:
        """The next one to come to this moment waits there, nobody after it."""
        for name in ("reached", "go"):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / "writing").write_text(f"{moment} {step}")
        os.replace(self.folder / "writing", self.folder / "armed")

    def reach(self, moment: str, step: int) -> None:
        """Called where the moment is."""
        armed = self.folder / "armed"
        try:
            if armed.read_text() != f"{moment} {step}":
                return
            os.rename(armed, self.folder / "reached")
        except FileNotFoundError:
            return
        self._await("go", HOLD_S)

    def wait(self, timeout_s: float) -> bool:
        """Whether someone came there in time."""
        return self._await("reached", timeout_s)

    def let_go(self) -> None:
        with contextlib.suppress(FileExistsError):
            (self.folder / "go").touch(exist_ok=False)

    def _await(self, name: str, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if (self.folder / name).exists():
                return True
            time.sleep(0.01)
        return False
