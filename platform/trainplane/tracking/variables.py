"""Environment variables that MLflow's client reads, checked before it does.

MLflow reads them in the middle of a request, or when it is imported, and raises an error that names no remedy, and for
a token with a line end shows the token. No import of MLflow here: it takes seconds.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping

from trainplane.environ import SERVE_TOKEN_VARIABLE
from trainplane.errors import UserError

_SECRETS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN")
_HIDDEN = (*_SECRETS, "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", SERVE_TOKEN_VARIABLE)
# Sent as text of a header, which takes neither blanks nor other alphabets.
_TOKENS = ("MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN")
_WHOLE_NUMBER = re.compile(
    "MLFLOW_(HTTP|SQLALCHEMYSTORE|MULTIPART|ARTIFACT|DOWNLOAD|ASYNC_LOGGING)_[A-Z_]*"
    "(RETRIES|FACTOR|TIMEOUT|SIZE|RECYCLE|OVERFLOW|CONNECTIONS|IDLE|INTERVAL|COUNT|SECONDS|LENGTH)"
)
_NUMBER = re.compile("MLFLOW_(HTTP_REQUEST_BACKOFF_JITTER|SYSTEM_METRICS_SAMPLING_INTERVAL)")
_SWITCH = re.compile(
    "MLFLOW_((ENABLE|DISABLE|ALLOW|SUPPRESS|TRUNCATE)_[A-Z0-9_]+|HTTP_RESPECT_RETRY_AFTER_HEADER|HTTP_TCP_KEEPALIVE"
    "|TRACKING_INSECURE_TLS|TRACKING_AWS_SIGV4|S3_IGNORE_TLS|SQLALCHEMYSTORE_ECHO|CONFIGURE_LOGGING)"
)


def check_variables(environment: Mapping[str, str]) -> None:
    """Raises `UserError` for a value that MLflow cannot use."""
    for name, value in environment.items():
        if name in (*_SECRETS, "MLFLOW_TRACKING_USERNAME"):
            _check_secret(name, value)
        elif name.startswith("MLFLOW_") and (need := _need(name, value)):
            raise UserError(f"{name} is {value!r}; need {need}; correct it, or unset it")


def without_values(text: str) -> str:
    """Text without the values of secret variables."""
    for name in _HIDDEN:
        value = os.environ.get(name, "").strip()
        # A value of a few letters is in many words.
        if len(value) >= 4:
            text = text.replace(value, "…")
    return text


def _check_secret(name: str, value: str) -> None:
    # The value is never shown.
    if value != value.strip() or re.search(r"[\x00-\x1f\x7f]", value):
        raise UserError(f"{name} has a blank or a line end around its value; set it again without")
    if name in _TOKENS and re.search(r"[^\x21-\x7e]", value):
        raise UserError(f"{name} has a character that no token has, such as a blank; set it again")


def _need(name: str, value: str) -> str | None:
    """Values that a variable takes; None where this is one."""
    if name == "MLFLOW_LOGGING_LEVEL":
        is_level = isinstance(logging.getLevelName(value.upper()), int) or value.isdecimal()
        return None if is_level else "a level of logging: DEBUG, INFO, WARNING, ERROR or CRITICAL"
    if _SWITCH.fullmatch(name):
        return None if value.lower() in ("true", "false", "1", "0") else "true or false"
    if _WHOLE_NUMBER.fullmatch(name):
        return None if re.fullmatch(r"\s*-?\d+\s*", value) else "a whole number"
    if _NUMBER.fullmatch(name):
        return None if re.fullmatch(r"\s*\d*\.?\d+\s*", value) else "a number"
    return None
