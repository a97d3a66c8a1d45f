"""`isnet submit COMMAND …` and `isnet jobs …`: the same commands on the context's Ray cluster."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import isnet as isnet_package
import jobs as jobs_package
import trainplane as trainplane_package
from jobs.cli import build_parser, emit
from jobs.sending import check_context, check_settings, is_remote, sendable
from trainplane.cluster import dashboard, following, job_state, parcels
from trainplane.cluster.context import Context, resolve
from trainplane.cluster.submit import submit as hand_over
from trainplane.errors import UserError
from trainplane.tracking import lineage

# Commands that make sense only where the user sits.
NOT_REMOTE = ("submit", "jobs", "ui", "demo", "stack", "bench")


def submit(args: argparse.Namespace) -> int:
    """The command `isnet submit`."""
    context = resolve(args.context)
    context.activate()
    check_context(context)
    words = _checked(list(args.words), context)
    with _working_dir(context, words, args.files) as (folder, sent):
        job, is_new = hand_over(
            context,
            words,
            entrypoint=shlex.join([_python(context), "-m", "jobs.arrived", *sent]),
            packages=[Path(str(package.__file__)).parent for package in _PACKAGES],
            working_dir=folder,
            environment=_environment(context),
            again=args.again,
            cpus=args.cpus,
            facts=lineage.travelling(),
        )
    _say(f"{'submitted' if is_new else 'following the earlier'} job {job}")
    connection = dashboard.client(context)
    if args.no_follow:
        state = job_state.state_of(connection, job)
        emit(args, _payload(state), f"{job} is {state.status}; isnet jobs logs {job}")
        return 0
    output = sys.stderr if args.json else sys.stdout

    def write(text: str) -> None:
        print(text, end="", file=output, flush=True)

    try:
        following.await_start(connection, job, timeout_s=args.wait, say=_say)
        state = following.follow(connection, job, write)
    except KeyboardInterrupt:
        _say(f"the job goes on; isnet jobs logs {job}, or isnet jobs stop {job}")
        raise
    # The message repeats the log, which was passed on already.
    reason = f" ({state.message.partition(', last available logs')[0]})" if state.exit_status else ""
    emit(args, _payload(state), f"job {job}: {state.status}{reason}")
    return state.exit_status


def _say(text: str) -> None:
    print(f"isnet: {text}", file=sys.stderr, flush=True)


def _python(context: Context) -> str:
    """The interpreter of the job: that of the cluster's image, or on this machine the one that runs now."""
    return "python" if is_remote(context) else sys.executable


_PACKAGES = (isnet_package, jobs_package, trainplane_package)


def _checked(words: list[str], context: Context) -> list[str]:
    """The words to send; refuses here what the job would refuse there, before anything is uploaded."""
    if not words:
        raise UserError("nothing to submit; need a command, for example: isnet submit train demo")
    if words[0] in NOT_REMOTE:
        raise UserError(f"`isnet {words[0]}` runs where you sit; submit train, tune, evaluate, inpaint or data instead")
    parsed, rest = build_parser().parse_known_args(words)
    if getattr(parsed, "command", None) == "train":
        from jobs.config import load_run_config

        overrides = [*parsed.overrides, *(word for word in rest if "=" in word)]
        check_settings(load_run_config(parsed.preset, overrides), context)
    return sendable(words, parsed, context)


def _environment(context: Context) -> dict[str, str]:
    """Variables of the job, none of them secret. A cluster on this machine shares our folder; another one cannot."""
    shared = {} if is_remote(context) else {"ISNET_HOME": str(context.home)}
    return {"PYTHONUNBUFFERED": "1", **shared}


@contextmanager
def _working_dir(context: Context, words: list[str], files: str | None) -> Iterator[tuple[Path, list[str]]]:
    """A folder with what the job needs beside the code: the context without its secrets, YAML files that are named, and
    what is in the folder `files`."""
    with tempfile.TemporaryDirectory(prefix="isnet-job-") as name:
        folder = Path(name)
        if files is not None:
            source = Path(files).expanduser()
            if not source.is_dir():
                raise UserError(f"--files {files}: there is no such folder")
            parcels.check_upload(source)
            shutil.copytree(source, folder, dirs_exist_ok=True)
        sent = list(words)
        for position, word in enumerate(words):
            if word.endswith((".yaml", ".yml")) and Path(word).expanduser().is_file():
                shutil.copyfile(Path(word).expanduser(), folder / Path(word).name)
                sent[position] = f"./{Path(word).name}"
        (folder / "isnet.toml").write_text(_context_file(context), encoding="utf-8")
        yield folder, sent


def _context_file(context: Context) -> str:
    """The context as the job sees it: no `ray` (it is there already), secrets from the cluster's own environment."""
    places = {name: getattr(context, name) for name in ("tracking", "datasets", "checkpoints", "artifacts", "audit")}
    lines = [f"default = {json.dumps(context.name)}", "", f"[context.{json.dumps(context.name)}]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in places.items()]
    for key, variable in (("s3_endpoint", "AWS_ENDPOINT_URL"), ("s3_region", "AWS_DEFAULT_REGION")):
        if variable in context.environment:
            lines.append(f"{key} = {json.dumps(context.environment[variable])}")
    return "\n".join(lines) + "\n"


def list_jobs(args: argparse.Namespace) -> int:
    """`isnet jobs list`"""
    found = job_state.states(_connect(args))[::-1]
    text = "\n".join(f"{state.job}  {state.status:<9}  {state.entrypoint}" for state in found) or "no jobs"
    emit(args, {"jobs": [_payload(state) for state in found]}, text)
    return 0


def show(args: argparse.Namespace) -> int:
    """`isnet jobs show JOB`"""
    state = job_state.state_of(_connect(args), args.job)
    emit(args, _payload(state), "\n".join(f"{key:<11} {value}" for key, value in _payload(state).items()))
    return 0


def logs(args: argparse.Namespace) -> int:
    """`isnet jobs logs JOB`"""
    connection = _connect(args)
    job_state.state_of(connection, args.job)
    text = connection.get_job_logs(args.job)
    emit(args, {"job": args.job, "logs": text}, text.rstrip("\n"))
    return 0


def stop(args: argparse.Namespace) -> int:
    """`isnet jobs stop JOB`"""
    connection = _connect(args)
    job_state.state_of(connection, args.job)
    was_waiting = job_state.state_of(connection, args.job).status == "PENDING"
    connection.stop_job(args.job)
    if was_waiting:
        # Ray ends a job that waits when its turn would come, or when its patience ends.
        state = job_state.state_of(connection, args.job)
        emit(args, _payload(state), f"{args.job} was told to stop; it waits, and ends when its turn would come")
        return 0
    state = job_state.wait(connection, args.job, timeout_s=60.0)
    emit(args, _payload(state), f"{args.job} is {state.status}")
    return 0


def _connect(args: argparse.Namespace) -> Any:
    context = resolve(args.context)
    context.activate()
    return dashboard.client(context)


def _payload(state: job_state.JobState) -> dict[str, object]:
    return {
        "job": state.job,
        "status": state.status,
        "message": state.message,
        "entrypoint": state.entrypoint,
        "exit": state.exit_status if state.is_over else None,
    }
