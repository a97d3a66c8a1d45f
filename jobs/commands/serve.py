"""`isnet serve NAME`: versions of a model under traffic."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
from dataclasses import asdict
from functools import partial
from typing import Any, cast

from jobs.cli.main import emit
from jobs.cli.streams import notify
from jobs.serving.app import AppSettings, build_app
from jobs.serving.local_engine import LocalEngine
from jobs.serving.records import trace_queue
from jobs.serving.server import run_server
from jobs.serving.startup import ServingPlan, open_service, plan_serving
from jobs.serving.token import checked_token, new_token
from trainplane.cluster.context import Context
from trainplane.cluster.ports import HOST, check_port
from trainplane.cluster.ray_address import is_job
from trainplane.command_line import command_line
from trainplane.environ import SERVE_TOKEN_VARIABLE
from trainplane.errors import UserError
from trainplane.registry.audit import record_head, verified_trail
from trainplane.registry.names import check_alias, parse_address
from trainplane.registry.shares import Mode, record_share
from trainplane.registry.versions import RegisteredModel
from trainplane.serving.admission import QueueLimits
from trainplane.serving.service import ServingOptions
from trainplane.storage import open_store

# Part of the queue that one user may take.
_WAITING_OF_ONE = 0.5


def serve(args: argparse.Namespace, context: Context) -> int:
    """Serves until interrupted."""
    name, alias = _name_and_alias(args)
    if (args.shadow or args.canary is not None) and args.candidate is None:
        raise UserError(
            "a share of the traffic needs a version that gets it; name it: "
            + command_line("serve", name, "--candidate", "VERSION", *(["--shadow"] if args.shadow else []))
        )
    port = check_port(args.port) if args.host in (HOST, "localhost") else args.port
    workers = args.workers or max(1, (os.cpu_count() or 2) // 2)
    # On Ray each replica has so many.
    at_once = workers * args.replicas if args.on_ray else workers
    limits = QueueLimits(at_once, args.queue, max(1, int(args.queue * _WAITING_OF_ONE)))
    # Out of the environment: child processes have no use for it.
    variable = os.environ.pop(SERVE_TOKEN_VARIABLE, None)
    if variable is None and is_job(os.environ):
        raise UserError(
            f"a job's log is kept, and a token that is made here would stand in it; set {SERVE_TOKEN_VARIABLE} on the "
            "cluster's nodes, or start the server on one of them instead of submitting it, with RAY_ADDRESS=auto: "
            + command_line("serve", name, "--on-ray")
        )
    token = new_token() if variable is None else checked_token(variable)
    # Mistakes end here, before anything is listened on or recorded.
    options = ServingOptions(name, alias, candidate=args.candidate, limits=limits, widen=args.widen, keep=args.keep)
    plan = plan_serving(context, options, share="shadow" if args.shadow else args.canary)
    # Traffic, refusals and ways back are told as they happen.
    logging.getLogger("trainplane.serving").setLevel(logging.INFO)
    settings = AppSettings(token, max_pixels=args.max_pixels, max_bytes=args.max_bytes)
    announce = partial(_announce, args, plan, port, None if variable else token)
    if args.on_ray:
        # Ray Serve is an extra, and takes seconds to import.
        from jobs.serving.on_ray import ReplicaSettings, serve_on_ray

        replicas = ReplicaSettings(args.replicas, args.gpus, workers)
        serve_on_ray(context, plan, settings, replicas, host=args.host, port=port, announce=announce)
        return 0
    engine = LocalEngine(context, name, workers=workers, max_pixels=args.max_pixels)
    app = build_app(lambda: open_service(context, engine, plan, trace_queue(context, name)), settings)
    run_server(app, host=args.host, port=port, announce=announce)
    return 0


def _name_and_alias(args: argparse.Namespace) -> tuple[str, str]:
    """Model and alias of NAME, NAME@ALIAS and `--alias`."""
    parts = parse_address(args.name)
    if parts.version is not None:
        raise UserError(
            f"{args.name} is a version, and a server follows an alias; promote the version, or show it beside "
            f"production: {command_line('serve', parts.name, '--candidate', parts.version)}"
        )
    alias = parts.alias or args.alias
    check_alias(alias)
    return parts.name, alias


def _announce(args: argparse.Namespace, plan: ServingPlan, port: int, token: str | None) -> None:
    """Prints the address, without a token of the user's own."""
    where = HOST if _is_every_address(args.host) else args.host
    address = f"http://{where}:{port}"
    payload: dict[str, Any] = {
        "address": address,
        "page": f"{address}/" if token is None else f"{address}/?token={token}",
        "token": token,
        "name": plan.options.name,
        "alias": plan.options.alias,
        "version": plan.production,
        "candidate": plan.options.candidate,
    }
    beside = f", beside it version {plan.options.candidate}" if plan.options.candidate else ""
    asks = f"it asks for ?token=, the value of {SERVE_TOKEN_VARIABLE}; " if token is None else ""
    text = (
        f"{plan.options.name}@{plan.options.alias} is version {plan.production}{beside}\n"
        f"{payload['page']} ({asks}Ctrl-C ends it)"
    )
    emit(args, payload, text)
    if args.host not in (HOST, "localhost", "::1"):
        notify("the page is served beyond this machine, without encryption; put a proxy with TLS before it")


def _is_every_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def change_share(args: argparse.Namespace, context: Context) -> int:
    """Records a candidate's share; servers follow within a second."""
    check_alias(args.to)
    model = RegisteredModel(context.tracking_server, args.name)
    version = model.version(args.version).checked().version
    store = open_store(context.audit)
    # A share on a trail that contradicts MLflow would move traffic that nobody can account for.
    current = verified_trail(model, store).current(args.to)
    if version == current and args.share != "off":
        raise UserError(f"version {version} is {args.name}@{args.to}, which has all requests already; name a candidate")
    mode = cast(Mode, args.share) if isinstance(args.share, str) else "canary"
    share = args.share if mode == "canary" else 0.0
    record = record_share(store, args.name, version, alias=args.to, mode=mode, share=share, reason=args.reason)
    assert record is not None, "no other record was expected"
    record_head(model, verified_trail(model, store))
    text = f"{args.name}@{args.to}: version {version} {record.reason.partition(':')[0]} (audit record {record.number})"
    emit(args, {"name": args.name, "audit": asdict(record)}, text)
    return 0
