"""What a group of ranks holds in a Ray cluster, given back for certain when its attempt has ended.

Ray Train's controller removes its placement group as it ends. Where it is killed, a helper of Ray's should do so, and
dies of an error itself wherever two Ray clusters run on one machine; then the ranks train on beside their successors,
on processors that those wait for. So ranks say where they are, and whoever started them removes that, which ends them.
"""

from __future__ import annotations

import logging
from typing import Any

from trainplane.cluster.ray_session import in_ray_job

log = logging.getLogger(__name__)

ANSWER_S = 10.0


def current_place() -> str | None:
    """The placement group that this process runs in, as text."""
    from ray.util import get_current_placement_group

    group = get_current_placement_group()
    return None if group is None else str(group.id.hex())


class Places:
    """Placement groups, from just before a group of ranks is started. `ray` is the connected module."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._before = self._standing()

    def clear(self, post: Any) -> None:
        """Remove what the ranks that talk through `post` still hold; they end, if they have not."""
        from ray import PlacementGroupID
        from ray.util import remove_placement_group
        from ray.util.placement_group import PlacementGroup

        try:
            named = self._ray.get(post.place.remote(), timeout=ANSWER_S)
            standing = self._standing()
            # Ended before a rank could say where: in a cluster of our own, what is new is ours.
            ours = {named} if named else set() if in_ray_job() else standing - self._before
            for place in ours & standing:
                remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(place)))
            self._ray.kill(post)
        except self._ray.exceptions.RayError as error:
            log.warning("what the workers held could not be given back: %s", error)

    def _standing(self) -> set[str]:
        from ray.util import placement_group_table

        return {name for name, facts in placement_group_table().items() if facts["state"] != "REMOVED"}
