"""Asks a cluster's autoscaler for nodes.

Ray's autoscaler starts nodes for demand that does not fit. A placement group that does not fit yet is such a demand. It
belongs to this job: it does not replace another job's, and ends with this job, unlike `request_resources`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

# Ray's own name of a node that no autoscaler started.
_UNTYPED = "node_"


def has_autoscaler(ray: Any) -> bool:
    """Tells if the connected cluster can start nodes."""
    if not ray.is_initialized():
        return False
    return any(not name.startswith(_UNTYPED) for name in (*_types_of_status(), *_types_of_nodes(ray)))


def _types_of_status() -> list[str]:
    # The first autoscaler writes a status. Where the head was started by hand it only reports, and knows no types.
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    try:
        status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS.encode()) or "{}")
        types = status.get("autoscaler_report", {}).get("node_type_mapping") or {}
    except (ValueError, AttributeError):
        return []
    return [str(name) for name in types.values()] if isinstance(types, dict) else []


def _types_of_nodes(ray: Any) -> list[str]:
    # The second one writes no status; Ray asks it.
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    if not is_autoscaler_v2():
        return []
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    return [node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes, *status.pending_nodes)]


AUTOSCALER_WAIT_S = 900.0
"""Time that a node may take: clouds need minutes to find, start and prepare one."""


def node_wait_s(setting: float | str, ray: Any) -> float:
    """Seconds to wait for missing nodes, from `train.wait_for_nodes`."""
    if isinstance(setting, str):
        return AUTOSCALER_WAIT_S if has_autoscaler(ray) else 0.0
    return setting


class NodeRequest:
    """Demand for nodes that the cluster lacks; `cancel` it."""

    def __init__(self, bundles: Sequence[Mapping[str, float]]) -> None:
        """Asks for all bundles, {resource: amount} of one worker each."""
        from ray.util import placement_group

        self._group = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")

    def is_met(self) -> bool:
        """True when nodes for all bundles are there, and reserved."""
        return bool(self._group.wait(0))

    def cancel(self) -> None:
        """Withdraws the demand, or frees what was reserved."""
        from ray.util import remove_placement_group

        remove_placement_group(self._group)
