"""Users of MLflow who train and promote nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainplane.cluster.ports import free_port
from trainplane.testing.mlflow_server import tracking_server
from trainplane.tracking import mlflow_user
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.run_id import RunSpec
from trainplane.tracking.runs import RunMetadata, close_run, start_run

ADMIN, TRAINER = "word-of-the-admin", "word-of-the-trainer"
AUTH = """[mlflow]
database_uri = sqlite:///{folder}/auth.db
default_permission = READ
admin_username = admin
"""


@pytest.mark.nightly
def test_a_trainer_records_runs_and_cannot_touch_the_models_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    from mlflow.exceptions import MlflowException

    (tmp_path / "auth.ini").write_text(AUTH.format(folder=tmp_path))
    environment = {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-the-server-alone",
    }
    options = ("--app-name", "basic-auth", "--no-serve-artifacts")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    artifacts = str(tmp_path / "artifacts")
    with tracking_server(
        store, port=free_port(), artifacts=artifacts, options=options, environment=environment
    ) as address:

        def sign_in(name: str, password: str) -> None:
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        sign_in("admin", ADMIN)
        admin = TrackingServer(address).client
        admin.create_registered_model("model")
        admin.create_model_version("model", "s3://bucket/package")

        # Made twice: the second time sets the password.
        for password in ("an-older-password", TRAINER):
            monkeypatch.setenv(mlflow_user.PASSWORD, password)
            assert mlflow_user.main(["trainer"]) == 0

        sign_in("trainer", TRAINER)
        spool = tmp_path / "spool"
        run = start_run(
            TrackingServer(address), RunSpec("mine", "k", "a run", artifacts), RunMetadata(), spool=spool, require=True
        )
        close_run(TrackingServer(address), run.run_id, "FINISHED", {}, spool=spool)
        trainer = TrackingServer(address).client
        assert trainer.get_run(run.run_id).info.status == "FINISHED"
        assert trainer.get_model_version("model", "1").version
        for touch in (
            lambda: trainer.set_registered_model_alias("model", "production", "1"),
            lambda: trainer.delete_model_version("model", "1"),
            lambda: trainer.set_model_version_tag("model", "1", "evaluation", "good"),
        ):
            with pytest.raises(MlflowException, match="Permission denied"):
                touch()
        # Nor can it make users of its own.
        assert mlflow_user.main(["friend"]) == 1
        assert "cannot be made" in capsys.readouterr().err
