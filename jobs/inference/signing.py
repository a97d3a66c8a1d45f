"""Signs filled pictures where the context says so.

`provenance = "FOLDER"` of a context names certificates and a key; `isnet config certificate FOLDER` makes some.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from isnet.errors import InputError
from isnet.images.photo import read_photo
from isnet.images.provenance import Identity, Origin, read_credentials
from trainplane.cluster.context import Context
from trainplane.errors import UserError
from trainplane.registry.names import parse_address
from trainplane.registry.versions import ModelVersion
from trainplane.storage import Store


@dataclass(frozen=True)
class Signing:
    """Signer, with the model that filled."""

    identity: Identity
    origin: Origin

    def __call__(
        self, data: bytes, suffix: str, *, original: bytes, original_format: str, hole: NDArray[np.bool_]
    ) -> bytes:
        """Signs an encoded picture; arguments as `Identity.sign`."""
        return self.identity.sign(
            data, suffix, original=original, original_format=original_format, hole=hole, origin=self.origin
        )

    def store(self, store: Store, key: str, data: bytes, *, original: bytes) -> bytes:
        """Stores a signed picture once, and returns what is stored.

        Each signing gives other bytes. Where this fill is stored already, by a process that was killed or runs beside
        this one, that file stays, so that all records name the same.

        Args:
            store: Where to.
            key: Of the picture.
            data: The signed picture.
            original: The photo's file before.
        """
        if store.create(key, data):
            return data
        stored = store.read(key)
        if self._is_same_fill(stored, data, PurePosixPath(key).suffix, original):
            return stored
        # Another file, from before this job.
        store.write(key, data)
        return data

    def _is_same_fill(self, stored: bytes, data: bytes, suffix: str, original: bytes) -> bool:
        try:
            credentials = read_credentials(stored, suffix, anchors=self.identity.chain)
            if credentials.state != "trusted" or credentials.original != hashlib.sha256(original).hexdigest():
                return False
            models = [(edit["model"], edit["version"]) for edit in credentials.edits]
            if models[-1:] != [(self.origin.model, self.origin.version)]:
                return False
            return np.array_equal(read_photo(stored).pixels, read_photo(data).pixels)
        # Not even a picture.
        except InputError:
            return False

    def without_version(self) -> Signing:
        """Signing that names the model alone, for blind votes."""
        return replace(self, origin=Origin(self.origin.model))


def signing_of(context: Context, pinned: str) -> Signing | None:
    """Signs with the context's certificates; None if it has none.

    Args:
        context: Its `provenance` and its registry.
        pinned: Address of the model, without an alias.

    Raises:
        InputError: There are no such certificates.
    """
    identity = identity_of(context)
    return None if identity is None else Signing(identity, origin_of(context, pinned))


def identity_of(context: Context, *, signs: bool = True) -> Identity | None:
    """Reads the context's certificates; None if it names none.

    Without `signs` they may be some that have ended, which still check a signature.
    """
    return None if context.provenance is None else Identity.read(Path(context.provenance), signs=signs)


def signer_of(context: Context) -> str:
    """Sha256 of the context's certificates; empty if it names none."""
    identity = identity_of(context)
    return "" if identity is None else hashlib.sha256(identity.chain).hexdigest()


def origin_of(context: Context, pinned: str) -> Origin:
    """Names the model of an address without an alias."""
    if not pinned.startswith("models:/"):
        return Origin(pinned)
    parts = parse_address(pinned)
    if parts.version is None:
        raise UserError(f"{pinned} names no version; a signature says which one filled")
    version = ModelVersion(context.tracking_server, parts.name, parts.version)
    return Origin(parts.name, parts.version, version.model_digest or "")
