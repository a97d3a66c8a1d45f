"""Removes an attempt's placement group, also when Ray does not.

Ray Train's controller removes its group when it ends. If it is killed, a helper process of Ray's should do so, but that
dies of an error when two Ray clusters run on one machine. Then the ranks train on beside their successors, on CPUs that
those wait for. So the ranks report their group, and the process that started them removes it, which ends them.
"""

from __future__ import annotations

import logging
from typing import Any

from trainplane.cluster.ray_session import in_ray_job

log = logging.getLogger(__name__)

ANSWER_S = 10.0


def current_placement_group() -> str | None:
    """Id of the placement group that this process runs in."""
    from ray.util import get_current_placement_group

    group = get_current_placement_group()
    return None if group is None else str(group.id.hex())


class PlacementGroups:
    """Placement groups of a cluster, from before an attempt starts."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._before = self._existing()

    def remove(self, actor: Any) -> None:
        """Removes the attempt's placement group and its actor."""
        from ray import PlacementGroupID
        from ray.util import remove_placement_group
        from ray.util.placement_group import PlacementGroup

        try:
            reported = self._ray.get(actor.placement_group.remote(), timeout=ANSWER_S)
            existing = self._existing()
            # If the attempt ended before a rank could report, all new groups are ours, in a cluster of our own.
            ours = {reported} if reported else set() if in_ray_job() else existing - self._before
            for group in ours & existing:
                remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group)))
            # The actor is not part of the group.
            self._ray.kill(actor)
        except self._ray.exceptions.RayError as error:
            log.warning("the workers' placement group could not be removed: %s", error)

    def _existing(self) -> set[str]:
        from ray.util import placement_group_table

        return {name for name, entry in placement_group_table().items() if entry["state"] != "REMOVED"}
