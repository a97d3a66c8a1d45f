"""`isnet submit COMMAND …`: runs it as a job."""

from __future__ import annotations

import argparse
import shlex

from jobs.cli.arguments import parse
from jobs.cli.main import emit
from jobs.cli.streams import notify
from jobs.cluster.job_files import PACKAGES, job_environment, job_folder, job_python, named_context
from jobs.cluster.portable_args import check_context, check_settings, portable_args
from jobs.commands.cluster.jobs import end_text, follow, job_payload
from jobs.commands.cluster.queue import submit_to_queue
from trainplane.cluster.context import Context
from trainplane.cluster.jobs import client, status
from trainplane.cluster.jobs.submit import submit as hand_over
from trainplane.command_line import command_line
from trainplane.errors import UserError
from trainplane.tracking import lineage

# Commands for the user's own machine.
NOT_REMOTE = (
    "submit",
    "jobs",
    "queue",
    "schedule",
    "notify",
    "ui",
    "demo",
    "stack",
    "bench",
    "config",
    "completion",
    "help",
)
# Its own options, and how many values each takes.
OPTIONS = {"--no-follow": 0, "--again": 0, "--files": 1, "--cpus": 1, "--priority": 1, "--wait": 1}


def submit(args: argparse.Namespace, context: Context) -> int:
    """Submits a command as a job and follows it."""
    check_context(context)
    command = job_command(list(args.words), context)
    if args.priority is not None:
        return submit_to_queue(args, context, command)
    with job_folder(context, command, args.files) as (folder, job_args):
        job, is_new = hand_over(
            context,
            command,
            entrypoint=shlex.join([job_python(context), "-m", "jobs.cli.cluster_main", *job_args]),
            packages=PACKAGES,
            working_dir=folder,
            environment=job_environment(context),
            again=args.again,
            cpus=args.cpus,
            facts={**lineage.code_variables(), **named_context()},
        )
    # The same job is submitted once: its id is a digest of the code, the command and the files.
    notify(f"{'submitted' if is_new else 'following the earlier'} job {job}")
    connection = client.connect(context)
    if args.no_follow:
        state = status.job_state(connection, job)
        emit(args, job_payload(state), f"{job} is {state.status}; {command_line('jobs', 'logs', job, '--follow')}")
        return 0
    state = follow(args, connection, job, wait_s=args.wait)
    emit(args, job_payload(state), end_text(state))
    return state.exit_status


def job_command(words: list[str], context: Context) -> list[str]:
    """Checks a command and makes its arguments portable."""
    if not words:
        raise UserError(f"nothing to submit; need a command, for example: {command_line('submit', 'train', 'demo')}")
    if words[0] in NOT_REMOTE:
        raise UserError(
            f"`isnet {words[0]}` runs on your machine; submit train, tune, evaluate, inpaint or data instead"
        )
    try:
        parsed = parse(words)
    except UserError as error:
        raise _option_behind(words, error) or error from None
    # Of a training the settings are checked here, too.
    if getattr(parsed, "command", None) == "train":
        from jobs.config import load_run_config

        check_settings(load_run_config(parsed.preset, parsed.overrides), context)
    return portable_args(words, parsed, context)


def _option_behind(words: list[str], error: UserError) -> UserError | None:
    """Explains that an option of submit stands before the command."""
    for position, word in enumerate(words):
        if word in OPTIONS and str(error).startswith(f"{word} is no option"):
            option = words[position : position + 1 + OPTIONS[word]]
            rest = [*words[:position], *words[position + len(option) :]]
            return UserError(
                f"{word} is an option of submit and stands before the command: {command_line('submit', *option, *rest)}"
            )
    return None
