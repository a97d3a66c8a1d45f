"""Builds the application of a cluster's manifest.

The manifest is `infra/k8s/components/serving`. Ray Serve imports `build` on the head, with the manifest's arguments.
The token comes from a Secret.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.serving.app import AppSettings
from jobs.serving.on_ray import ReplicaSettings, application
from jobs.serving.startup import plan_serving
from jobs.serving.token import checked_token
from trainplane.cluster.context import resolve
from trainplane.environ import SERVE_TOKEN_VARIABLE
from trainplane.errors import UserError
from trainplane.serving.admission import QueueLimits
from trainplane.serving.service import ServingOptions


class ClusterServing(BaseModel):
    """Arguments of the manifest."""

    model_config = ConfigDict(extra="forbid")
    name: str
    alias: str = "production"
    candidate: str | None = None
    widen: bool = False
    keep: Literal["none", "facts", "pictures"] = "facts"
    replicas: int = Field(1, ge=1)
    gpus: float = Field(0.0, ge=0)
    workers: int = Field(1, ge=1)
    queue: int = Field(64, ge=1)


def build(arguments: ClusterServing) -> Any:
    """The application of Ray Serve for these arguments."""
    context = resolve()
    context.activate()
    token = os.environ.get(SERVE_TOKEN_VARIABLE)
    if token is None:
        raise UserError(f"{SERVE_TOKEN_VARIABLE} is not set, so nobody could ask; give it by a Secret of the cluster")
    at_once = arguments.replicas * arguments.workers
    options = ServingOptions(
        arguments.name,
        arguments.alias,
        arguments.candidate,
        QueueLimits(at_once, arguments.queue, max(1, arguments.queue // 2)),
        widen=arguments.widen,
        keep=arguments.keep,
    )
    plan = plan_serving(context, options)
    replicas = ReplicaSettings(arguments.replicas, arguments.gpus, arguments.workers)
    return application(context, plan, AppSettings(checked_token(token)), replicas)
