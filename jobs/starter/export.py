"""Makes the average of a run's generator the starter.

python -m jobs.starter.export CHECKPOINT [--steps-before N]
"""

from __future__ import annotations

import argparse
import json

from isnet.served import TRAINED
from jobs.evaluation.models import load_task
from jobs.starter import FOLDER, digest


def export(checkpoint: str, *, steps_before: int = 0) -> str:
    """Writes weights, configuration and origin; returns the digest.

    `steps_before` were taken by the run that this one began at.
    """
    task, loaded = load_task(checkpoint)
    task.export(FOLDER)
    trained = json.loads((FOLDER / TRAINED).read_text(encoding="utf-8"))
    trained["steps"] = steps_before + loaded.state.step
    (FOLDER / TRAINED).write_text(json.dumps(trained, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return digest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="make a checkpoint's generator the starter")
    parser.add_argument("checkpoint", help="address of a run's checkpoints, or of one step")
    parser.add_argument("--steps-before", type=int, default=0, help="steps of the run that this one began at")
    args = parser.parse_args()
    print(export(args.checkpoint, steps_before=args.steps_before))
