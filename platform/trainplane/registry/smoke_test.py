"""Smoke test of a packaged model in a fresh process.

It shows that the model loads by itself, and what it answers. The process has no path to this project, cannot import
Ray or the training code, and refuses to unpickle. It is no sandbox: a process of the same user can read this one's
environment. So it is only for packages whose code is known (`package_code`).
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

from trainplane.passive_waiting import passive_waiting

# A model must work without the cluster, the training code and this package.
BLOCKED = ("ray", "trainplane", "jobs", "timm", "torchmetrics", "webdataset", "boto3")
_PASSED_VARIABLES = (
    *("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
)
TIMEOUT_S = 300.0

# Runs with the loader's module as argument, and with the folder, the rows and the blocked packages as JSON on standard
# input. Its last line of output is the JSON that `probe` reads.
_SCRIPT = """
import json, pickle, sys, time, warnings
started = time.perf_counter()
folder, rows, blocked = json.load(sys.stdin)

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} may not be needed by a packaged model")

# Whatever it imports from here on must be in the package or in its requirements.
sys.meta_path.insert(0, Blocked())
warnings.simplefilter("ignore")
import mlflow.pyfunc, pandas, torch

def refuse(*arguments, **options):
    raise RuntimeError("a packaged model may not unpickle anything")

class Refusing:
    __init__ = refuse

# Weights must come from a format that cannot run code.
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
    "import": imported - started, "load": loaded - imported, "first": first}}), file=sys.__stdout__)
"""


@dataclass(frozen=True)
class ProbeResult:
    """Answers of the process, and how long it took."""

    answers: tuple[Mapping[str, str], ...]  # one row for each request
    seconds: Mapping[str, float]  # `import`: Python's packages; `load`: the model; `first`: its first answer
    code: str | None  # file of the loader module
    error: str | None  # None where all rows were answered


def probe(
    model: Path, rows: Sequence[Mapping[str, str]], *, loader_module: str, timeout_s: float = TIMEOUT_S
) -> ProbeResult:
    """Sends each row to a package in one fresh process."""
    # Only what a program needs to run: no PYTHONPATH, no secrets.
    environment = {name: os.environ[name] for name in _PASSED_VARIABLES if name in os.environ}
    environment |= passive_waiting(os.environ)
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory(prefix="trainplane-probe-") as empty_folder:
        # No configuration and no keys of the user; and no bytecode is left in the package.
        environment |= {"HOME": empty_folder, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            process = subprocess.run(
                [sys.executable, "-c", _SCRIPT, loader_module],
                input=json.dumps([str(model.resolve()), [dict(row) for row in rows], list(BLOCKED)]),
                capture_output=True,
                text=True,
                env=environment,
                cwd=empty_folder,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return ProbeResult((), {}, None, f"it did not answer within {timeout_s:.0f} s")
    # Libraries may print before the report, which is the last line; an error's message is the last one, too.
    lines = process.stdout.strip().splitlines()
    if process.returncode or not lines:
        reason = (process.stderr.strip().splitlines() or [f"it ended with status {process.returncode}"])[-1]
        return ProbeResult((), {}, None, reason[:500])
    report = json.loads(lines[-1])
    return ProbeResult(tuple(report["answers"]), report["seconds"], report["code"].get(loader_module), None)
