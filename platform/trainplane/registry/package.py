"""Model packages: building, registering and downloading them.

`package` turns what a task exported into an MLflow model folder (python_function flavour, nothing pickled). `register`
makes it a version of a registered model, once. `download` brings a version back and refuses one whose bytes changed.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainplane.command_line import command_line
from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed, UserError
from trainplane.registry.names import check_name
from trainplane.registry.recorded import PREFIX
from trainplane.registry.versions import ModelVersion, RegisteredModel
from trainplane.task import Exported
from trainplane.tracking.client import pyfunc, reason
from trainplane.tracking.mlflow_names import MAX_TAG, valid_key, valid_text
from trainplane.tracking.run_record import RunRecord

# MLflow writes the first into a folder that it downloads or loads from; Python writes its caches.
NOT_PACKAGED = ("registered_model_meta", "__pycache__")

_PARAM_TYPES = {bool: "boolean", int: "long", str: "string"}


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
    """Builds an MLflow model folder from what a task exported.

    The same arguments give the same bytes. The loaded model is called with a pandas.DataFrame of the input columns.

    Args:
        exported: Loader, code and requirements.
        data: Folder of the exported files.
        folder: The model folder to create.
        inputs: String columns of the signature.
        outputs: String columns of the answer.
        created_ms: Unix milliseconds for the model's description, such as the start of the run.
        params: Parameters of the signature with their defaults.
        example: One small row of input.
        metadata: Facts in the model's description.
    """
    mlflow_pyfunc = pyfunc()
    import pandas
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    if folder.exists():
        raise UserError(f"{folder}: exists already; give a folder that does not, or remove it")
    signature = ModelSignature(
        inputs=Schema([ColSpec("string", name) for name in inputs]),
        outputs=Schema([ColSpec("string", name) for name in outputs]),
        params=ParamSchema([ParamSpec(name, _PARAM_TYPES[type(value)], value) for name, value in params.items()])
        if params
        else None,
    )
    # Id and time must follow from the arguments, not from the moment of packaging.
    model_uuid = uuid.uuid5(uuid.NAMESPACE_OID, model_digest(data)).hex
    created = datetime.fromtimestamp(created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    with tempfile.TemporaryDirectory() as scratch:
        # MLflow keeps the data under its folder's name, which must not change the bytes of the package.
        (Path(scratch) / "exported").symlink_to(data.resolve())
        mlflow_pyfunc.save_model(
            str(folder),
            loader_module=exported.loader_module,
            data_path=f"{scratch}/exported",
            code_paths=[str(path) for path in exported.code_paths],
            pip_requirements=list(exported.requirements),
            signature=signature,
            input_example=None if example is None else pandas.DataFrame([dict(example)]),
            metadata=dict(metadata or {}),
            mlflow_model=Model(model_uuid=model_uuid, utc_time_created=created),
        )
    return folder


def data_of(model_folder: Path) -> Path:
    """Folder of the exported files inside a package."""
    return model_folder / "data" / "exported"


def model_digest(folder: Path) -> str:
    """Digest of all files of a model folder."""
    # Sha256 over names and sha256 of the files, in a fixed order.
    digests = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not set(relative.parts) & set(NOT_PACKAGED):
            with path.open("rb") as stream:
                digests[relative.as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashlib.sha256(canonical_json(digests)).hexdigest()


def register(
    model: RegisteredModel, folder: Path, *, run: RunRecord, facts: Mapping[str, str], step: int = 0
) -> ModelVersion:
    """Registers a model folder as a version of `step`, once.

    The same run and the same bytes are the same version, however often and wherever this was killed before.
    """
    check_name(model.name)
    server = model.server
    from mlflow.exceptions import MlflowException

    digest = model_digest(folder)
    try:
        # Registered before, perhaps by a process that was killed later.
        registered = [v for v in model.versions() if v.run_id == run.run_id and v.model_digest == digest]
        if registered:
            return registered[-1]
        recorded = {**facts, "model_digest": digest}
        tags = {valid_key(PREFIX + key): valid_text(str(value), MAX_TAG) for key, value in recorded.items()}
        # Files first, then the name, then the version: killed in between, the next call continues.
        logged = _logged_model(model.name, folder, run=run, digest=digest, step=step, tags=tags)
        model.create()
        with server.as_default():
            record = server.client.create_model_version(
                model.name, source=f"models:/{logged.model_id}", run_id=run.run_id, model_id=logged.model_id, tags=tags
            )
    except MlflowException as error:
        if error.error_code == "INVALID_PARAMETER_VALUE":
            raise UserError(f"model {model.name!r} of run {run.run_id} cannot be registered: {error}") from error
        raise server.unreachable(error) from error
    return model.version(str(record.version))


def download(version: ModelVersion, folder: Path, *, again: bool = False) -> Path:
    """Fetches a version into a folder below the cache `folder`.

    Args:
        version: A version that `register` made.
        folder: Cache of versions, by digest. A version that lies there intact is not fetched again.
        again: Fetches in any case, to see what the registry has now.

    Raises:
        RunFailed: Its bytes are not those that were registered, or cannot be fetched.
        UserError: There is no such version, or it was registered by another program.
    """
    expected = version.model_digest
    if expected is None:
        raise UserError(
            f"{version.address}: version {version.version} of {version.name!r} carries no digest, so it was not "
            f"registered here; register it with `{command_line('models', 'register', 'RUN')}`"
        )
    # The digest is a tag that can be edited; anything else would lead out of the cache.
    if re.fullmatch("[0-9a-f]{64}", expected) is None:
        raise RunFailed(
            f"{version.address}: its tag {PREFIX}model_digest is {expected[:80]!r} and no sha256: it was edited; "
            "register the checkpoint again, and find out who wrote there"
        )
    # Folders are named by digest, so a version that two names share is fetched once.
    cached = folder / expected
    if not again and cached.is_dir() and model_digest(cached) == expected:
        return cached
    folder.mkdir(parents=True, exist_ok=True)
    # Fetched beside the cache, and moved into it only when the digest is right.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
        fetched = _fetch(version, Path(part) / "model")
        # MLflow and Python leave files of their own, which are no part of the model.
        for leftover in NOT_PACKAGED:
            for path in list(fetched.rglob(leftover)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        digest = model_digest(fetched)
        if digest != expected:
            raise RunFailed(
                f"{version.address}: version {version.version} of {version.name!r} was changed after it was registered "
                f"(digest {digest[:12]}, registered {expected[:12]}); register it again, and find out who wrote there"
            )
        shutil.rmtree(cached, ignore_errors=True)
        fetched.rename(cached)
    return cached


def _fetch(version: ModelVersion, folder: Path) -> Path:
    """Downloads all files of a version."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        with version.server.as_default():
            return Path(mlflow.artifacts.download_artifacts(version.address, dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        raise RunFailed(
            f"{version.address}: its files cannot be fetched ({reason(error)}); restore them, or register it again"
        ) from error


def _logged_model(name: str, folder: Path, *, run: RunRecord, digest: str, step: int, tags: Mapping[str, str]) -> Any:
    """Stores the model under its run, for MLflow's pages."""
    from mlflow.entities import LoggedModelOutput

    client, experiment = run.server.client, run.run.info.experiment_id
    # A model that is stored completely is reused.
    stored = client.search_logged_models(
        experiment_ids=[experiment], filter_string=f"tags.`{PREFIX}model_digest` = '{digest}'"
    )
    for candidate in stored:
        if candidate.source_run_id == run.run_id and candidate.status.name == "READY":
            return candidate
    logged = client.create_logged_model(experiment, name=name, source_run_id=run.run_id, tags=dict(tags))
    client.log_model_artifacts(logged.model_id, str(folder))
    client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=step)])
    # READY comes last: a model without it was left by a killed process.
    return client.finalize_logged_model(logged.model_id, "READY")
