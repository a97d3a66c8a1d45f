"""A registered model is self-contained, the same bytes are one version, and changed bytes are refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainplane.errors import RunFailed, UserError
from trainplane.registry.gates import GateVerdict
from trainplane.registry.names import parse_address
from trainplane.registry.package import download, model_digest, package, register
from trainplane.registry.promote import AuditedModel
from trainplane.registry.versions import ModelVersion, RegisteredModel, list_models
from trainplane.storage import open_store
from trainplane.task import Exported
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.run_id import RunSpec
from trainplane.tracking.run_record import RunRecord
from trainplane.tracking.runs import find_or_create_run
from trainplane.tracking.tracker import Tracker

FACTS = {"dataset_digest": "d" * 64, "config_digest": "c" * 64, "commit": "a" * 40}

LOADER = """
import json, pathlib

class Model:
    def __init__(self, suffix):
        self.suffix = suffix

    def predict(self, frame, params=None):
        return [{"image": f"{image}+{mask}{self.suffix}"} for image, mask in zip(frame["image"], frame["mask"])]

def _load_pyfunc(path):
    return Model(json.loads((pathlib.Path(path) / "weights.json").read_text())["suffix"])
"""


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Exported, Path]:
    code = tmp_path / "source" / "suffix_model"
    code.mkdir(parents=True)
    (code / "__init__.py").write_text("")
    (code / "serving.py").write_text(LOADER)
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "junk.pyc").write_bytes(os.urandom(8))
    data = tmp_path / "exported"
    data.mkdir()
    (data / "weights.json").write_text('{"suffix": "!"}')
    return Exported("suffix_model.serving", [code], ["numpy==2.4.6"]), data


@pytest.fixture
def run_id(tracking_uri: str, tmp_path: Path) -> str:
    client = TrackingServer(tracking_uri).client
    experiment = client.create_experiment("isnet", artifact_location=str(tmp_path / "artifacts"))
    return str(client.create_run(experiment).info.run_id)


@pytest.fixture
def isnet(tracking_uri: str) -> RegisteredModel:
    return RegisteredModel(TrackingServer(tracking_uri), "isnet")


def registered(model: RegisteredModel, folder: Path, run_id: str, step: int = 0) -> str:
    """The number of the version that is made of the folder."""
    return register(model, folder, run=RunRecord(model.server, run_id), facts=FACTS, step=step).version


def fetched(model: RegisteredModel, address: str, cache: Path) -> Path:
    return download(ModelVersion.at(model.server, address), cache)


def packaged(exported: tuple[Exported, Path], folder: Path, **options: Any) -> Path:
    task_export, data = exported
    return package(
        task_export,
        data=data,
        folder=folder,
        inputs=["image", "mask"],
        outputs=["image"],
        created_ms=1_700_000_000_000,
        example={"image": "a", "mask": "b"},
        metadata={"preset": "demo"},
        **options,
    )


def test_the_same_export_gives_the_same_bytes(exported: tuple[Exported, Path], tmp_path: Path) -> None:
    first = packaged(exported, tmp_path / "one")
    moved = tmp_path / "elsewhere"
    exported[1].rename(moved)
    second = packaged((exported[0], moved), tmp_path / "two")
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)
    assert model_digest(first) == model_digest(second)
    assert not [name for name in files if name.suffix in (".pkl", ".pickle", ".pyc", ".pt", ".pth")]


@pytest.mark.parametrize("damage", ["byte", "name", "missing", "extra"])
def test_any_change_of_a_model_changes_its_digest(exported: tuple[Exported, Path], tmp_path: Path, damage: str) -> None:
    model = packaged(exported, tmp_path / "model")
    before = model_digest(model)
    weights = model / "data" / "exported" / "weights.json"
    if damage == "byte":
        weights.write_text('{"suffix": "?"}')
    elif damage == "name":
        weights.rename(weights.with_name("weights2.json"))
    elif damage == "missing":
        weights.unlink()
    else:
        (model / "code" / "more.py").write_text("")
    assert model_digest(model) != before


def test_a_folder_that_exists_is_not_written_into(exported: tuple[Exported, Path], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match="exists already"):
        packaged(exported, tmp_path / "model")


def test_a_registered_model_loads_in_a_process_that_knows_only_mlflow(
    exported: tuple[Exported, Path], tmp_path: Path, isnet: RegisteredModel, tracking_uri: str, run_id: str
) -> None:
    version = registered(isnet, packaged(exported, tmp_path / "m"), run_id, step=7)
    isnet.server.client.set_registered_model_alias("isnet", "production", version)
    files = fetched(isnet, "models:/isnet@production", tmp_path / "cache")
    script = f"""
import mlflow
import pandas
mlflow.set_tracking_uri({tracking_uri!r})
for address in ("models:/isnet@production", {str(files)!r}):
    model = mlflow.pyfunc.load_model(address)
    rows = pandas.DataFrame([{{"image": "i", "mask": "m"}}])
    print(model.predict(rows)[0]["image"], model.metadata.metadata["preset"])
    print(model.metadata.signature.inputs.input_names(), model.metadata.signature.outputs.input_names())
"""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["i+m! demo", "['image', 'mask'] ['image']"] * 2
    # MLflow has left its traces beside the files by now; they are not part of the model.
    assert fetched(isnet, "models:/isnet@production", tmp_path / "cache") == files


def test_the_same_bytes_of_a_run_are_one_version(
    exported: tuple[Exported, Path], tmp_path: Path, isnet: RegisteredModel, run_id: str
) -> None:
    model = packaged(exported, tmp_path / "one")
    assert registered(isnet, model, run_id) == "1"
    again = packaged(exported, tmp_path / "two")
    assert registered(isnet, again, run_id) == "1"
    (exported[1] / "weights.json").write_text('{"suffix": "better"}')
    other = packaged(exported, tmp_path / "three")
    assert registered(isnet, other, run_id) == "2"
    known = isnet.as_json()
    assert [version["version"] for version in known["versions"]] == ["2", "1"]
    assert known["versions"][1]["model_digest"] == model_digest(model)
    assert len(isnet.server.client.get_run(run_id).outputs.model_outputs) == 2


@pytest.mark.parametrize("step", ["create_model_version", "create_registered_model", "finalize_logged_model"])
def test_a_registration_that_was_killed_is_completed_by_the_next(
    exported: tuple[Exported, Path], tmp_path: Path, isnet: RegisteredModel, tracking_uri: str, run_id: str, step: str
) -> None:
    model = packaged(exported, tmp_path / "m")
    script = f"""
import os, signal
from pathlib import Path
import mlflow
from trainplane.registry.names import parse_address
from trainplane.registry.package import register
from trainplane.registry.versions import RegisteredModel
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.run_record import RunRecord
setattr(mlflow.MlflowClient, {step!r}, lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
server = TrackingServer({tracking_uri!r})
register(RegisteredModel(server, "isnet"), Path({str(model)!r}), run=RunRecord(server, {run_id!r}), facts={FACTS!r})
"""
    assert subprocess.run([sys.executable, "-c", script], stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    assert registered(isnet, model, run_id) == "1"
    assert [version["version"] for version in isnet.as_json()["versions"]] == ["1"]
    assert model_digest(fetched(isnet, "models:/isnet/1", tmp_path / "cache")) == model_digest(model)


def test_an_artifact_that_was_changed_after_registration_is_refused(
    exported: tuple[Exported, Path], tmp_path: Path, isnet: RegisteredModel, run_id: str
) -> None:
    registered(isnet, packaged(exported, tmp_path / "m"), run_id)
    kept = fetched(isnet, "models:/isnet/1", tmp_path / "cache")
    [stored] = (tmp_path / "artifacts").rglob("weights.json")
    stored.write_text('{"suffix": "evil"}')
    # What was fetched while it was whole may be used on; what was not, or was damaged here, is fetched and refused.
    assert fetched(isnet, "models:/isnet/1", tmp_path / "cache") == kept
    (kept / "data" / "exported" / "weights.json").write_text("{}")
    for cache in ("cache", "other"):
        with pytest.raises(RunFailed, match="was changed after it was registered"):
            fetched(isnet, "models:/isnet/1", tmp_path / cache)
    assert list((tmp_path / "other").iterdir()) == []


def test_addresses_that_lead_nowhere_are_explained(
    exported: tuple[Exported, Path], tmp_path: Path, isnet: RegisteredModel, run_id: str
) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match=r"no registered model 'isnet' \(registered: none yet\)"):
        fetched(isnet, "models:/isnet@production", cache)
    registered(isnet, packaged(exported, tmp_path / "m"), run_id)
    with pytest.raises(UserError, match=r"alias 'production' points at nothing .*isnet models promote isnet"):
        fetched(isnet, "models:/isnet@production", cache)
    with pytest.raises(UserError, match=r"has no version 7 \(it has: 1\)"):
        fetched(isnet, "models:/isnet/7", cache)
    with pytest.raises(UserError, match="has no version 7"):
        isnet.version("7").checked()
    isnet.server.client.create_model_version("isnet", source=str(tmp_path), run_id=run_id)
    with pytest.raises(UserError, match="carries no digest"):
        fetched(isnet, "models:/isnet/2", cache)
    for edited in ("/", "../..", "x" * 64, ""):
        isnet.server.client.set_model_version_tag("isnet", "1", "trainplane.model_digest", edited)
        with pytest.raises(RunFailed, match="no sha256: it was edited"):
            fetched(isnet, "models:/isnet/1", cache)
    with pytest.raises(UserError, match="model name 'a/b'"):
        registered(RegisteredModel(isnet.server, "a/b"), tmp_path / "m", run_id)
    with pytest.raises(UserError, match="does not answer as MLflow"):
        ModelVersion.at(TrackingServer("http://127.0.0.1:9"), "models:/isnet/1")


@pytest.mark.parametrize(
    "address", ["models:/isnet@", "isnet/", "models:/a b/1", "runs:/abc", "models:/x/one", "", "-x/1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="is no address of a model version"):
        parse_address(address)


def test_an_evaluation_stays_with_its_version_and_its_run(
    exported: tuple[Exported, Path], tmp_path: Path, isnet: RegisteredModel, run_id: str
) -> None:
    version = registered(isnet, packaged(exported, tmp_path / "m"), run_id)
    evaluation = {"model": "models:/isnet/1", "bins": {"all": {"psnr": 20.5, "ssim": float("nan"), "n": 3}}}
    digest = isnet.version(version).attach_evaluation(evaluation)
    shown = isnet.version(version).as_json(isnet.aliases())
    assert shown["evaluation"]["bins"]["all"] == {"psnr": 20.5, "ssim": None, "n": 3}
    assert shown["evaluation_digest"] == digest
    assert shown.items() >= {"run_id": run_id, "aliases": [], "gates": [], **FACTS}.items()
    client = isnet.server.client
    stored = json.loads(
        Path(client.download_artifacts(run_id, f"evaluations/{digest}.json", str(tmp_path))).read_text()
    )
    assert stored == shown["evaluation"]
    assert list_models(isnet.server) == [{"name": "isnet", "latest": "1", "aliases": {}}]


def test_a_version_asks_mlflow_once_for_all_that_is_known_of_it(
    exported: tuple[Exported, Path],
    tmp_path: Path,
    isnet: RegisteredModel,
    run_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = isnet.version(registered(isnet, packaged(exported, tmp_path / "m"), run_id))
    calls: list[str] = []
    client = isnet.server.client
    # Not `get_registered_model`, which MLflow calls itself before each change (3.17.2).
    for verb in ("search_model_versions", "get_model_version"):
        call = getattr(client, verb)
        monkeypatch.setattr(client, verb, lambda *a, verb=verb, call=call, **k: (calls.append(verb), call(*a, **k))[1])
    assert (version.run_id, version.evaluation, version.verdicts) == (run_id, None, [])
    version.attach_evaluation({"bins": {"all": {"n": 3}}})
    version.attach_verdicts([GateVerdict("floor", True, "fine", {})])
    assert (version.evaluation, version.verdicts[0]["gate"]) == ({"bins": {"all": {"n": 3}}}, "floor")
    assert version.lineage == {"run_id": run_id, **FACTS, "model_digest": version.model_digest}
    assert calls == ["search_model_versions"]


def test_pictures_and_models_go_straight_to_the_object_store(
    exported: tuple[Exported, Path], tmp_path: Path, isnet: RegisteredModel, tracking_uri: str, s3_address: str
) -> None:
    run = find_or_create_run(
        TrackingServer(tracking_uri),
        RunSpec("on-s3", run_key="k", run_name="n", tags={}, artifact_root=f"{s3_address}/artifacts"),
    )
    tracker = Tracker(TrackingServer(tracking_uri), run.run_id, spool=tmp_path / "spool")
    tracker.log_image("gallery", np.zeros((8, 8, 3), np.uint8), 1)
    assert tracker.close(60) == 0
    model = packaged(exported, tmp_path / "m")
    version = registered(isnet, model, run.run_id)
    files = fetched(isnet, f"models:/isnet/{version}", tmp_path / "cache")
    assert model_digest(files) == model_digest(model)
    stored = [entry.key for entry in open_store(f"{s3_address}/artifacts").list()]
    assert [key for key in stored if "/images/gallery+step+1+" in key and key.endswith(".png")]
    assert [key for key in stored if key.endswith("/data/exported/weights.json")]


@pytest.mark.real
def test_a_server_registers_promotes_and_gives_back_the_same_bytes(
    exported: tuple[Exported, Path],
    tmp_path: Path,
    mlflow_server: Callable[[], AbstractContextManager[str]],
) -> None:
    store = open_store(str(tmp_path / "store"))
    with mlflow_server() as address:
        run = find_or_create_run(
            TrackingServer(address),
            RunSpec("isnet", run_key="k", run_name="n", tags={}, artifact_root=str(tmp_path / "artifacts")),
        )
        server = TrackingServer(address)
        isnet = RegisteredModel(server, "isnet")
        model = packaged(exported, tmp_path / "m")
        number = registered(isnet, model, run.run_id)
        assert registered(isnet, model, run.run_id) == number
        version = isnet.version(number)
        version.attach_evaluation({"bins": {"all": {"psnr": 25.0, "n": 3}}})
        verdict = GateVerdict("floor psnr all", True, "psnr in all is 25, need at least 20", {"value": 25.0})
        audited = AuditedModel(server, "isnet", store)
        audited.promote(version, verdicts=[verdict], expected=None)
        assert model_digest(fetched(isnet, "models:/isnet@production", tmp_path / "cache")) == model_digest(model)
        assert audited.verify() == []
        [shown] = isnet.as_json()["versions"]
        assert shown["aliases"] == ["production"]
        assert shown["evaluation"]["bins"]["all"]["n"] == 3
        assert shown["gates"][0]["passed"] is True
