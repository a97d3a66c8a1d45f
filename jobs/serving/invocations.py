"""MLflow's own route, answered by MLflow's own code."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isnet.inference.predictor import Predictor
from isnet.served import ServedModel
from jobs.serving.bodies import MAX_BYTES
from jobs.serving.problems import problem
from trainplane.command_line import command_line
from trainplane.serving.engine import BadOutput, Output

# An option of such a request: its content type.
CONTENT_TYPE = "invocations"
# Pictures of one request: it has one place in the queue, and others wait behind it.
MAX_ROWS = 16
# Marks of a row beside its pictures' base64, which has none of them: brackets, commas, ends of lines; each picture may
# begin with a `data:` address. And of the rest of a body.
_MARKS_OF_ROW, _MARKS_OF_REST = 8, 64
_MARKS = b"[{,\n"


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
    if (excess := _excess(body, content_type)) is not None:
        return Output(bytes(problem(413, excess).body), "application/json", (), {"status": 413})
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


def _excess(body: bytes, content_type: str) -> str | None:
    """Refuses a body of more rows than it may have."""
    # Before anything is parsed: a million small rows would take gigabytes as a table.
    if "parquet" in content_type:
        rows, size = _parquet_size(body)
        has_more = rows > MAX_ROWS or size > MAX_BYTES
    else:
        has_more = sum(body.count(mark) for mark in _MARKS) > MAX_ROWS * _MARKS_OF_ROW + _MARKS_OF_REST
    if not has_more:
        return None
    batch = command_line("inpaint", "PREFIX", "MASKS", "-o", "OUT")
    return (
        f"the request has more than {MAX_ROWS} rows, all that one request may; send them in several, or fill many "
        f"pictures with `{batch}`"
    )


def _parquet_size(body: bytes) -> tuple[int, int]:
    """Rows of a Parquet file and their bytes once unpacked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = pq.ParquetFile(io.BytesIO(body)).metadata
    # What cannot be read is refused by MLflow's own sentence.
    except (pa.ArrowException, ValueError, OSError):
        return 0, 0
    return about.num_rows, sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
