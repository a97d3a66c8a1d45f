"""Asks a cluster's autoscaler for nodes.

Ray's autoscaler starts nodes for demand that does not fit. A placement group that does not fit yet is such a demand. It
belongs to this job: it does not replace another job's, and ends with this job, unlike `request_resources`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

# Ray's own name of a node that no autoscaler started.
_UNTYPED = "node_"
_REPORT_WAIT_S = 5.0


def has_autoscaler(ray: Any) -> bool:
    """Tells if the connected cluster can start nodes."""
    if not ray.is_initialized():
        return False
    # A head that has just started has not reported yet; a private cluster never does.
    deadline = time.monotonic() + _REPORT_WAIT_S
    while (types := _types_of_status()) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return any(not name.startswith(_UNTYPED) for name in (*(types or ()), *_types_of_nodes(ray)))


def _types_of_status() -> list[str] | None:
    # The first autoscaler writes a status, whose report comes with its second round. Where the head was started by hand
    # it knows no types and names nodes itself.
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    try:
        status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS.encode()) or "null")
        types = status["autoscaler_report"]["node_type_mapping"].values()
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return [str(name) for name in types]


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
