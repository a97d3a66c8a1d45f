"""`isnet gc` shows a plan and removes nothing; `--yes` does; what is needed is refused with who needs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def photos(folder: Path, numbers: range) -> str:
    folder.mkdir()
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number}.png")
    return str(folder)


def test_a_plan_a_removal_and_refusals(home: Path, tmp_path: Path, isnet) -> None:
    isnet("data", "pack", photos(tmp_path / "a", range(4)), "mine")
    isnet("data", "add", "mine", photos(tmp_path / "b", range(4, 6)))
    isnet("data", "pack", photos(tmp_path / "c", range(6, 8)), "unused")
    cached = home / "cache" / "models" / "package"
    cached.mkdir(parents=True)
    (cached / "weights").write_bytes(b"w" * 5000)
    # Young things stay.
    assert "nothing to remove" in isnet("gc").out
    planned = isnet("gc", "--older-than", "0")
    assert planned.status == 0
    assert "1 thing, 5 KB, would go; nothing was removed: `isnet gc --older-than 0 --yes`" in planned.out
    assert cached.exists()
    # Datasets go only where nothing uses them, and only if asked.
    listed = isnet("gc", "--older-than", "0", "--unused-datasets", "--kinds", "datasets", "--json").json()
    assert {Path(entry["address"]).name for entry in listed["removals"]} == {"mine", "000002", "unused"}
    refused = isnet("gc", "mine@1", "--yes")
    assert refused.status == 2
    assert f"cannot go: it is needed, by dataset {home}/datasets/mine/versions/000002; remove that first" in refused.err
    assert isnet("gc", "unsued").err.startswith("isnet: unsued: nothing is called so here; did you mean 'unused'?")
    # A name of two things means neither.
    (home / "cache" / "models" / "unused").write_bytes(b"x")
    assert "unused: 2 things are called so" in isnet("gc", "unused", "--yes").err
    (home / "cache" / "models" / "unused").unlink()
    assert "--kinds has 'cache'; did you mean 'caches'?" in isnet("gc", "--kinds", "cache").err
    assert isnet("gc", "unused", "--yes").status == 0
    assert isnet("gc", "--older-than", "0", "--yes", "--json").json()["bytes"] == 5000
    assert not cached.exists()
    assert isnet("data", "verify", "mine").status == 0
    assert isnet("data", "show", "unused").status == 2
