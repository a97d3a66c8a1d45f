"""Command that makes a user of MLflow.

    python -m trainplane.tracking.mlflow_user NAME

For clusters whose training pods are not to be administrators (infra/k8s/base/mlflow-users.yaml). The address of the
server and the administrator's name and password come from MLflow's usual variables, the user's password from
MLFLOW_USER_PASSWORD.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

PASSWORD = "MLFLOW_USER_PASSWORD"


def make_user(address: str, name: str, password: str) -> None:
    """Creates a user without special rights, or sets its password."""
    from mlflow.exceptions import RestException

    with warnings.catch_warnings():
        # The client comes with the server, and the server with a deprecated module of Starlette.
        warnings.simplefilter("ignore")
        from mlflow.server.auth.client import AuthServiceClient

    client = AuthServiceClient(address)
    try:
        client.create_user(name, password)
    except RestException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        client.update_user_password(name, password)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    address, password = os.environ.get("MLFLOW_TRACKING_URI", ""), os.environ.get(PASSWORD, "")
    if len(argv) != 1 or not address or not password:
        print(
            f"usage: python -m trainplane.tracking.mlflow_user NAME, with MLFLOW_TRACKING_URI and {PASSWORD} set",
            file=sys.stderr,
        )
        return 2
    from mlflow.exceptions import MlflowException

    try:
        make_user(address, argv[0], password)
    except MlflowException as error:
        print(f"user {argv[0]!r} cannot be made at {address}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
