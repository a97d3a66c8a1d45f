"""MLflow's own route, answered by MLflow's own code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isnet.inference.predictor import Predictor
from isnet.served import ServedModel
from trainplane.serving.engine import BadOutput, Output

# An option of such a request: its content type.
CONTENT_TYPE = "invocations"


def scoring_model(predictor: Predictor, folder: Path, *, max_pixels: int) -> Any:
    """MLflow's model over a predictor that is open already.

    Args:
        predictor: Of the version.
        folder: The version's package, whose signature MLflow enforces.
        max_pixels: Larger pictures are refused.
    """
    from mlflow.models import Model
    from mlflow.pyfunc import PyFuncModel

    served = ServedModel(predictor, max_pixels=max_pixels)
    return PyFuncModel(model_meta=Model.load(str(folder)), model_impl=served)


def invoke(model: Any, inputs: Mapping[str, bytes], content_type: str) -> Output:
    """Answers a request as MLflow's scoring server does."""
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc.scoring_server import invocations

    body = inputs["body"]
    try:
        # Of its formats Parquet alone is bytes.
        data = body if "parquet" in content_type else body.decode("utf-8", "replace")
        result = invocations(data, content_type, model, model.metadata.get_input_schema())
    except MlflowException as error:
        if "NaN or infinity" in str(error):
            raise BadOutput(str(error)) from error
        status = error.get_http_status_code()
        return Output(error.serialize_as_json().encode(), "application/json", (), {"status": status})
    return Output(str(result.response).encode(), result.mimetype, (), {"status": result.status})
