"""Keys and texts in a form that MLflow accepts.

MLflow (3.17.2) refuses a whole request for one name that it does not like. So every metric, parameter and tag of any
writer is made here. What is valid stays as it is; from anything else a digest of the original keeps different names
different.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from typing import Any

# Limits of MLflow's validation, and of its tables where these are narrower.
MAX_KEY = 250
MAX_PARAM = 6000
MAX_TAG = 8000
MAX_MODEL_TAG = 100_000
MAX_RUN_NAME = 250
MAX_DATASET_NAME = 500
MAX_DESCRIPTION = 5000
MAX_VIEW = 20_000
_DIGITS = 12
_REFUSED = re.compile(r"[^\w.\- :/]")


def valid_key(name: str) -> str:
    """Key of a metric, parameter or tag."""
    if _is_valid(name):
        return name
    readable = _REFUSED.sub("_", name)
    # MLflow takes keys for paths: no empty part, none that leads upwards.
    parts = [re.sub(r"^\.{1,2}$", "_", part) or "_" for part in readable.split("/")]
    readable = re.sub(r"^\.\.", "__", "/".join(parts))
    return f"{readable[: MAX_KEY - _DIGITS - 1]}-{_digest(name)}"


def valid_text(text: str, limit: int) -> str:
    """Value of at most `limit` characters that any database stores."""
    # Bytes of file names that are no UTF-8 come as lone surrogates, and PostgreSQL stores no NUL.
    storable = text.encode("utf-8", errors="backslashreplace").decode().replace("\0", "\\x00")
    if len(storable) <= limit:
        return storable
    return f"{storable[: limit - _DIGITS - 2]}… {_digest(text)}"


def metric(key: str, value: float, time_ms: int, step: int) -> Any:
    """MLflow's metric."""
    from mlflow.entities import Metric

    return Metric(valid_key(key), float(value), time_ms, step)


def param(key: str, value: str) -> Any:
    """MLflow's parameter."""
    from mlflow.entities import Param

    return Param(valid_key(key), valid_text(value, MAX_PARAM))


def run_tag(key: str, value: Any) -> Any:
    """MLflow's tag of a run."""
    from mlflow.entities import RunTag

    return RunTag(valid_key(key), valid_text(str(value), MAX_TAG))


def dataset(*, name: str, **fields: str) -> Any:
    """MLflow's dataset of a run."""
    from mlflow.entities import Dataset

    return Dataset(name=valid_text(name, MAX_DATASET_NAME) or "unnamed", **fields)


def _is_valid(name: str) -> bool:
    return (
        0 < len(name) <= MAX_KEY
        and not _REFUSED.search(name)
        and posixpath.normpath(name) == name
        and name != "."
        and not name.startswith(("..", "/"))
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:_DIGITS]
