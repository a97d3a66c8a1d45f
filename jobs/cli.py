"""The command `isnet`: what can be typed, and where it is carried out.

Only this file knows the arguments; a command's module is imported when it is called, so that `isnet --help` answers
at once. Exit status: 0 done; 1 ran and failed; 2 the user's mistake, nothing was started; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Parser = argparse.ArgumentParser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest:
        _take_overrides(parser, args, rest)
    if not hasattr(args, "target"):
        parser.parse_args([*(argv if argv is not None else sys.argv[1:]), "--help"])
    _quiet_third_parties()
    # A polite end is an end: whatever was started is taken down on the way out, as after Ctrl-C.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    module, _, function = args.target.partition(":")

    from isnet.errors import InputError
    from trainplane.errors import RunFailed, UserError

    try:
        with _report_alone(args):
            status = getattr(importlib.import_module(module), function)(args)
    except (UserError, InputError) as error:
        return _say(str(error), 2)
    except RunFailed as error:
        return _say(str(error), 1)
    except BrokenPipeError:
        # Whoever read our output has seen enough (`isnet … | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _say(f"interrupted{RESUMABLE.get(args.target, '')}", 130)
    return int(status or 0)


def _take_overrides(parser: Parser, args: argparse.Namespace, rest: list[str]) -> None:
    """Settings that stand behind an option (`train demo --fresh train.steps=9`), which argparse leaves over."""
    if not hasattr(args, "overrides") or any("=" not in word or word.startswith("-") for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.overrides += rest


RESUMABLE = {
    **dict.fromkeys(
        ("jobs.demo:demo", "jobs.train:train", "jobs.tune:tune"),
        "; run the same command again to go on from the last checkpoint",
    ),
    "jobs.pack:pack": "; run the same command again to go on after the shards that are stored",
}


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _say(sentence: str, status: int) -> int:
    print(f"isnet: {sentence}", file=sys.stderr)
    return status


def emit(args: argparse.Namespace, payload: dict[str, Any], text: str) -> None:
    """The report of a command: one JSON object with `--json`, else text. Nothing else goes to standard output."""
    print(json.dumps(payload, ensure_ascii=False) if args.json else text, file=args.report, flush=True)


@contextmanager
def _report_alone(args: argparse.Namespace) -> Iterator[None]:
    """With `--json`, standard output is the report's alone: whatever else is written there, by libraries and their
    child processes too, goes to standard error."""
    args.report = sys.stdout
    if not getattr(args, "json", False):
        yield
        return
    sys.stdout.flush()
    kept, before = os.dup(1), sys.stdout
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as args.report:
            yield
    finally:
        sys.stdout = before
        os.dup2(kept, 1)
        os.close(kept)


def _quiet_third_parties() -> None:
    """Settings that libraries read at import, here because it must happen before any of them is imported."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        # Its own handler makes an interrupted search look finished.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "GIT_PYTHON_REFRESH": "quiet",
        # What goes right at MLflow is not our users' news.
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }.items():
        os.environ.setdefault(name, value)


def build_parser() -> Parser:
    """All commands with their arguments."""
    parser = Parser(
        prog="isnet",
        description="Train, search, record and promote ISNet, a GAN that fills holes in pictures.",
        epilog="Exit status: 0 done; 1 ran and failed; 2 a mistake in the call, nothing started; 130 interrupted.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    _demo(commands)
    _data(commands)
    _train(commands)
    _plan(commands)
    _tune(commands)
    _evaluate(commands)
    _inpaint(commands)
    _models(commands)
    _runs(commands)
    _submit(commands)
    _jobs(commands)
    _doctor(commands)
    _bench(commands)
    return parser


def _command(commands: Any, name: str, target: str, summary: str, **options: Any) -> Parser:
    parser: Parser = commands.add_parser(name, help=summary, description=summary, **options)
    parser.set_defaults(target=target, command=name)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output, nothing else")
    parser.add_argument("--context", metavar="NAME", help="where things are: a context of isnet.toml (default: local)")
    return parser


def _group(commands: Any, name: str, summary: str) -> Any:
    parser = commands.add_parser(name, help=summary, description=summary)
    return parser.add_subparsers(metavar="ACTION", title="actions", required=True)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small; need at least 1")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; need 0 or more")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port; need 0 to 65535")
    return value


def _bytes(text: str) -> int:
    """`64M`, `1.5G` or a plain number of bytes."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    unit = units.get(text[-1:].upper(), 1)
    try:
        value = int(float(text[:-1] if unit > 1 else text) * unit)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; need bytes such as 64M") from error
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small; need at least 1 byte")
    return value


def _demo(commands: Any) -> None:
    parser = _command(
        commands, "demo", "jobs.demo:demo", "the whole story on this machine, small, on real photos, in a few minutes"
    )
    parser.add_argument("--photos", metavar="DIR", help="folder of photos (default: those of installed packages)")
    parser.add_argument("--steps", type=_count, metavar="N", help="training steps (default: the preset's)")
    parser.add_argument(
        "--fresh", action="store_true", help="train anew instead of going on with the run that is there"
    )
    parser.add_argument(
        "--port", type=_port, default=0, metavar="N", help="port of the object store (default: a free one)"
    )


def _data(commands: Any) -> None:
    actions = _group(commands, "data", "photos to shards, and what is in them")
    pack = _command(actions, "pack", "jobs.pack:pack", "photos (folder, list, tar, zip) to shards with a manifest")
    pack.add_argument("source", metavar="SRC", help="folder, s3://bucket/prefix, .txt list of paths, .tar or .zip")
    pack.add_argument(
        "destination", metavar="DEST", help="s3://bucket/prefix, a folder, or a name in the dataset store"
    )
    pack.add_argument("--name", help="name of the dataset (default: last part of DEST)")
    pack.add_argument(
        "--layout", choices=("folder", "places2", "celeba"), default="folder", help="whose lists and splits SRC has"
    )
    pack.add_argument("--lists", metavar="DIR", help="where a layout's lists are (default: in SRC and beside it)")
    pack.add_argument(
        "--split", default="all", help="a layout's split, the side of --shares, or just what this is (default: all)"
    )
    pack.add_argument(
        "--shares",
        metavar="A=PCT,B=PCT",
        help="pack only the side --split, such as train=95,val=5; a picture's side follows from its bytes alone",
    )
    pack.add_argument("--shard-bytes", type=_bytes, default=64 * 2**20, metavar="SIZE", help="about, default 64M")
    pack.add_argument("--max-side", type=_count, metavar="PX", help="shrink larger pictures and re-encode them as JPEG")
    pack.add_argument("--quality", type=_count, default=90, metavar="1-100", help="of re-encoded JPEG, default 90")
    pack.add_argument("--kind", choices=("photos", "masks"), default="photos", help="masks: white = hole, PNG")
    pack.add_argument("--black-is-hole", action="store_true", help="the masks are the other way round")
    pack.add_argument(
        "--parallel",
        type=_whole,
        metavar="N",
        help="Ray tasks at once; 0: this process (default: 0, in a job of a cluster all its processors)",
    )
    pack.add_argument("--replace", action="store_true", help="replace a dataset of other content at DEST")
    verify = _command(actions, "verify", "jobs.pack:verify", "re-check every byte of a dataset")
    verify.add_argument("dataset", metavar="DATASET")
    verify.add_argument("--repair", metavar="FROM", help="take what is damaged from this copy, where that is sound")
    show = _command(actions, "show", "jobs.pack:show", "describe a dataset")
    show.add_argument("dataset", metavar="DATASET")


def _train(commands: Any) -> None:
    parser = _command(commands, "train", "jobs.train:train", "one run; goes on with the run it finds")
    _preset(parser, "PRESET")
    parser.add_argument("--fresh", action="store_true", help="start a new run instead of going on")


def _plan(commands: Any) -> None:
    actions = _group(commands, "plan", "what a command would take and why it would be refused; starts nothing")
    train = _command(
        actions,
        "train",
        "jobs.plan:plan_train",
        "workers, memory, bytes, steps, time and cost of a run; exit 2: refused",
    )
    _preset(train, "PRESET")
    train.add_argument("--fresh", action="store_true", help="of a new run instead of going on")
    train.add_argument(
        "--measure", action="store_true", help="time a few real steps here (default: the last run like it)"
    )


def _preset(parser: Parser, metavar: str) -> None:
    parser.add_argument(
        "preset",
        metavar=metavar,
        help="a shipped name (demo, places2, celeba, …) or a YAML file; PRESET+laptop is any of them, shrunk",
    )
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings on top, such as train.steps=200")


def _tune(commands: Any) -> None:
    parser = _command(commands, "tune", "jobs.tune:tune", "one search: many runs under one parent")
    _preset(parser, "SEARCH")


def _evaluate(commands: Any) -> None:
    parser = _command(commands, "evaluate", "jobs.evaluate:evaluate", "the table by hole ratio")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("dataset", metavar="DATASET", help="held-out pictures")
    parser.add_argument(
        "--masks", default="irregular", help="a generator's name or a mask dataset (default: irregular)"
    )
    parser.add_argument("--size", type=_count, metavar="PX", help="side of the centre square (default: the model's)")
    parser.add_argument("--seed", type=int, default=0, help="of the fixed list of masks, default 0")
    parser.add_argument(
        "--definition", choices=("isnet", "edge_connect", "skimage"), default="isnet", help="of PSNR, SSIM and L1"
    )


MODEL_HELP = (
    "models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID, a checkpoint's address, author:PATH, "
    "or classical:mean|telea|ns|biharmonic"
)


def _inpaint(commands: Any) -> None:
    parser = _command(commands, "inpaint", "jobs.inpaint:inpaint", "fill the hole of a picture, or of a folder of them")
    parser.add_argument("image", metavar="IMAGE", help="a picture or a folder")
    parser.add_argument("mask", metavar="MASK", help="white = hole; a file, or a folder with the pictures' names")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="file, or folder for a folder")
    parser.add_argument("--model", default="models:/isnet@production", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--raw", action="store_true", help="the network's whole prediction, not only inside the hole")
    parser.add_argument("--black-is-hole", action="store_true", help="the mask is the other way round")
    parser.add_argument("--resize-mask", action="store_true", help="stretch a mask of another size over the picture")


def _models(commands: Any) -> None:
    actions = _group(commands, "models", "the registry: versions, gates, promotion")
    _command(actions, "list", "jobs.models:list_models", "registered models")
    show = _command(actions, "show", "jobs.models:show", "versions of a model and what stands behind each")
    show.add_argument("name", metavar="NAME")
    register = _command(actions, "register", "jobs.models:register", "make a run's last checkpoint a model version")
    register.add_argument("source", metavar="RUN", help="runs:/ID or a checkpoint's address")
    register.add_argument("--name", default="isnet", help="registered model, default isnet")
    promote = _command(actions, "promote", "jobs.models:promote", "move an alias to a version that passes its gates")
    promote.add_argument("name", metavar="NAME")
    promote.add_argument("version", metavar="VERSION")
    promote.add_argument("--to", default="production", metavar="ALIAS", help="default production")
    promote.add_argument("--dataset", metavar="DATASET", help="held-out set (default: the one it was evaluated on)")
    promote.add_argument("--gates", metavar="FILE", help="YAML of rules (default: the shipped ones)")
    promote.add_argument("--expect", metavar="VERSION", help="refuse unless this is the current one; 'none' for none")
    promote.add_argument("--force", metavar="REASON", help="move it although a gate refused; kept in the audit")
    rollback = _command(actions, "rollback", "jobs.models:rollback", "back to the version in production before")
    rollback.add_argument("name", metavar="NAME")
    rollback.add_argument("--to", default="production", metavar="ALIAS", help="default production")
    audit = _command(actions, "audit", "jobs.models:audit", "every move of a model's aliases")
    audit.add_argument("name", metavar="NAME")
    audit.add_argument("--verify", action="store_true", help="check the chain and that aliases stand where it says")


def _runs(commands: Any) -> None:
    actions = _group(commands, "runs", "what was run")
    _command(actions, "list", "jobs.runs:list_runs", "runs, newest first")
    show = _command(actions, "show", "jobs.runs:show", "what a run was made of and how it ended")
    show.add_argument("run", metavar="RUN", help="MLflow run id")
    reproduce = _command(
        actions, "reproduce", "jobs.reproduce:reproduce", "write how to run it again; check that all of it is there"
    )
    reproduce.add_argument("run", metavar="RUN", help="MLflow run id")
    reproduce.add_argument("-o", "--output", metavar="DIR", help="default reproduce- and the id's first 8 letters")
    _command(actions, "sync", "jobs.runs:sync", "send what is still spooled on this machine")
    ui = _command(commands, "ui", "jobs.runs:ui", "serve MLflow's pages on loopback until interrupted")
    ui.add_argument("--port", type=_port, default=5000, metavar="N", help="default 5000")


def _submit(commands: Any) -> None:
    parser = _command(commands, "submit", "jobs.submit:submit", "run a command as a job of the context's Ray cluster")
    parser.add_argument("--no-follow", action="store_true", help="return once it is accepted instead of following it")
    parser.add_argument("--again", action="store_true", help="submit although the same job was submitted before")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND …", help="such as: train demo")


def _jobs(commands: Any) -> None:
    actions = _group(commands, "jobs", "jobs on the context's Ray cluster")
    _command(actions, "list", "jobs.submit:list_jobs", "jobs, newest first")
    for name, summary in (("show", "one job's state"), ("logs", "one job's output"), ("stop", "end a job")):
        action = _command(actions, name, f"jobs.submit:{name}", summary)
        action.add_argument("job", metavar="JOB")


def _doctor(commands: Any) -> None:
    _command(commands, "doctor", "jobs.doctor:doctor", "is everything reachable and allowed; what to do where not")


def _bench(commands: Any) -> None:
    actions = _group(commands, "bench", "measure anew the figures of docs/LOG.md")
    step = _command(actions, "step", "jobs.bench.step:step", "our training step against the released code's, in turns")
    step.add_argument("--sizes", metavar="PX,…", default="64,128,256", help="default 64,128,256")
    step.add_argument("--rounds", type=_count, default=5, metavar="N", help="turns of each way, default 5")
    step.add_argument("--batch", type=_count, metavar="N", help="pictures a step (default: 8, 4, 2 at 64, 128, 256 px)")
    step.add_argument("--blocks", type=_count, default=4, metavar="N", help="residual blocks, default the paper's 4")
    step.add_argument(
        "--curve-steps", type=_whole, default=24, metavar="N", help="of comparing losses at the first size; 0: none"
    )
    step.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU where there is one"
    )
    pack = _command(actions, "pack", "jobs.bench.pack:pack", "pictures per second of packing, by numbers of Ray tasks")
    pack.add_argument("photos", metavar="PHOTOS", help="folder, list or plain tar of pictures")
    pack.add_argument("--tasks", metavar="N,…", default="0,1,2", help="Ray tasks at once; 0: none; default 0,1,2")
    pack.add_argument("--repeat", type=_count, default=4, metavar="N", help="times each picture is packed, default 4")
    pack.add_argument("--rounds", type=_count, default=3, metavar="N", help="turns of each way, default 3")
    pack.add_argument("--max-side", type=_count, metavar="PX", help="shrink larger pictures, as `data pack` does")
    pack.add_argument("--shard-bytes", type=_bytes, default=8 * 2**20, metavar="SIZE", help="about, default 8M")
    faults = _command(
        actions,
        "faults",
        "jobs.bench.faults:faults",
        "an epoch from a failing S3 server: what arrives, at what cost",
    )
    faults.add_argument("--samples", type=_count, default=4096, metavar="N", help="in the dataset, default 4096")
    faults.add_argument("--sample-bytes", type=_bytes, default=2**15, metavar="SIZE", help="on average, default 32K")
    faults.add_argument("--seed", type=int, default=0, help="of bytes, order and faults, default 0")
    loader = _command(
        actions,
        "loader",
        "jobs.bench.loader:loader",
        "our loader against its peers and bare decoding, from one S3 server",
    )
    loader.add_argument("--photos", metavar="DIR", help="JPEG photos to measure on, beside made pictures")
    loader.add_argument("--samples", type=_count, default=16384, metavar="N", help="in a set, default 16384")
    loader.add_argument("--pictures", type=_count, default=2048, metavar="N", help="in a measurement, default 2048")
    loader.add_argument("--rounds", type=_count, default=3, metavar="N", help="turns of each reader, default 3")
    loader.add_argument("--only", metavar="SET,…", help="of: photos, photos-large, synthetic, synthetic-large")
    loader.add_argument(
        "--mds-python", metavar="PATH", help="Python with mosaicml-streaming, which needs an older numpy than we do"
    )
    tracking = _command(
        actions,
        "tracking",
        "jobs.bench.tracking:tracking",
        "what recording costs a training, whether all of it arrives",
    )
    tracking.add_argument("--seconds", type=_count, default=20, metavar="N", help="in each server state, default 20")
    tracking.add_argument("--points", type=_count, default=100_000, metavar="N", help="over the outage, default 100000")
    tracking.add_argument("--steps", type=_count, default=10_000, metavar="N", help="of 20 metrics, default 10000")
    tracking.add_argument("--sample", type=_count, default=2000, metavar="N", help="points one by one, default 2000")
    order = _command(
        actions, "order", "jobs.bench.order:order", "what the order of samples costs, how well it shuffles"
    )
    order.add_argument("--samples", type=_count, default=10**7, metavar="N", help="to plan, default 10 million")
    order.add_argument("--ranks", type=_count, default=1024, metavar="N", help="default 1024")
    order.add_argument("--index-samples", type=_count, default=10**6, metavar="N", help="default a million")
    overhead = _command(
        actions,
        "overhead",
        "jobs.bench.overhead:overhead",
        "what `isnet train` costs beside a bare torch loop, in turns",
    )
    overhead.add_argument("preset", nargs="?", default="demo", metavar="PRESET", help="default demo")
    overhead.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings on top, such as model.width=32")
    overhead.add_argument("--steps", type=_count, default=20, metavar="N", help="counted in each run, default 20")
    overhead.add_argument("--rounds", type=_count, default=5, metavar="N", help="turns of each way, default 5")
    overhead.add_argument("--loader-workers", type=_whole, default=0, metavar="N", help="of each way, default 0")
    overhead.add_argument("--threads", type=_count, default=1, metavar="N", help="of torch, default 1")
    checkpoint = _command(
        actions,
        "checkpoint",
        "jobs.bench.checkpoint:checkpoint",
        "what a checkpoint of the full state takes from training",
    )
    checkpoint.add_argument("--every", type=_count, default=160, metavar="N", help="steps between two, default 160")
    checkpoint.add_argument("--checkpoints", type=_count, default=2, metavar="N", help="measured, default 2")
    checkpoint.add_argument("--polls", type=_count, default=10_000, metavar="N", help="of a reader, default 10,000")


if __name__ == "__main__":
    sys.exit(main())
