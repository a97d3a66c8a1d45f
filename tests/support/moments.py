"""Exact moments of a run, for tests that kill something there: whoever comes to the armed one says so, and waits.

Files in one folder, because those who come there are many processes.
"""

from __future__ import annotations

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

    def clear(self) -> None:
        """Forget all moments of an earlier run."""
        for file in self.folder.iterdir():
            if not file.name.startswith("rank-"):
                file.unlink()

    def arm(self, moment: str, step: int) -> None:
        """The next one to come to this moment waits there, nobody after it."""
        (self.folder / "writing").write_text(f"{moment}-{step}")
        os.replace(self.folder / "writing", self.folder / "armed")

    def reach(self, moment: str, step: int) -> None:
        """Called where the moment is."""
        armed, name = self.folder / "armed", f"{moment}-{step}"
        try:
            if armed.read_text() != name:
                return
            os.rename(armed, self.folder / f"reached-{name}")
        except FileNotFoundError:
            return
        deadline = time.monotonic() + HOLD_S
        while not (self.folder / f"go-{name}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    def is_reached(self, moment: str, step: int) -> bool:
        """Whether someone came there."""
        return (self.folder / f"reached-{moment}-{step}").exists()

    def let_go(self, moment: str, step: int) -> None:
        (self.folder / f"go-{moment}-{step}").touch()
