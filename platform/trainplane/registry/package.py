"""What is registered: a self-contained MLflow model, its digest, and its way back as files.

`package` turns what a task exported into an MLflow model folder (python_function flavour, nothing pickled); the same
export gives the same bytes, so the same digest. `register` makes it a version of a registered model, once. `download`
brings a version back and refuses one whose bytes changed since. What versions earned is `gates` and `promote`.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed, UserError
from trainplane.registry.names import check_name
from trainplane.registry.versions import PREFIX, all_versions, find_version
from trainplane.task import Exported
from trainplane.tracking.client import as_default, client_for, pyfunc, unreachable

# MLflow writes this file into a folder that it downloads or loads from; Python writes its caches.
_NOT_PART_OF_IT = ("registered_model_meta", "__pycache__")

_KINDS = {bool: "boolean", int: "long", str: "string"}


def package(
    exported: Exported,
    *,
    data: Path,
    folder: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    created_ms: int,
    params: Mapping[str, str | bool | int] | None = None,
    example: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """The MLflow model `folder`, made from the files that the task exported into `data`.

    `inputs` and `outputs` name the string columns of the signature, `params` its parameters and their defaults. The
    loaded model is called with a pandas.DataFrame of these columns; `example` is one small row of it. `created_ms`
    (Unix milliseconds; the start of the run, say) goes into the model's description: given the same arguments, two
    packages have the same bytes.
    """
    mlflow_pyfunc = pyfunc()
    import pandas
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    if folder.exists():
        raise UserError(f"{folder}: exists already; give a folder that does not, or remove it")
    identity = model_digest(data)
    created = datetime.fromtimestamp(created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    with tempfile.TemporaryDirectory() as aside:
        # MLflow keeps the data under its folder's name, which must not change the bytes of the package.
        (Path(aside) / "exported").symlink_to(data.resolve())
        mlflow_pyfunc.save_model(
            str(folder),
            loader_module=exported.loader_module,
            data_path=f"{aside}/exported",
            code_paths=[str(path) for path in exported.code_paths],
            pip_requirements=list(exported.requirements),
            signature=ModelSignature(
                inputs=Schema([ColSpec("string", name) for name in inputs]),
                outputs=Schema([ColSpec("string", name) for name in outputs]),
                params=ParamSchema([ParamSpec(name, _KINDS[type(value)], value) for name, value in params.items()])
                if params
                else None,
            ),
            input_example=None if example is None else pandas.DataFrame([dict(example)]),
            metadata=dict(metadata or {}),
            mlflow_model=Model(model_uuid=uuid.uuid5(uuid.NAMESPACE_OID, identity).hex, utc_time_created=created),
        )
    return folder


def data_of(model: Path) -> Path:
    """The files that the task exported, inside a model folder that `package` made."""
    return model / "data" / "exported"


def model_digest(folder: Path) -> str:
    """sha256 over the names and sha256 of all files of a model folder, in a fixed order."""
    files = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not set(relative.parts) & set(_NOT_PART_OF_IT):
            with path.open("rb") as stream:
                files[relative.as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashlib.sha256(canonical_json(files)).hexdigest()


def register(tracking_uri: str, name: str, model: Path, *, run_id: str, facts: Mapping[str, str], step: int = 0) -> str:
    """Make the model folder a version of registered model `name`; returns the version's number.

    `facts` are kept with the version: dataset_digest, config_digest, commit, … The same run and the same bytes are
    the same version, however often and wherever this was killed before.
    """
    check_name(name)
    client = client_for(tracking_uri)
    from mlflow.exceptions import MlflowException

    digest = model_digest(model)
    try:
        known = [
            version
            for version in all_versions(client, name)
            if version.run_id == run_id and version.tags.get(PREFIX + "model_digest") == digest
        ]
        if known:
            return str(min(int(version.version) for version in known))
        tags = {PREFIX + key: str(value) for key, value in {**facts, "model_digest": digest}.items()}
        logged = _logged_model(client, name, model, run_id=run_id, digest=digest, step=step, tags=tags)
        _ensure_name(client, name)
        with as_default(tracking_uri):
            version = client.create_model_version(
                name, source=f"models:/{logged.model_id}", run_id=run_id, model_id=logged.model_id, tags=tags
            )
    except MlflowException as error:
        if error.error_code == "INVALID_PARAMETER_VALUE":
            raise UserError(f"model {name!r} of run {run_id} cannot be registered: {error}") from error
        raise unreachable(tracking_uri, error) from error
    return str(version.version)


def download(tracking_uri: str, address: str, folder: Path, *, again: bool = False) -> Path:
    """The files of the version at `address` (models:/NAME@ALIAS or models:/NAME/VERSION), below `folder`.

    A version that lies there already and is whole is not fetched again, unless `again` asks what the registry has now.
    Raises `RunFailed` when its bytes are not those that were registered, `UserError` when the address leads nowhere.
    """
    version = find_version(tracking_uri, address)
    expected: str | None = version.tags.get(PREFIX + "model_digest")
    if expected is None:
        raise UserError(
            f"{address}: version {version.version} of {version.name!r} carries no digest, so it was not registered "
            "here; register it with `isnet models register`"
        )
    place = folder / expected
    if not again and place.is_dir() and model_digest(place) == expected:
        return place
    import mlflow

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part, as_default(tracking_uri):
        fetched = _fetched(mlflow, f"models:/{version.name}/{version.version}", Path(part) / "model")
        for leftover in _NOT_PART_OF_IT:
            for path in list(fetched.rglob(leftover)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        got = model_digest(fetched)
        if got != expected:
            raise RunFailed(
                f"{address}: version {version.version} of {version.name!r} was changed after it was registered "
                f"(digest {got[:12]}, registered {expected[:12]}); register it again, and find out who wrote there"
            )
        shutil.rmtree(place, ignore_errors=True)
        fetched.rename(place)
    return place


def _fetched(mlflow: Any, address: str, folder: Path) -> Path:
    """All files of a version; `RunFailed` where the registry names files that are not there."""
    from mlflow.exceptions import MlflowException

    try:
        return Path(mlflow.artifacts.download_artifacts(address, dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunFailed(
            f"{address}: its files cannot be fetched ({reason[:300]}); restore them, or register it again"
        ) from error


def _logged_model(
    client: Any, name: str, model: Path, *, run_id: str, digest: str, step: int, tags: Mapping[str, str]
) -> Any:
    """The model as MLflow's pages know it, under the run that made it; one that was stored whole before is reused."""
    from mlflow.entities import LoggedModelOutput

    experiment = client.get_run(run_id).info.experiment_id
    stored = client.search_logged_models(
        experiment_ids=[experiment], filter_string=f"tags.`{PREFIX}model_digest` = '{digest}'"
    )
    for found in stored:
        if found.source_run_id == run_id and found.status.name == "READY":
            return found
    logged = client.create_logged_model(experiment, name=name, source_run_id=run_id, tags=dict(tags))
    client.log_model_artifacts(logged.model_id, str(model))
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=step)])
    return client.finalize_logged_model(logged.model_id, "READY")


def _ensure_name(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
