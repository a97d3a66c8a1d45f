"""`isnet submit --priority N …` and `isnet queue list|stop|serve|quota`."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobs.cli.arguments import parse
from jobs.cli.format import duration
from jobs.cli.main import emit
from jobs.cli.streams import notify, write_report
from jobs.cluster.job_files import PACKAGES, job_environment, job_folder, job_python, named_context
from trainplane.cluster.context import Context
from trainplane.cluster.jobs import client, status
from trainplane.cluster.jobs import logs as following
from trainplane.cluster.shared_queue.archive import store_folder
from trainplane.cluster.shared_queue.decide import decide, rank
from trainplane.cluster.shared_queue.holder import HolderThread, QueueHolder, capacity_of
from trainplane.cluster.shared_queue.record import ALL, QueueJob, Quotas, Template
from trainplane.cluster.shared_queue.store import SharedQueue
from trainplane.command_line import command_line
from trainplane.config.canonical import canonical_json
from trainplane.errors import CLI, RunFailed, UserError
from trainplane.tracking import lineage

_POLL_S = 1.0


def submit_to_queue(args: argparse.Namespace, context: Context, command: list[str]) -> int:
    """Adds a command to the shared queue, and follows it."""
    queue = SharedQueue.of(context)
    if args.again:
        raise UserError("--again is not for the shared queue, where equal jobs are one; leave it out, or --priority")
    template = template_of(context, command, priority=args.priority, files=args.files, cpus=args.cpus)
    _check_quota(queue, template, capacity_of(client.connect(context)))
    stem = hashlib.sha256(canonical_json([template.words, template.entrypoint, _content(template)])).hexdigest()[:16]
    job = queue.add(QueueJob(id=f"isnet-{stem}", template=template, submitted=time.time()))
    notify(f"job {job.id} is in the queue, priority {job.template.priority}")
    if args.no_follow:
        emit(args, _payload(job), f"{job.id} is {job.state}; {command_line('queue', 'list')}")
        return 0
    job = _follow(args, context, queue, job)
    emit(args, _payload(job), f"job {job.id}: {job.status}{f' ({job.message})' if job.exit else ''}")
    return int(job.exit or 0)


def template_of(context: Context, command: list[str], *, priority: int, files: str | None, cpus: float) -> Template:
    """Stores what travels with a job; returns what starts it."""
    queue = SharedQueue.of(context)
    has_gpus = "GPU" in capacity_of(client.connect(context))
    with job_folder(context, command, files) as (folder, job_args):
        return Template(
            words=tuple(command),
            entrypoint=shlex.join([job_python(context), "-m", "jobs.cli.cluster_main", *job_args]),
            packages=tuple((package.name, store_folder(queue.store, package)) for package in PACKAGES),
            working_dir=store_folder(queue.store, folder),
            environment={**lineage.code_variables(), **named_context(), **job_environment(context)},
            needs=needs_of_command(command, has_gpus=has_gpus, cpus=cpus),
            cpus=cpus,
            user=lineage.user(),
            priority=priority,
        )


def needs_of_command(command: list[str], *, has_gpus: bool, cpus: float = 0.0) -> dict[str, float]:
    """Resources that a command takes of a cluster.

    A training takes its ranks, elastic ones the fewest that they run with; a search takes what there is.
    """
    parsed = parse(command)
    name = getattr(parsed, "command", None)
    own = {"CPU": cpus} if cpus else {"driver": 1.0}
    if name == "tune":
        return {"driver": 1.0, "CPU": ALL, **({"GPU": ALL} if has_gpus else {})}
    if name != "train":
        return {**own, "CPU": max(cpus, 1.0)}
    from jobs.config import load_run_config

    train = load_run_config(parsed.preset, parsed.overrides).train
    needs = {**own, "CPU": cpus + train.min_workers * train.cpus_per_worker}
    takes_gpus = train.use_gpu is True or (train.use_gpu == "auto" and has_gpus)
    return {**needs, **({"GPU": float(train.min_workers)} if takes_gpus else {})}


def list_jobs(args: argparse.Namespace, context: Context) -> int:
    """Lists jobs that wait or run, and why they wait."""
    queue = SharedQueue.of(context)
    jobs = [job for job in queue.jobs() if job.state != "ended"]
    reasons = decide(jobs, capacity_of(client.connect(context)), queue.quotas()).waiting
    ordered = sorted(jobs, key=lambda job: (not job.holds_room, rank(job)))
    rows = [{**_payload(job), "waits_for": reasons.get(job.id)} for job in ordered]
    emit(args, {"jobs": rows}, "\n".join(_line(job, reasons.get(job.id)) for job in ordered) or "nothing in the queue")
    return 0


def stop(args: argparse.Namespace, context: Context) -> int:
    """Takes a job out; a running one saves first."""
    queue = SharedQueue.of(context)
    job = _find(queue, args.job)
    if job.state == "ended":
        raise UserError(
            f"job {job.id} has ended ({job.status}); {command_line('queue', 'list')} shows what can be stopped"
        )
    queue.cancel(job.id)
    with _serving(context, queue):
        while (job := queue.find(job.id) or job).state != "ended":
            time.sleep(_POLL_S)
    emit(args, _payload(job), f"{job.id} is {job.status}")
    return 0


def serve(args: argparse.Namespace, context: Context) -> int:
    """Serves the queue until it is interrupted."""
    holder = QueueHolder(context, SharedQueue.of(context), emit=notify)
    client.connect(context)
    notify(f"serving the queue of context {context.name!r}; Ctrl-C ends it, and running jobs go on")
    thread, shown_error = HolderThread(holder), ""
    try:
        while True:
            time.sleep(_POLL_S)
            if thread.error != shown_error:
                shown_error = thread.error
                notify(f"the queue waits: {shown_error}" if shown_error else "the queue goes on")
    finally:
        thread.close()


def quota(args: argparse.Namespace, context: Context) -> int:
    """Shows or sets what users may take at once."""
    queue = SharedQueue.of(context)
    quotas = queue.quotas()
    options = {"jobs": args.jobs, "CPU": args.cpus, "GPU": args.gpus}
    changes = {name: amount for name, amount in options.items() if amount is not None}
    if args.user is not None and not args.user.strip():
        raise UserError("--user is empty; name a user, or leave it out for the default of all")
    if any(amount < 0 for amount in changes.values()):
        raise UserError("a quota is below 0, and nothing would ever start; give a number above 0, or 0 for no limit")
    if args.user is not None and not changes:
        raise UserError(f"no quota is given for {args.user}; add --jobs, --cpus or --gpus, 0 for no limit")
    if changes:
        before = quotas.default if args.user is None else quotas.users.get(args.user, {})
        limits = {name: amount for name, amount in {**before, **changes}.items() if amount > 0}
        if args.user is None:
            quotas = Quotas(limits, quotas.users)
        else:
            # A user without limits of one's own has those of all; 0 lifts these, too.
            own = {**limits, **{name: ALL for name, amount in changes.items() if amount == 0}}
            quotas = Quotas(quotas.default, {**quotas.users, args.user: own})
        queue.set_quotas(quotas)
    lines = [_quota_line("all users", quotas.default), *(_quota_line(*entry) for entry in sorted(quotas.users.items()))]
    emit(
        args,
        {"default": dict(quotas.default), "users": {u: dict(q) for u, q in quotas.users.items()}},
        "\n".join(lines),
    )
    return 0


def _quota_line(user: str, limits: Any) -> str:
    texts = [f"{amount:g} {name}" if amount < ALL else f"any {name}" for name, amount in limits.items()]
    return f"{user:<16} {', '.join(texts) or 'no limit'}"


def _check_quota(queue: SharedQueue, template: Template, capacity: dict[str, float]) -> None:
    """Refuses a job that the quota never lets start."""
    limits = queue.quotas().of(template.user)
    for name, limit in limits.items():
        needed = 1.0 if name == "jobs" else min(template.needs.get(name, 0.0), capacity.get(name, 0.0))
        if needed > limit:
            raise UserError(
                f"the job needs {needed:g} {name}, and {template.user}'s quota is {limit:g}: it would never start; ask "
                f"for less, or raise it: {command_line('queue', 'quota', '--user', template.user)}"
            )


def _content(template: Template) -> list[object]:
    return [template.packages, template.working_dir, dict(template.environment), template.cpus]


@contextmanager
def _serving(context: Context, queue: SharedQueue) -> Iterator[None]:
    """Serves the queue during the block, unless another does."""
    thread = HolderThread(QueueHolder(context, queue))
    try:
        yield
    finally:
        thread.close()


def _follow(args: argparse.Namespace, context: Context, queue: SharedQueue, job: QueueJob) -> QueueJob:
    """Prints a job's output of all attempts; Ctrl-C spares it."""
    output = sys.stderr if args.json else sys.stdout
    connection = client.connect(context)
    followed, last_text, start = 0, "", time.monotonic()
    try:
        with _serving(context, queue):
            while True:
                job = queue.find(job.id) or job
                if job.state == "ended":
                    return job
                # It is noted before the cluster has it: an attempt that is not there yet is asked for again.
                if job.state == "running" and job.attempts > followed and _follow_attempt(connection, job, output):
                    followed, last_text = job.attempts, ""
                    continue
                if job.state == "waiting" and (text := _waiting_text(queue, job, connection)) != last_text:
                    last_text = text
                    notify(f"job {job.id} waits: {text}")
                if job.attempts == 0 and time.monotonic() - start > args.wait:
                    queue.cancel(job.id)
                    raise RunFailed(
                        f"job {job.id} did not start within {args.wait} s and is taken out of the queue, where it "
                        f"waited for: {last_text}; raise --priority, or wait longer with --wait"
                    )
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        notify(
            f"job {job.id} stays in the queue, served by {command_line('queue', 'serve')} or whoever follows "
            f"a job; take it out with {command_line('queue', 'stop', job.id)}"
        )
        raise


def _follow_attempt(connection: Any, job: QueueJob, output: Any) -> bool:
    """Prints the output of an attempt; False if not found."""
    try:
        status.job_state(connection, job.ray_job)
    except UserError:
        return False
    try:
        following.wait_for_start(connection, job.ray_job, timeout_s=float("inf"), emit=notify)
        following.follow(connection, job.ray_job, lambda text: write_report(text, output, end=""))
    # The head was lost: the queue knows what becomes of the job.
    except (RunFailed, UserError) as error:
        notify(f"the output of job {job.ray_job} is not shown ({error})")
    return True


def _waiting_text(queue: SharedQueue, job: QueueJob, connection: Any) -> str:
    jobs = [each for each in queue.jobs() if each.state != "ended"]
    reason = decide(jobs, capacity_of(connection), queue.quotas()).waiting.get(job.id, "it starts in a moment")
    return f"{job.message}; {reason}" if job.message else reason


def _find(queue: SharedQueue, asked: str) -> QueueJob:
    jobs = queue.jobs()
    matches = [job for job in jobs if job.id == asked] or [
        job for job in jobs if job.id.startswith((asked, f"{CLI}-{asked}")) and job.state != "ended"
    ]
    if len(matches) != 1:
        number = "no job" if not matches else "several jobs"
        raise UserError(f"{number} of the queue begin with {asked!r}; {command_line('queue', 'list')} shows them")
    return matches[0]


def _line(job: QueueJob, reason: str | None) -> str:
    since = job.started if job.holds_room else job.submitted
    cells = [job.id, f"{job.state:<8}", f"{job.template.priority:>4}", f"{job.template.user:<10}"]
    cells += [f"{duration(time.time() - since):>8}", f"{CLI} {shlex.join(job.template.words)}"]
    return "  ".join(cells) + (f"  ({reason})" if reason else "")


def _payload(job: QueueJob) -> dict[str, object]:
    return {
        "job": job.id,
        "state": job.state,
        "priority": job.template.priority,
        "user": job.template.user,
        "command": f"{CLI} {shlex.join(job.template.words)}",
        "attempts": job.attempts,
        "ray_job": job.ray_job if job.attempts else None,
        "status": job.status or None,
        "exit": job.exit,
        "message": job.message,
        "submitted": job.submitted,
    }
