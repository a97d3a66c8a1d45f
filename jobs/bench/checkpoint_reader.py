"""A reader in a process of its own, for `isnet bench checkpoint`: `checkpoint_reader ADDRESS POLLS`.

Each poll looks for the newest checkpoint and reads all of it, digests checked. A checkpoint is half where its manifest
stands and its files do not hold; one that retention took away between two requests is none.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

from trainplane.errors import RunFailed
from trainplane.storage import open_store
from trainplane.train.checkpoint import MANIFEST, committed, read


def main(address: str, polls: str) -> None:
    store = open_store(address)
    seen: Counter[str] = Counter()
    digests = set()
    wanted = int(polls)
    while seen["polls"] < wanted:
        seen["polls"] += 1
        present = committed(store)
        if not present:
            seen["nothing"] += 1
            continue
        try:
            digests.add(read(store, present[-1]).state.digest())
        except RunFailed:
            seen["gone" if store.size(f"{present[-1].key}/{MANIFEST}") is None else "half"] += 1
    print(json.dumps({"half": 0, "gone": 0, "nothing": 0, **seen, "different": len(digests)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
