"""Polls for checkpoints: `checkpoint_reader.py ADDRESS POLLS DIFFERENT`.

It looks for the newest checkpoint POLLS times at least, and until it has read DIFFERENT ones. One that was not there at
the poll before is read whole, digests checked; one that was is looked at again: every file that its manifest names must
be there with its bytes. A checkpoint is half where its manifest stands and its files do not hold; one that retention
took away between two requests is none.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

from trainplane.errors import RunFailed
from trainplane.storage import Store, open_store
from trainplane.train.checkpoint.store import MANIFEST, Checkpoint, committed, read


def main(address: str, polls: str, different: str) -> None:
    """Polls, and prints counts by kind of answer."""
    store = open_store(address)
    counts: Counter[str] = Counter()
    digests: set[str] = set()
    last = ""
    while counts["polls"] < int(polls) or len(digests) < int(different):
        counts["polls"] += 1
        present = committed(store)
        if not present:
            counts["nothing"] += 1
            continue
        newest = present[-1]
        try:
            if newest.state_digest == last:
                _look_again(store, newest)
            else:
                digests.add(read(store, newest).state.digest())
                counts["read whole"] += 1
            last = newest.state_digest
        except RunFailed:
            counts["gone" if store.size(f"{newest.key}/{MANIFEST}") is None else "half"] += 1
    print(json.dumps({"half": 0, "gone": 0, "nothing": 0, **counts, "different": len(digests)}))


def _look_again(store: Store, checkpoint: Checkpoint) -> None:
    sizes = {entry.key.partition("/")[2]: entry.size for entry in store.list(f"{checkpoint.key}/")}
    for name, facts in checkpoint.manifest["files"].items():
        if sizes.get(name) != facts["bytes"]:
            raise RunFailed(f"{checkpoint.key}/{name} has {sizes.get(name)} bytes, need {facts['bytes']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
