"""The commands as functions, for scripts and notebooks.

    from jobs import api

    api.pack("~/Pictures", "mine")
    run = api.train("finetune", {"data.train": "mine", "train.steps": 200})
    version = api.register(run.run_id, name="garden")
    api.fill("photo.jpg", "mask.png", version.address).save("filled.png")

Each function is what the command of its name calls, and its outcome is an object. A mistake of the caller raises
`trainplane.errors.UserError` or `isnet.errors.InputError` with a sentence, a run that failed
`trainplane.errors.RunFailed`. Progress goes to standard error.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.api.datasets import pack as pack
    from jobs.api.evaluations import evaluate as evaluate
    from jobs.api.filling import fill as fill
    from jobs.api.filling import fill_files as fill_files
    from jobs.api.recorded_runs import compare as compare
    from jobs.api.recorded_runs import export_run as export_run
    from jobs.api.recorded_runs import runs as runs
    from jobs.api.registry import export_model as export_model
    from jobs.api.registry import models as models
    from jobs.api.registry import promote as promote
    from jobs.api.registry import register as register
    from jobs.api.registry import register_best as register_best
    from jobs.api.registry import sign as sign
    from jobs.api.registry import verify as verify
    from jobs.api.searches import tune as tune
    from jobs.api.training import branch as branch
    from jobs.api.training import train as train

# Module of each function; loaded when it is first named, because torch and Ray take seconds.
FUNCTIONS = {
    "pack": "datasets",
    "train": "training",
    "branch": "training",
    "tune": "searches",
    "evaluate": "evaluations",
    "fill": "filling",
    "fill_files": "filling",
    "register": "registry",
    "register_best": "registry",
    "promote": "registry",
    "models": "registry",
    "export_model": "registry",
    "sign": "registry",
    "verify": "registry",
    "runs": "recorded_runs",
    "compare": "recorded_runs",
    "export_run": "recorded_runs",
}
__all__ = sorted(FUNCTIONS)


def __getattr__(name: str) -> Any:
    if name in FUNCTIONS:
        return getattr(importlib.import_module(f"jobs.api.{FUNCTIONS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # What an editor or a notebook completes.
    return __all__
