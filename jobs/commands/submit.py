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
from jobs.cli.main import build_parser, emit
from jobs.cluster.portable_args import check_context, check_settings, is_remote, sendable
from trainplane.cluster.context import CONFIG_FILE, Context, resolve
from trainplane.cluster.jobs import client, status, upload
from trainplane.cluster.jobs import logs as following
from trainplane.cluster.jobs.submit import submit as hand_over
from trainplane.config import yaml
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
            entrypoint=shlex.join([_python(context), "-m", "jobs.cli.cluster_main", *sent]),
            packages=[Path(str(package.__file__)).parent for package in _PACKAGES],
            working_dir=folder,
            environment=_environment(context),
            again=args.again,
            cpus=args.cpus,
            facts=lineage.travelling(),
        )
    _say(f"{'submitted' if is_new else 'following the earlier'} job {job}")
    connection = client.client(context)
    if args.no_follow:
        state = status.state_of(connection, job)
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
    if unknown := [
        word for word in rest if "=" not in word or word.startswith("-") or not hasattr(parsed, "overrides")
    ]:
        raise UserError(
            f"`isnet {words[0]}` does not take {' '.join(unknown)}; `isnet {words[0]} --help` says what it does"
        )
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
            upload.check_upload(source)
            if (source / CONFIG_FILE).is_dir():
                raise UserError(f"{source / CONFIG_FILE}: the job's context is written there; rename that folder")
            shutil.copytree(source, folder, dirs_exist_ok=True)
        sent = list(words)
        for position, word in enumerate(words):
            # `mine.yaml+laptop` is a file with a layer on top.
            name, plus, layers = word.partition("+")
            if name.endswith((".yaml", ".yml")) and (file := Path(name).expanduser()).is_file():
                _take_along(file, folder / file.name)
                sent[position] = f"./{file.name}{plus}{layers}"
                _take_bases(file, folder, is_remote=is_remote(context))
        (folder / CONFIG_FILE).write_text(_context_file(context), encoding="utf-8")
        yield folder, sent


def _take_along(file: Path, target: Path) -> None:
    if target.exists() and (not target.is_file() or target.read_bytes() != file.read_bytes()):
        raise UserError(f"{file}: another file of the name {target.name} travels with this job; rename one of them")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)


def _take_bases(file: Path, folder: Path, *, is_remote: bool) -> None:
    """The YAML files that stand underneath, under the paths by which `base:` names them."""
    seen = {file.resolve()}
    while (base := _base_of(file)) is not None and base.resolve() not in seen:
        if base.is_absolute() and not is_remote:
            return
        if base.is_absolute() or ".." in base.parts:
            raise UserError(f"{file}: base: {base} does not travel with the job; name a file in or below this folder")
        _take_along(base, folder / base)
        seen.add(base.resolve())
        file = base


def _base_of(file: Path) -> Path | None:
    """The file that `base:` names, or None: what is wrong with it is said by whoever reads it as a preset."""
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    base = tree.get("base") if isinstance(tree, dict) else None
    name = base.partition("+")[0] if isinstance(base, str) else ""
    return Path(name) if name.endswith((".yaml", ".yml")) and Path(name).is_file() else None


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
    found = status.states(_connect(args))[::-1]
    text = "\n".join(f"{state.job}  {state.status:<9}  {state.entrypoint}" for state in found) or "no jobs"
    emit(args, {"jobs": [_payload(state) for state in found]}, text)
    return 0


def show(args: argparse.Namespace) -> int:
    """`isnet jobs show JOB`"""
    state = status.state_of(_connect(args), args.job)
    emit(args, _payload(state), "\n".join(f"{key:<11} {value}" for key, value in _payload(state).items()))
    return 0


def logs(args: argparse.Namespace) -> int:
    """`isnet jobs logs JOB`"""
    connection = _connect(args)
    status.state_of(connection, args.job)
    text = following.whole_log(connection, args.job)
    emit(args, {"job": args.job, "logs": text}, text.rstrip("\n"))
    return 0


def stop(args: argparse.Namespace) -> int:
    """`isnet jobs stop JOB`"""
    connection = _connect(args)
    status.state_of(connection, args.job)
    was_waiting = status.state_of(connection, args.job).status == "PENDING"
    connection.stop_job(args.job)
    if was_waiting:
        # Ray ends a job that waits when its turn would come, or when its patience ends.
        state = status.state_of(connection, args.job)
        emit(args, _payload(state), f"{args.job} was told to stop; it waits, and ends when its turn would come")
        return 0
    state = status.wait(connection, args.job, timeout_s=60.0)
    emit(args, _payload(state), f"{args.job} is {state.status}")
    return 0


def _connect(args: argparse.Namespace) -> Any:
    context = resolve(args.context)
    context.activate()
    return client.client(context)


def _payload(state: status.JobState) -> dict[str, object]:
    return {
        "job": state.job,
        "status": state.status,
        "message": state.message,
        "entrypoint": state.entrypoint,
        "exit": state.exit_status if state.is_over else None,
    }
