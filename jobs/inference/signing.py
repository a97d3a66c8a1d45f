"""Signs filled pictures where the context says so.

`provenance = "FOLDER"` of a context names certificates and a key; `isnet config certificate FOLDER` makes some.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isnet.images.provenance import Identity, Origin
from trainplane.cluster.context import Context
from trainplane.errors import UserError
from trainplane.registry.names import parse_address
from trainplane.registry.versions import ModelVersion


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
    return None if identity is None else Signing(identity, _origin(context, pinned))


def identity_of(context: Context) -> Identity | None:
    """Reads the context's certificates; None if it names none."""
    return None if context.provenance is None else Identity.read(Path(context.provenance))


def _origin(context: Context, pinned: str) -> Origin:
    if not pinned.startswith("models:/"):
        return Origin(pinned)
    parts = parse_address(pinned)
    if parts.version is None:
        raise UserError(f"{pinned} names no version; a signature says which one filled")
    version = ModelVersion(context.tracking_server, parts.name, parts.version)
    return Origin(parts.name, parts.version, version.model_digest or "")
