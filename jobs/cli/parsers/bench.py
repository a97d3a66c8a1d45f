"""Arguments of `isnet bench`."""

from __future__ import annotations

from typing import Any

from jobs.cli.arg_types import command, count, group, size, whole


def bench(commands: Any) -> None:
    """Adds `isnet bench`."""
    actions = group(commands, "bench", "measure the figures of docs/LOG.md")
    step = command(actions, "step", "bench.step:step", "our training step against the released code's, alternating")
    step.add_argument("--sizes", metavar="PX,…", default="64,128,256", help="default 64,128,256")
    step.add_argument("--rounds", type=count, default=5, metavar="N", help="turns of each way, default 5")
    step.add_argument("--batch", type=count, metavar="N", help="pictures a step (default: 8, 4, 2 at 64, 128, 256 px)")
    step.add_argument("--blocks", type=count, default=4, metavar="N", help="residual blocks, default the paper's 4")
    step.add_argument(
        "--curve-steps", type=whole, default=24, metavar="N", help="of comparing losses at the first size; 0: none"
    )
    step.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU where there is one"
    )
    pack = command(actions, "pack", "bench.pack:pack", "pictures per second of packing, by numbers of Ray tasks")
    pack.add_argument("photos", metavar="PHOTOS", help="folder, list or plain tar of pictures")
    pack.add_argument("--tasks", metavar="N,…", default="0,1,2", help="Ray tasks at once; 0: none; default 0,1,2")
    pack.add_argument("--repeat", type=count, default=4, metavar="N", help="times each picture is packed, default 4")
    pack.add_argument("--rounds", type=count, default=3, metavar="N", help="turns of each way, default 3")
    pack.add_argument("--max-side", type=count, metavar="PX", help="shrink larger pictures, as `data pack` does")
    pack.add_argument("--shard-bytes", type=size, default=8 * 2**20, metavar="SIZE", help="about, default 8M")
    faults = command(
        actions,
        "faults",
        "bench.faults:faults",
        "an epoch from a failing S3 server: what arrives, at what cost",
    )
    faults.add_argument("--samples", type=count, default=4096, metavar="N", help="in the dataset, default 4096")
    faults.add_argument("--sample-bytes", type=size, default=2**15, metavar="SIZE", help="on average, default 32K")
    faults.add_argument("--seed", type=int, default=0, help="of bytes, order and faults, default 0")
    loader = command(
        actions,
        "loader",
        "bench.loader:loader",
        "our loader against its peers and bare decoding, from one S3 server",
    )
    loader.add_argument("--photos", metavar="DIR", help="JPEG photos to measure on, beside synthetic pictures")
    loader.add_argument("--samples", type=count, default=16384, metavar="N", help="in a set, default 16384")
    loader.add_argument("--pictures", type=count, default=2048, metavar="N", help="in a measurement, default 2048")
    loader.add_argument("--rounds", type=count, default=3, metavar="N", help="turns of each reader, default 3")
    loader.add_argument("--only", metavar="SET,…", help="of: photos, photos-large, synthetic, synthetic-large")
    loader.add_argument(
        "--mds-python", metavar="PATH", help="Python with mosaicml-streaming, which needs an older numpy than we do"
    )
    loader.add_argument(
        "--store", metavar="s3://BUCKET[/PREFIX]", help="on the server of AWS_ENDPOINT_URL, default a local one"
    )
    tracking = command(
        actions,
        "tracking",
        "bench.tracking:tracking",
        "what recording costs a training, whether all of it arrives",
    )
    tracking.add_argument("--seconds", type=count, default=20, metavar="N", help="in each server state, default 20")
    tracking.add_argument("--points", type=count, default=100_000, metavar="N", help="over the outage, default 100000")
    tracking.add_argument("--steps", type=count, default=10_000, metavar="N", help="of 20 metrics, default 10000")
    tracking.add_argument("--sample", type=count, default=2000, metavar="N", help="points one by one, default 2000")
    serve = command(
        actions,
        "serve",
        "bench.serve:serve",
        "a registered model against its checkpoint, cold; a batch job against a loop",
    )
    serve.add_argument("model", metavar="MODEL", help="models:/NAME/VERSION")
    serve.add_argument("run", metavar="RUN", help="runs:/ID or the checkpoint it was registered from")
    serve.add_argument("--rounds", type=count, default=5, metavar="N", help="turns of each way, default 5")
    serve.add_argument("--pictures", type=count, default=64, metavar="N", help="in a batch, default 64")
    serve.add_argument("--side", type=count, default=256, metavar="PX", help="of each picture, default 256")
    serve.add_argument("--tasks", type=whole, default=2, metavar="N", help="Ray tasks of the job; 0: none; default 2")
    order = command(actions, "order", "bench.order:order", "what the order of samples costs, how well it shuffles")
    order.add_argument("--samples", type=count, default=10**7, metavar="N", help="to plan, default 10 million")
    order.add_argument("--ranks", type=count, default=1024, metavar="N", help="default 1024")
    order.add_argument("--index-samples", type=count, default=10**6, metavar="N", help="default a million")
    search = command(
        actions,
        "search",
        "bench.search:search",
        "what a search costs until it is good, and what NaN, kills and reports cost it",
    )
    search.add_argument("--seeds", type=count, default=20, metavar="N", help="of the surrogate, default 20")
    search.add_argument(
        "--kills",
        type=whole,
        default=0,
        metavar="N",
        help="at most, of each kind of search; default 0: at every record",
    )
    search.add_argument("--trials", type=count, default=500, metavar="N", help="on Ray, default 500")
    search.add_argument("--reports", type=count, default=20, metavar="N", help="of each of those, default 20")
    search.add_argument("--rounds", type=count, default=3, metavar="N", help="turns of Ray's way and ours, default 3")
    search.add_argument("--no-ray", action="store_true", help="only what needs no Ray")
    overhead = command(
        actions,
        "overhead",
        "bench.overhead:overhead",
        "what `isnet train` costs beside a bare torch loop, alternating",
    )
    overhead.add_argument("preset", nargs="?", default="demo", metavar="PRESET", help="default demo")
    overhead.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings on top, such as model.width=32")
    overhead.add_argument("--steps", type=count, default=50, metavar="N", help="counted in each run, default 50")
    overhead.add_argument("--rounds", type=count, default=5, metavar="N", help="turns of each way, default 5")
    overhead.add_argument("--loader-workers", type=whole, default=0, metavar="N", help="of each way, default 0")
    overhead.add_argument("--threads", type=count, default=1, metavar="N", help="of torch, default 1")
    checkpoint = command(
        actions,
        "checkpoint",
        "bench.checkpoint:checkpoint",
        "what a checkpoint of the full state takes from training",
    )
    checkpoint.add_argument("--interval", type=count, default=50, metavar="S", help="seconds between two, default 50")
    checkpoint.add_argument("--checkpoints", type=count, default=2, metavar="N", help="measured, default 2")
    cluster = command(
        actions, "cluster", "bench.cluster:cluster", "a local stack: up, down, memory, first step, a queue of jobs"
    )
    cluster.add_argument("--store", choices=("ceph", "moto"), help="default: Ceph where it is installed")
    cluster.add_argument("--jobs", type=count, default=200, metavar="N", help="in the queue, default 200")
