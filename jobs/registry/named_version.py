"""Finds the version that a user names."""

from __future__ import annotations

from trainplane.cluster.context import Context
from trainplane.errors import UserError
from trainplane.registry.find_version import find_version
from trainplane.registry.names import parse_address
from trainplane.registry.versions import ModelVersion, RegisteredModel


def named_version(name: str, version: str | None, context: Context) -> ModelVersion:
    """Returns the version of NAME and VERSION.

    Args:
        name: NAME, or NAME/VERSION or NAME@ALIAS without a version.
        version: Number of the version, unless the name has it.
        context: Has the registry.

    Raises:
        UserError: No version is named, two are, or there is none.
    """
    server, parts = context.tracking_server, parse_address(name)
    if version is not None:
        if parts.version is not None or parts.alias is not None:
            raise UserError(f"{name} names a version, and so does {version}; give one of them")
        return ModelVersion(server, parts.name, version)
    if parts.version is None and parts.alias is None:
        numbers = [each.version for each in RegisteredModel(server, parts.name).versions()]
        RegisteredModel(server, parts.name).record()
        raise UserError(
            f"no version of {parts.name} is named (it has: {', '.join(numbers) or 'none'}); "
            f"give {parts.name}/VERSION, such as {parts.name}/{numbers[0] if numbers else 1}"
        )
    return find_version(server, name)
