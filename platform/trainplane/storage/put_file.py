"""Command that adds files to a store.

    python -m trainplane.storage.put_file FILE… s3://BUCKET/PREFIX

For backups (infra/k8s/components/backup). Keys come from the usual AWS variables.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from trainplane.errors import RunFailed, UserError
from trainplane.storage import open_store


def put_files(files: Sequence[Path], address: str) -> None:
    """Adds files below an address; replaces none."""
    store = open_store(address)
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is not a file; nothing of it was added to {address}")
        # A backup is never replaced by a later one of the same name.
        if store.size(file.name) is not None:
            raise UserError(f"{address} has {file.name} already; rename the file")
        store.write(file.name, file)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    if len(argv) < 2:
        print("usage: python -m trainplane.storage.put_file FILE… s3://BUCKET/PREFIX", file=sys.stderr)
        return 2
    try:
        put_files([Path(name) for name in argv[:-1]], argv[-1])
    except (UserError, RunFailed) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
