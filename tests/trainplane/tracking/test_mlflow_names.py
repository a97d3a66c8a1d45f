"""Any name is recorded: readable where MLflow takes it as it is, never two names as one."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainplane.errors import RunFailed
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.mlflow_names import MAX_KEY, MAX_TAG, dataset, metric, param, run_tag, valid_key, valid_text
from trainplane.tracking.run_id import RunSpec
from trainplane.tracking.runs import find_or_create_run

REPOSITORY = Path(__file__).parents[3]
ODD_KEYS = [
    "",
    ".",
    "..",
    "/",
    "a//b",
    "../up",
    "a/",
    "a/../b",
    "m@1",
    "naïve/ψ",
    "tab\t",
    "end\n",
    "\udcff",
    "x" * 300,
]
# Characters that addresses, labels and file names bring, beside any others.
texts = st.one_of(st.text(max_size=300), st.text(alphabet="ab@/.: _-%\\\n\0\udcff", max_size=60))


@pytest.mark.parametrize("key", ["val/psnr", "isnet.model.ours", "time/step_s", "holes 10-20: psnr"])
def test_a_valid_key_stays_as_it_is(key: str) -> None:
    assert valid_key(key) == key


@given(st.lists(texts, min_size=2, max_size=8, unique=True))
def test_keys_are_short_different_and_stay_the_same(names: list[str]) -> None:
    keys = [valid_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(0 < len(key) <= MAX_KEY and valid_key(key) == key for key in keys)


def test_what_a_key_is_about_can_still_be_read() -> None:
    assert valid_key("isnet.model.demo@production").startswith("isnet.model.demo_production-")


@given(texts, st.integers(20, 400))
def test_a_text_fits_and_can_be_stored(text: str, limit: int) -> None:
    stored = valid_text(text, limit)
    assert len(stored) <= limit
    assert "\0" not in stored.encode().decode()


@pytest.fixture(scope="module")
def run(empty_tracking_db: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrackingServer, str]:
    root = str(tmp_path_factory.mktemp("artifacts"))
    shutil.copy(empty_tracking_db, f"{root}/mlflow.db")
    server = TrackingServer(f"sqlite:///{root}/mlflow.db")
    spec = RunSpec("odd names", run_key="odd", run_name="n" * 999, artifact_root=root, tags={"t@" * 200: "v" * 9999})
    return server, find_or_create_run(server, spec).run_id


def record(run: tuple[TrackingServer, str], names: list[str]) -> None:
    """Records each name as metric, parameter, tag and dataset, in one request as the sender does."""
    from mlflow.entities import DatasetInput

    server, run_id = run
    server.client.log_batch(
        run_id,
        metrics=[metric(name, 1.0, 1, 0) for name in names],
        params=[param(name, f"{name} {name}") for name in names],
        tags=[run_tag(name, name * 40) for name in names],
        synchronous=True,
    )
    inputs = [DatasetInput(dataset(name=name, digest="d", source_type="local", source="{}"), []) for name in names]
    server.client.log_inputs(run_id, inputs)
    data = server.client.get_run(run_id).data
    for name in names:
        assert valid_key(name) in data.metrics
        assert data.params[valid_key(name)] == valid_text(f"{name} {name}", 6000)
        assert data.tags[valid_key(name)] == valid_text(name * 40, MAX_TAG)


def test_mlflow_takes_odd_names(run: tuple[TrackingServer, str]) -> None:
    record(run, ODD_KEYS)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(texts, min_size=1, max_size=4, unique=True))
def test_mlflow_takes_any_name(run: tuple[TrackingServer, str], names: list[str]) -> None:
    record(run, names)


def test_a_refused_value_is_not_blamed_on_the_address(run: tuple[TrackingServer, str]) -> None:
    from mlflow.exceptions import MlflowException

    server, run_id = run
    with pytest.raises(MlflowException) as refused:
        server.client.set_tag(run_id, "m@1", "x", synchronous=True)
    error = server.unreachable(refused.value)
    assert isinstance(error, RunFailed)
    assert "refused a value" in str(error)
    assert "start the server" not in str(error)


def test_nobody_else_makes_entities_of_mlflow() -> None:
    made = {"Metric", "Param", "RunTag", "Dataset"}
    for root in ("platform/trainplane", "jobs"):
        for path in (REPOSITORY / root).rglob("*.py"):
            if path.name == "mlflow_names.py":
                continue
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
            of_mlflow = {
                name.name for node in imports if (node.module or "").startswith("mlflow") for name in node.names
            }
            for node in nodes:
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in made & of_mlflow, path
