"""A packaged model in a process that knows nothing of us: does it load by itself, and what does it answer?

The process has no path to this project, cannot import Ray or the training code, and refuses to unpickle. Where a
version comes from somebody else, its code runs there with the rights of whoever asks, as it would wherever it is used.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# What a model must do without: the cluster, the training code, this package.
BLOCKED = ("ray", "trainplane", "jobs", "timm", "torchmetrics", "webdataset", "boto3")
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
TIMEOUT_S = 300.0

_SCRIPT = """
import json, pickle, sys, time, warnings
began = time.perf_counter()
folder, rows, blocked = json.load(sys.stdin)

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} may not be needed by a packaged model")

sys.meta_path.insert(0, Blocked())
warnings.simplefilter("ignore")
import mlflow.pyfunc, pandas, torch

def refuse(*arguments, **options):
    raise RuntimeError("a packaged model may not unpickle anything")

class Refusing:
    __init__ = refuse

pickle.load = pickle.loads = torch.load = refuse
pickle.Unpickler = Refusing
imported = time.perf_counter()
model = mlflow.pyfunc.load_model(folder)
loaded = time.perf_counter()
answers, first = [], None
for row in rows:
    answers += json.loads(json.dumps(model.predict(pandas.DataFrame([row])).to_dict("records")))
    first = first or time.perf_counter() - loaded
code = {name: getattr(sys.modules[name], "__file__", None) for name in list(sys.modules) if name in sys.argv[1:]}
print(json.dumps({"answers": answers, "code": code, "seconds": {
    "import": imported - began, "load": loaded - imported, "first": first}}), file=sys.__stdout__)
"""


@dataclass(frozen=True)
class Probed:
    """What the process said. error -- None when all rows were answered; code -- file of the loader module

    seconds -- import: Python's packages; load: the model; first: its first answer
    """

    answers: tuple[Mapping[str, str], ...]
    seconds: Mapping[str, float]
    code: str | None
    error: str | None


def probe(
    model: Path, rows: Sequence[Mapping[str, str]], *, loader_module: str, timeout_s: float = TIMEOUT_S
) -> Probed:
    """Load the model folder in a fresh process and have it answer the rows, one call each."""
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory(prefix="trainplane-probe-") as elsewhere:
        try:
            done = subprocess.run(
                [sys.executable, "-c", _SCRIPT, loader_module],
                input=json.dumps([str(model.resolve()), [dict(row) for row in rows], list(BLOCKED)]),
                capture_output=True,
                text=True,
                env=environment,
                cwd=elsewhere,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Probed((), {}, None, f"it did not answer within {timeout_s:.0f} s")
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        return Probed((), {}, None, reason[:500])
    said = json.loads(lines[-1])
    return Probed(tuple(said["answers"]), said["seconds"], said["code"].get(loader_module), None)
