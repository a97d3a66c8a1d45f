"""Folders of a queued job, as archives in the store.

A job may start days later, from another machine than the one that submitted it. Equal folders are stored once.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from trainplane.cluster.jobs.upload import check_upload, files_to_send, folder_digest
from trainplane.errors import RunFailed
from trainplane.storage import NotFound, Store

# One moment for all members, so that equal folders give equal archives.
_MOMENT = (1980, 1, 1, 0, 0, 0)


def store_folder(store: Store, folder: Path) -> str:
    """Stores a folder, unless it is there; returns its digest."""
    check_upload(folder)
    digest = folder_digest(folder)
    key = f"files/{digest}.zip"
    if store.size(key) is None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files_to_send(folder):
                member = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _MOMENT)
                member.external_attr = (path.stat().st_mode & 0o777) << 16
                archive.writestr(member, path.read_bytes())
        store.write(key, buffer.getvalue())
    return digest


def fetch_folder(store: Store, digest: str, target: Path) -> Path:
    """Unpacks a stored folder; `RunFailed` if gone or changed."""
    try:
        data = store.read(f"files/{digest}.zip")
    except NotFound:
        raise RunFailed(
            f"the files of this job, {digest[:12]}, are gone from {store.address}; submit it again"
        ) from None
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            path = (target / member.filename).resolve()
            if not path.is_relative_to(target.resolve()):
                raise RunFailed(
                    f"the files of this job, {digest[:12]}, name a path outside their folder; submit it again"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(member))
            path.chmod((member.external_attr >> 16) & 0o777 or 0o644)
    # Whoever may write there could have changed what runs.
    if folder_digest(target) != digest:
        raise RunFailed(f"the files of this job, {digest[:12]}, are not those that were submitted; submit it again")
    return target
