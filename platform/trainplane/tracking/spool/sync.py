"""All spools of this machine: list them, send them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from trainplane.tracking.client import TrackingServer, without_secrets
from trainplane.tracking.run_id import is_reserved
from trainplane.tracking.spool.meta import read_meta, write_meta
from trainplane.tracking.spool.upload import OnVersion, UploadResult, count_unsent, upload


@dataclass(frozen=True)
class UnsentSpool:
    """Number of a run's records that wait for a server."""

    run_id: str
    tracking: str | None  # None: it cannot be read
    records: int


def unsent_spools(root: Path) -> list[UnsentSpool]:
    """Spools under `root` with records that MLflow has not acknowledged."""
    spools = []
    for path in sorted(root.glob("*/about.json")):
        meta = read_meta(path.parent)
        if records := count_unsent(path.parent):
            spools.append(UnsentSpool(meta.run_id, meta.tracking, records))
    return spools


def sync_spools(
    root: Path, server: TrackingServer, *, also: str | None = None, on_version: OnVersion | None = None
) -> dict[str, UploadResult]:
    """Uploads all spools of one server; results by run id.

    `also` is another address whose spools go to `server` from now on; `on_version` as in `upload`.
    """
    client = server.client
    addresses = {without_secrets(address) for address in (server.address, also) if address}
    results = {}
    # Reserved ids first: a result, whose folder has MLflow's id, may refer to runs that their own spools create.
    for path in sorted(root.glob("*/about.json"), key=lambda path: (not is_reserved(path.parent.name), path)):
        folder, meta = path.parent, read_meta(path.parent)
        if meta.tracking in addresses:
            # From now on its records are for this server, even if this upload fails.
            write_meta(folder, replace(meta, tracking=server.public_address))
            # The upload may give the run its id.
            result = upload(folder, client, on_version=on_version)
            results[read_meta(folder).run_id] = result
    return results
