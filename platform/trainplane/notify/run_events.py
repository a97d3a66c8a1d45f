"""Events of one run, and the listener for its notices."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trainplane.notify.event import Event, Notice
from trainplane.train.spec import Progress

_STATUS = {"FINISHED": "run.finished", "FAILED": "run.failed", "KILLED": "run.stopped"}


@dataclass(frozen=True)
class RunFacts:
    """Facts in every event of a run."""

    run_id: str
    name: str
    page: str = ""  # Address of its page, if there is one

    def to_json(self) -> dict[str, str]:
        """Facts for programs."""
        return {"run_id": self.run_id, "name": self.name, **({"page": self.page} if self.page else {})}


def run_ended(
    run: RunFacts, status: str, *, reason: str = "", step: int | None = None, metrics: Mapping[str, float] | None = None
) -> Event:
    """Event of a run's end.

    Args:
        run: The run.
        status: MLflow's `FINISHED`, `FAILED` or `KILLED`.
        reason: Why it ended, if not by its last step.
        step: Steps done.
        metrics: The last validation's.
    """
    word = {"FINISHED": "finished", "KILLED": "was stopped"}.get(status, "failed")
    where = "" if step is None else f" at step {step}"
    figures = ", ".join(f"{name} {value:.4g}" for name, value in (metrics or {}).items())
    lines = [reason, figures, f"run {run.run_id}", run.page]
    return Event.of(
        _STATUS.get(status, "run.failed"),
        f"{run.name} {word}{where}",
        "\n".join(line for line in lines if line),
        # A run that goes on after its end ends again.
        once=(run.run_id, uuid.uuid4().hex),
        **run.to_json(),
        status=status,
        step=step,
        reason=reason,
        metrics=dict(metrics or {}),
    )


def run_found_dead(run_id: str) -> Event:
    """Event of a run whose process died."""
    return Event.of(
        "run.failed",
        f"run {run_id[:8]} was found dead",
        f"its process ended without closing the run; the same command resumes it\nrun {run_id}",
        once=(run_id, uuid.uuid4().hex),
        run_id=run_id,
        status="FAILED",
    )


def run_notice(run: RunFacts, notice: Notice) -> Event:
    """Event of a message that a run sent."""
    lines = [str(notice), f"run {run.run_id}", run.page]
    # After a kill the same step says the same again.
    once = (run.run_id, str(notice))
    text = "\n".join(line for line in lines if line)
    return Event.of(notice.kind, f"{run.name}: {_TITLES[notice.kind]}", text, once=once, **run.to_json())


_TITLES = {
    "run.bad_step": "a bad step",
    "run.stalled": "it does not move",
    "run.retried": "a worker was lost",
    "node.blamed": "a node's GPU failed",
    "budget.near": "80 % of its time is used",
}


class NoticeListener:
    """Progress display that also tells about notices."""

    def __init__(self, shown: Progress, tell: Callable[[Notice], object]) -> None:
        """Wraps a display."""
        self._shown, self._tell = shown, tell

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        """Shows the progress."""
        self._shown.update(step, steps, pictures_per_s, metrics)

    def emit(self, message: str) -> None:
        """Shows a message, and tells about a notice."""
        self._shown.emit(message)
        if isinstance(message, Notice):
            self._tell(message)
