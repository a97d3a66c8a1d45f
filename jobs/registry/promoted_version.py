"""Opens a version by alias; tells of moves by hand."""

from __future__ import annotations

from trainplane.cluster.context import Context
from trainplane.notify.model_events import alias_moved_by_hand
from trainplane.notify.notifier import Notifier
from trainplane.registry.alias_check import AliasMoved, audited_version
from trainplane.registry.versions import ModelVersion
from trainplane.storage import open_store


def promoted_version(context: Context, address: str) -> ModelVersion:
    """Finds the version of `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        AliasMoved: The alias is not where the audit trail says.
    """
    try:
        return audited_version(context.tracking_server, address, open_store(context.audit))
    except AliasMoved as error:
        Notifier(context).tell(alias_moved_by_hand(error.name, str(error)))
        raise
