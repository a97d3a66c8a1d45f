"""Finds the version that a model's short name means."""

from __future__ import annotations

from trainplane.command_line import command_line
from trainplane.errors import UserError
from trainplane.registry.names import parse_address
from trainplane.registry.rules import PRODUCTION
from trainplane.registry.versions import ModelVersion, RegisteredModel, model_names
from trainplane.tracking.client import TrackingServer

# The model that is meant where several are registered.
USUAL_NAME = "isnet"


def full_address(server: TrackingServer, address: str) -> str:
    """Completes NAME, NAME@ALIAS or NAME/VERSION to an address.

    A bare name means the version that is served, and before the first promotion the newest one.
    """
    parts = parse_address(address)
    if parts.version is not None:
        return f"models:/{parts.name}/{parts.version}"
    if parts.alias is not None:
        return f"models:/{parts.name}@{parts.alias}"
    model = RegisteredModel(server, parts.name)
    if PRODUCTION in model.aliases():
        return f"models:/{parts.name}@{PRODUCTION}"
    versions = model.versions()
    if not versions:
        raise UserError(
            f"{parts.name!r} has no version; register one: "
            + command_line("models", "register", "RUN", "--name", parts.name)
        )
    return versions[0].address


def find_version(server: TrackingServer, address: str) -> ModelVersion:
    """The version at NAME, NAME@ALIAS or NAME/VERSION."""
    return ModelVersion.at(server, full_address(server, address))


def only_model(server: TrackingServer) -> str | None:
    """Address of the only model, or else of `isnet@production`.

    None where no model is registered.
    """
    names = model_names(server)
    if not names:
        return None
    if len(names) == 1:
        return full_address(server, names[0])
    if USUAL_NAME in names and PRODUCTION in RegisteredModel(server, USUAL_NAME).aliases():
        return f"models:/{USUAL_NAME}@{PRODUCTION}"
    raise UserError(f"no model is named, and several are registered here; choose with --model {' or '.join(names)}")
