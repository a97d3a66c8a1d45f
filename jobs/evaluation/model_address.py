"""Completes what a user types as a model.

NAME, NAME@ALIAS and NAME/VERSION are short for `models:/…`, the beginning of a run's id is short for `runs:/ID`.
"""

from __future__ import annotations

import re

from trainplane.cluster.context import Context
from trainplane.errors import UserError
from trainplane.registry.find_version import find_version, full_address
from trainplane.registry.names import is_address, parse_address
from trainplane.registry.versions import ModelVersion, model_names
from trainplane.tracking.find_run import find_run, is_run_id

# Addresses that are complete as they stand.
_COMPLETE = ("classical:", "author:", "untrained:", "s3://", "/", ".", "~")
# The small model that ships with the package.
STARTER = "starter"
_CHECKPOINT = re.compile(r"(?:.*/)?step-\d+/?")
_CLASSICAL = ("mean", "telea", "ns", "biharmonic")
FORMS = (
    "NAME, NAME@ALIAS or NAME/VERSION of a registered model, runs:/ID, a checkpoint's address, author:PATH, "
    "starter, untrained:PRESET or classical:mean|telea|ns|biharmonic"
)


def complete_address(typed: str, context: Context) -> str:
    """Completes an address to `models:/…` or `runs:/ID`; others stay."""
    server = context.tracking_server
    if typed == STARTER or typed.startswith(_COMPLETE) or _CHECKPOINT.fullmatch(typed):
        return typed
    if typed.startswith("runs:/"):
        return f"runs:/{find_run(server, typed.removeprefix('runs:/')).info.run_id}"
    if typed.startswith("models:/"):
        return full_address(server, typed)
    if not is_address(typed):
        raise UserError(f"{typed!r} is not a model; need {FORMS}")
    names = model_names(server)
    if parse_address(typed).name in names:
        return full_address(server, typed)
    if is_run_id(typed):
        return f"runs:/{find_run(server, typed).info.run_id}"
    if typed in _CLASSICAL:
        raise UserError(f"{typed!r} is not a model; did you mean classical:{typed}?")
    raise UserError(f"{typed!r} is not a model (registered: {', '.join(names) or 'none yet'}); need {FORMS}")


def run_id_of(typed: str, context: Context) -> str:
    """Id of a run, its beginning, or its model."""
    server = context.tracking_server
    run_id = typed.removeprefix("runs:/")
    # An id has neither of these signs.
    if typed == run_id and ("@" in typed or "/" in typed):
        return _maker(find_version(server, typed))
    if not is_run_id(run_id) and is_address(typed) and typed in model_names(server):
        return _maker(find_version(server, typed))
    return run_id


def _maker(version: ModelVersion) -> str:
    if version.run_id is None:
        raise UserError(f"{version.address} does not say which run made it; name the run")
    return version.run_id
