"""Checks what is to be served, and starts the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from jobs.registry.promoted_version import promoted_version
from trainplane.cluster.context import Context
from trainplane.errors import UserError
from trainplane.notify.model_events import share_taken_back
from trainplane.notify.notifier import Notifier
from trainplane.registry.audit import Trail, verified_trail
from trainplane.registry.shares import record_share
from trainplane.registry.versions import RegisteredModel
from trainplane.serving.engine import Engine
from trainplane.serving.follow import TrailFollower
from trainplane.serving.service import Service, ServingOptions
from trainplane.serving.traces import TraceQueue
from trainplane.storage import open_store


@dataclass(frozen=True)
class ServingPlan:
    """Options and versions, checked before a server starts."""

    options: ServingOptions
    production: str
    trail: Trail
    audit: str  # Address of the trail's store


def plan_serving(
    context: Context, options: ServingOptions, *, share: float | Literal["shadow"] | None = None
) -> ServingPlan:
    """Finds the versions, and records the wanted share.

    Args:
        context: Where registry and audit are.
        options: What is to be served.
        share: Of the candidate; None changes nothing.

    Raises:
        UserError: There is no such model, alias or version.
        RunFailed: The alias was moved past the gates.
    """
    store = open_store(context.audit)
    name, alias, candidate = options.name, options.alias, options.candidate
    version = promoted_version(context, f"models:/{name}@{alias}")
    model = RegisteredModel(context.tracking_server, name)
    if candidate is not None and model.version(candidate).checked().version == version.version:
        raise UserError(
            f"version {candidate} is {name}@{alias} already, so there is nothing to compare; name another candidate"
        )
    if candidate is not None and share is not None:
        record_share(
            store,
            name,
            candidate,
            alias=alias,
            mode="shadow" if share == "shadow" else "canary",
            share=0.0 if share == "shadow" else share,
            reason="a server was started with it",
        )
    return ServingPlan(options, version.version, verified_trail(model, store), context.audit)


@asynccontextmanager
async def open_service(
    context: Context, engine: Engine, plan: ServingPlan, queue: AbstractContextManager[TraceQueue]
) -> AsyncIterator[Service]:
    """Opens a service, with its first version open and warm.

    Args:
        context: Says who is told of a share that was taken back.
        engine: Opens versions and computes.
        plan: As it was checked.
        queue: Opens the records.
    """
    store, notifier = open_store(plan.audit), Notifier(context)
    # Not in the loop: starting the uploader's process, and waiting for it at the end, take seconds.
    traces = await asyncio.to_thread(queue.__enter__)
    try:
        follower = TrailFollower(store, plan.options.name, plan.trail)
        service = Service(
            engine,
            plan.options,
            store=store,
            follower=follower,
            traces=traces,
            tell=lambda record: notifier.tell(share_taken_back(record)),
        )
        try:
            await service.start(plan.production)
            yield service
        finally:
            await service.close()
    finally:
        await asyncio.to_thread(queue.__exit__, None, None, None)
