"""The same application on Ray Serve: a page, and replicas.

The page's replica decides, records and keeps files; it reserves nothing, so that there is always room for it. A
replica that computes holds every version that is open. One that is lost is replaced by Ray Serve, and the requests it
had are asked again of the others: filling has no effect that could happen twice.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from isnet.errors import InputError
from jobs.cli.streams import notify
from jobs.cluster.worker_pool import portable_context
from jobs.serving.app import AppSettings, build_app
from jobs.serving.fill import difference
from jobs.serving.local_engine import LocalEngine
from jobs.serving.records import trace_queue
from jobs.serving.startup import ServingPlan, open_service
from trainplane.cluster.context import Context
from trainplane.cluster.ray_session import in_ray_job, ray_session
from trainplane.environ import with_variables
from trainplane.errors import RunFailed, UserError
from trainplane.serving.engine import BadOutput, EngineBusy, Output, ServedVersion
from trainplane.serving.service import Service

# Of Ray Serve's own checks of its proxy, seconds: on a busy machine the defaults, 5 and 10, end it again and again.
_PATIENCE = {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    # Ray's workers wait behind all other processes of a machine, by 15; here users wait for them.
    "RAY_worker_niceness": "0",
}
APPLICATION = "isnet"
FILLS, PAGE = "fills", "page"
# Attempts at a request whose replica is lost.
_ATTEMPTS = 5
_PAUSE_S = 0.5
_REPLICA_CPUS = 1
# More at once than any queue of ours lets in.
_MOST_AT_PAGE = 1000
# Of Ray Serve, a minute each.
_STARTS = 5
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


@dataclass(frozen=True)
class ReplicaSettings:
    """Replicas that compute."""

    replicas: int = 1
    gpus: float = 0.0  # Of each replica
    workers: int = 1  # Fills at once in each


@dataclass(frozen=True)
class ReplicaAnswer:
    """Answer of a replica; errors travel as words."""

    output: Output | None = None
    served: ServedVersion | None = None
    refusal: str | None = None  # The inputs cannot be used
    bad_output: str | None = None
    failure: str | None = None


class FillReplica:
    """Process that computes, with the models that are open."""

    def __init__(self, context: Context, environment: dict[str, str], name: str, workers: int, max_pixels: int) -> None:
        os.environ.update(environment)
        context.activate()
        self._engine = LocalEngine(context, name, workers=workers, max_pixels=max_pixels)
        self._served: dict[str, ServedVersion] = {}
        self._lock = asyncio.Lock()

    async def prepare(self, version: str) -> ReplicaAnswer:
        """Opens a version, once."""
        try:
            async with self._lock:
                if version not in self._served:
                    self._served[version] = await self._engine.prepare(version)
        except (RunFailed, ValueError) as error:
            return ReplicaAnswer(failure=str(error))
        return ReplicaAnswer(served=self._served[version])

    async def answer(
        self, version: str, inputs: Mapping[str, bytes], options: Mapping[str, object], wanted: tuple[str, ...]
    ) -> ReplicaAnswer:
        """Answers a request; versions that are not wanted are forgotten."""
        for superfluous in self._served.keys() - {version, *wanted}:
            del self._served[superfluous]
            await self._engine.release(superfluous)
        # A replica that started later has not been told to open it.
        opened = await self.prepare(version)
        if opened.failure is not None:
            return opened
        try:
            return ReplicaAnswer(output=await self._engine.answer(version, inputs, options))
        except BadOutput as error:
            return ReplicaAnswer(bad_output=str(error))
        except (InputError, UserError) as error:
            return ReplicaAnswer(refusal=str(error))
        # Whatever a version's code raises is told as a text: its class may not exist where the page is.
        except Exception as error:
            return ReplicaAnswer(failure=f"{type(error).__name__}: {error}")

    async def who(self) -> int:
        """Process of this replica."""
        return os.getpid()


class ReplicaEngine:
    """Engine that asks replicas."""

    def __init__(self, handle: Any, replicas: int) -> None:
        self._handle, self._replicas = handle, replicas
        self._open: set[str] = set()

    async def prepare(self, version: str) -> ServedVersion:
        """Opens a version on the replicas, before it gets traffic."""
        # As many at once as there are replicas: the router gives each to the one with least to do.
        calls = [self._ask("prepare", version) for _ in range(self._replicas)]
        answers = await asyncio.gather(*calls)
        served = [answer.served for answer in answers if answer.served is not None]
        if len(served) < len(answers):
            raise RunFailed(next(answer.failure for answer in answers if answer.failure) or "a replica failed")
        self._open.add(version)
        return served[0]

    async def answer(self, version: str, inputs: Mapping[str, bytes], options: Mapping[str, object]) -> Output:
        """Answers on one of the replicas."""
        answer = await self._ask("answer", version, dict(inputs), dict(options), tuple(sorted(self._open)))
        if answer.refusal is not None:
            raise InputError(answer.refusal)
        if answer.bad_output is not None:
            raise BadOutput(answer.bad_output)
        if answer.output is None:
            raise RunFailed(answer.failure or "a replica gave no answer")
        return answer.output

    async def difference(self, one: Output, other: Output) -> Mapping[str, float]:
        """Compares two filled pictures."""
        return await asyncio.to_thread(difference, one.content, other.content)

    async def release(self, version: str) -> None:
        """Forgets a version; replicas are told with the next request."""
        self._open.discard(version)

    async def _ask(self, method: str, *words: Any) -> ReplicaAnswer:
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError

        for attempt in range(_ATTEMPTS):
            try:
                answer: ReplicaAnswer = await getattr(self._handle, method).remote(*words)
                return answer
            except BackPressureError as error:
                raise EngineBusy("all replicas are busy; try again in 2 s") from error
            # Errors of our code are words: this one is a lost process.
            except RayError:
                if attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(_PAUSE_S * (attempt + 1))
        raise AssertionError("the last attempt returns or raises")


def page_app(
    context: Context, environment: dict[str, str], plan: ServingPlan, settings: AppSettings, replicas: int
) -> FastAPI:
    """Builds the application in the page's replica."""
    from ray import serve

    os.environ.update(environment)
    context.activate()

    @asynccontextmanager
    async def serving() -> AsyncIterator[Service]:
        engine = ReplicaEngine(serve.get_deployment_handle(FILLS, APPLICATION), replicas)
        async with open_service(context, engine, plan, trace_queue(context, plan.options.name)) as service:
            yield service

    return build_app(serving, settings)


def application(context: Context, plan: ServingPlan, settings: AppSettings, replicas: ReplicaSettings) -> Any:
    """The application of Ray Serve, not started."""
    try:
        from ray import serve
    except ImportError as error:
        raise UserError(f"Ray Serve is not complete here ({error}); pip install 'isnet-platform[serve]'") from error

    portable = portable_context(context)
    options: dict[str, Any] = {"num_cpus": _REPLICA_CPUS, **({"num_gpus": replicas.gpus} if replicas.gpus else {})}
    fills = serve.deployment(FillReplica).options(
        name=FILLS,
        num_replicas=replicas.replicas,
        ray_actor_options=options,
        # One more than is computed: the next request is there when one ends.
        max_ongoing_requests=replicas.workers + 1,
        graceful_shutdown_timeout_s=20,
    )

    # A function: Ray Serve takes any other callable for the application itself.
    def build() -> FastAPI:
        return page_app(*portable, plan, settings, replicas.replicas)

    page = serve.deployment(serve.ingress(build)()).options(
        name=PAGE,
        num_replicas=1,
        # Whatever is reserved for it could be taken by the replicas: they would then wait for a page that never starts.
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_MOST_AT_PAGE,
        graceful_shutdown_timeout_s=20,
    )
    return page.bind(fills.bind(*portable, plan.options.name, replicas.workers, settings.max_pixels))


def serve_on_ray(
    context: Context,
    plan: ServingPlan,
    settings: AppSettings,
    replicas: ReplicaSettings,
    *,
    host: str,
    port: int,
    announce: Callable[[], None],
) -> None:
    """Serves on a job's or a private cluster until interrupted."""
    # Nothing of Ray is imported before: it reads its token, and these, once.
    patient = {name: os.environ.get(name, seconds) for name, seconds in _PATIENCE.items()}
    with with_variables(patient), ray_session() as ray:
        if (shortage := room_message(replicas, ray.cluster_resources())) is not None:
            # A cluster may grow; this machine does not.
            if not in_ray_job():
                raise UserError(shortage)
            notify(f"{shortage}, or wait until nodes have come")
        app = application(context, plan, settings, replicas)
        from ray import serve

        try:
            _start_proxy(serve, {"host": host, "port": port})
            serve.run(app, name=APPLICATION, route_prefix="/", blocking=False, logging_config=_QUIET)
            announce()
            threading.Event().wait()
        except KeyboardInterrupt:
            return
        finally:
            serve.shutdown()


def room_message(replicas: ReplicaSettings, resources: Mapping[str, float]) -> str | None:
    """Says what replicas need that a cluster does not have."""
    for name, each, option in (("CPU", _REPLICA_CPUS, ""), ("GPU", replicas.gpus, f" --gpus {replicas.gpus:g}")):
        needed, there = each * replicas.replicas, resources.get(name, 0.0)
        if needed > there:
            most = int(there // each)
            advice = f"give --replicas {most}" if most else "leave --gpus out"
            return f"--replicas {replicas.replicas}{option} needs {needed:g} {name}, and there is {there:g}; {advice}"
    return None


def _start_proxy(serve: Any, http_options: dict[str, Any]) -> None:
    """Starts Ray Serve; a busy machine needs minutes."""
    for _ in range(_STARTS):
        # It gives up after a minute, and goes on with what it has started when it is asked again.
        with suppress(TimeoutError):
            serve.start(proxy_location="HeadOnly", http_options=http_options, logging_config=_QUIET)
            return
    raise RunFailed(
        f"Ray Serve's proxy did not start in {_STARTS} minutes; see what keeps this machine busy, and try again"
    )
