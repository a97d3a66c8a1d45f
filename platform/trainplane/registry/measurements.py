"""Measurements that promotions made, stored beside the audit trail.

A gate believes no number from MLflow: everybody who may edit a version's tags could open it. A promotion measures
itself, and stores the scores under the digests of what was measured. There only promoters may write, and only once.
The next promotion of the same version, or against it, need not measure again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from trainplane.config.canonical import canonical_json
from trainplane.storage import NotFound, Store

# No registered model is called so: names begin with a letter or a digit.
_FOLDER = "audit/_measured"


def read_measurement(store: Store, subject: Mapping[str, str]) -> bytes | None:
    """Returns the stored measurement of exactly this subject, if any."""
    try:
        return store.read(_key(subject))
    except NotFound:
        return None


def store_measurement(store: Store, subject: Mapping[str, str], data: bytes) -> None:
    """Stores a measurement, unless there is one."""
    store.create(_key(subject), data)


def _key(subject: Mapping[str, str]) -> str:
    return f"{_FOLDER}/{hashlib.sha256(canonical_json(dict(subject))).hexdigest()}"
