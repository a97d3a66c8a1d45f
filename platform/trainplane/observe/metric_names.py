"""Metrics for Prometheus, by the names that its queries use.

Ray puts `ray_` before every metric of a program; elsewhere we do, so that one dashboard serves both.
"""

from __future__ import annotations

PREFIX = "ray_"

# Name without the prefix -> (what it is, its labels). All are gauges.
METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "isnet_run_active": ("1 while a rank trains, 0 when it has ended", ("run", "rank")),
    "isnet_run_step": ("global steps done", ("run", "rank")),
    "isnet_run_steps": ("global steps to do", ("run", "rank")),
    "isnet_run_samples_per_second": ("samples of all ranks, since the attempt began", ("run", "rank")),
    "isnet_run_phase_seconds": (
        "seconds of the main thread by phase, since the attempt began",
        ("run", "rank", "phase"),
    ),
    "isnet_run_checkpoint_step": ("step of the newest stored checkpoint, of rank 0", ("run", "rank")),
    "isnet_run_bad_steps": ("bad steps that the guard counted, of rank 0", ("run", "rank")),
    "isnet_run_store_retries": ("requests to the store that were repeated, since the process began", ("run", "rank")),
    "isnet_queue_jobs": ("jobs of the shared queue, by what they do", ("state",)),
    "isnet_queue_oldest_wait_seconds": ("time that the longest waiting job has waited", ()),
}
