"""A recorded trace as MLflow's pages show it.

One span for the request, one for each version that answered. Bytes are attachments, which a trace's page draws where
the browser can (mlflow 3.17.2). All ids follow from the record, so that sending it again changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainplane.serving.traces import INPUT_FACT, TYPE_FACT
from trainplane.tracking.mlflow_names import MAX_TAG, valid_key, valid_text

_PREFIX = "tr-"
_OF_INPUTS = (INPUT_FACT, TYPE_FACT)
_PREVIEW = 500
_NS_PER_MS = 1_000_000


@dataclass(frozen=True)
class AttachedFile:
    """A file of a trace."""

    role: str  # "inputs" or "outputs"
    name: str  # Of an input, or the label of an answer
    media_type: str
    local: str  # Path in the spool

    def id(self, trace: str) -> str:
        """MLflow's name of the file, a UUID."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{trace}/{self.role}/{self.name}"))

    def reference(self, trace: str, size: int) -> str:
        """Text by which a span refers to the file."""
        from mlflow.tracing.attachments import Attachment

        # Its constructor draws an id at random; ours must be the same after a kill.
        attachment = Attachment(content_type=self.media_type, content_bytes=b"")
        query = attachment.ref(mlflow_trace_id(trace)).partition("?")[2]
        return f"mlflow-attachment://{self.id(trace)}?{query.replace('size=0', f'size={size}')}"


def mlflow_trace_id(trace: str) -> str:
    """MLflow's id of a trace; odd names are digested."""
    if re.fullmatch(f"{_PREFIX}[0-9a-f]{{32}}", trace):
        return trace
    return f"{_PREFIX}{hashlib.sha256(trace.encode()).hexdigest()[:32]}"


def read_files(record: Mapping[str, Any]) -> list[AttachedFile]:
    """Files of a spool's record."""
    files = []
    for local, label in record.get("files", []):
        role, name, media_type = label.split("/", 2)
        files.append(AttachedFile(role, name, media_type, local))
    return files


def trace_tags(fields: Mapping[str, Any]) -> dict[str, str]:
    """Tags of a trace, by which MLflow's pages search."""
    answers = fields["answers"]
    tags = {
        "mlflow.traceName": f"{fields['model']}@{fields['alias']}" if fields["alias"] else fields["model"],
        "trace": fields["trace"],
        "model": fields["model"],
        "alias": fields["alias"],
        "version": ",".join(sorted({answer["version"] for answer in answers})),
        "blind": _text(fields["blind"]),
        "shadow": _text(fields["shadow"]),
        "keep": fields["keep"],
    }
    for answer in answers:
        tags[f"version.{answer['label']}"] = answer["version"]
        tags[f"digest.{answer['label']}"] = answer["digest"]
    # What all answers agree on, such as the size, is a fact of the request. A fact never hides one of the tags above.
    agreed = {
        name: value
        for name, value in (answers[0]["facts"] if answers else {}).items()
        if all(answer["facts"].get(name) == value for answer in answers)
    }
    facts = {name: _text(value) for name, value in {**agreed, **fields["facts"]}.items() if name not in tags}
    return {valid_key(name): valid_text(value, MAX_TAG) for name, value in {**facts, **tags}.items() if value != ""}


def trace_info(fields: Mapping[str, Any], experiment_id: str) -> Any:
    """MLflow's entry of a trace."""
    from mlflow.entities import TraceInfo, TraceLocation, TraceState

    answers = fields["answers"]
    facts = ", ".join(f"{name} {_text(value)}" for name, value in fields["facts"].items())
    summary = "; ".join(
        f"{answer['label']}: version {answer['version']}, {answer['milliseconds']:.0f} ms" for answer in answers
    )
    metadata = {"mlflow.trace.user": fields["rater"]} if fields["rater"] else {}
    return TraceInfo(
        trace_id=mlflow_trace_id(fields["trace"]),
        client_request_id=fields["trace"],
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=round(fields["started"] * 1000),
        execution_duration=round(_duration_ms(fields)),
        state=TraceState.OK if answers else TraceState.ERROR,
        request_preview=valid_text(facts, _PREVIEW),
        response_preview=valid_text(summary, _PREVIEW),
        trace_metadata=metadata,
        tags=trace_tags(fields),
    )


def spans(fields: Mapping[str, Any], references: Mapping[tuple[str, str], str]) -> list[Any]:
    """Spans of a trace: the request, then each version.

    `references` has the text for each file by role and name.
    """
    inputs = {name: text for (role, name), text in references.items() if role == "inputs"}
    outputs = {name: text for (role, name), text in references.items() if role == "outputs"}
    root = _span(
        fields,
        name="request",
        duration_ms=_duration_ms(fields),
        # Digests and types are tags; on the page they would stand before the pictures.
        inputs={**inputs, **{name: fact for name, fact in fields["facts"].items() if not name.startswith(_OF_INPUTS)}},
        outputs={
            answer["label"]: outputs.get(answer["label"], f"version {answer['version']}")
            for answer in fields["answers"]
        },
        attributes={"model": fields["model"], "alias": fields["alias"], "blind": fields["blind"]},
    )
    children = [
        _span(
            fields,
            name=f"version {answer['version']}",
            parent="request",
            key=answer["label"],
            duration_ms=answer["milliseconds"],
            inputs=inputs or None,
            outputs={"output": outputs[answer["label"]]} if answer["label"] in outputs else None,
            attributes={
                **answer["facts"],
                "label": answer["label"],
                "version": answer["version"],
                "digest": answer["digest"],
                "milliseconds": answer["milliseconds"],
                "notes": answer["notes"],
            },
        )
        for answer in fields["answers"]
    ]
    return [root, *children]


def _span(
    fields: Mapping[str, Any],
    *,
    name: str,
    duration_ms: float,
    inputs: Any,
    outputs: Any,
    attributes: Mapping[str, Any],
    parent: str | None = None,
    key: str = "request",
) -> Any:
    from mlflow.entities import Span
    from mlflow.tracing.constant import SpanAttributeKey

    trace_id = mlflow_trace_id(fields["trace"])
    start_ns = round(fields["started"] * 1000) * _NS_PER_MS
    values = {
        **attributes,
        SpanAttributeKey.REQUEST_ID: trace_id,
        SpanAttributeKey.SPAN_TYPE: "CHAIN" if parent is None else "TOOL",
        SpanAttributeKey.INPUTS: inputs,
        SpanAttributeKey.OUTPUTS: outputs,
    }
    # MLflow keeps attributes as JSON texts.
    return Span.from_dict(
        {
            "trace_id": trace_id,
            "span_id": _span_id(trace_id, key),
            "parent_span_id": None if parent is None else _span_id(trace_id, parent),
            "name": name,
            "start_time_unix_nano": start_ns,
            "end_time_unix_nano": start_ns + round(duration_ms * _NS_PER_MS),
            "status": {"code": "OK", "message": ""},
            "attributes": {name: json.dumps(value) for name, value in values.items() if value is not None},
        }
    )


def _span_id(trace_id: str, key: str) -> str:
    return hashlib.sha256(f"{trace_id}/{key}".encode()).hexdigest()[:16]


def _duration_ms(fields: Mapping[str, Any]) -> float:
    return max((answer["milliseconds"] for answer in fields["answers"]), default=0.0)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.6g}" if isinstance(value, float) else str(value)
