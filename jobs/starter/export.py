"""Makes the average of a run's generator the starter.

python -m jobs.starter.export CHECKPOINT
"""

from __future__ import annotations

import argparse
import json

from isnet.served import TRAINED
from jobs.evaluation.models import load_task
from jobs.starter import FOLDER, digest


def export(checkpoint: str) -> str:
    """Writes weights, configuration and origin; returns the digest."""
    task, loaded = load_task(checkpoint)
    task.export(FOLDER)
    trained = json.loads((FOLDER / TRAINED).read_text(encoding="utf-8"))
    trained["steps"] = loaded.state.step
    (FOLDER / TRAINED).write_text(json.dumps(trained, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return digest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="make a checkpoint's generator the starter")
    parser.add_argument("checkpoint", help="address of a run's checkpoints, or of one step")
    print(export(parser.parse_args().checkpoint))
