"""Arguments of `isnet bench`."""

from __future__ import annotations

from typing import Any

from jobs.cli.arg_types import command, count, group, size, whole
from jobs.cli.parser import Parser

# Most options are numbers: of at least 1, or of at least 0.
N: dict[str, Any] = {"type": count, "metavar": "N"}
N0: dict[str, Any] = {"type": whole, "metavar": "N"}


def bench(commands: Any) -> None:
    """Adds `isnet bench`."""
    actions = group(commands, "bench", "measure the figures of docs/LOG.md")

    def action(name: str, summary: str) -> Parser:
        return command(actions, name, f"bench.{name}:{name}", summary)

    step = action("step", "our training step against the released code's, alternating")
    step.add_argument("--sizes", metavar="PX,…", default="64,128,256", help="default 64,128,256")
    step.add_argument("--rounds", default=5, help="turns of each way, default 5", **N)
    step.add_argument("--batch", type=count, metavar="N", help="pictures a step (default: 8, 4, 2 at 64, 128, 256 px)")
    step.add_argument("--blocks", default=4, help="residual blocks, default the paper's 4", **N)
    step.add_argument("--curve-steps", default=24, help="of comparing losses at the first size; 0: none", **N0)
    step.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU where there is one"
    )
    gpu = action("gpu", "prove a GPU: arithmetic, compiler, memory, loader, ranks, resume; one page")
    gpu.add_argument("--minutes", default=8, help="of all sections together, default 8", **N)
    gpu.add_argument("--only", metavar="SECTION,…", help="some of its sections")
    gpu.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: the same lines in small")
    gpu.add_argument("-o", "--out", default=".", metavar="DIR", help="for bench-gpu.json and .md, default here")
    pack = action("pack", "pictures per second of packing, by numbers of Ray tasks")
    pack.add_argument("photos", metavar="PHOTOS", help="folder, list or plain tar of pictures")
    pack.add_argument("--tasks", metavar="N,…", default="0,1,2", help="Ray tasks at once; 0: none; default 0,1,2")
    pack.add_argument("--repeat", default=4, help="times each picture is packed, default 4", **N)
    pack.add_argument("--rounds", default=3, help="turns of each way, default 3", **N)
    pack.add_argument("--max-side", type=count, metavar="PX", help="shrink larger pictures, as `data pack` does")
    pack.add_argument("--shard-bytes", type=size, default=8 * 2**20, metavar="SIZE", help="about, default 8M")
    faults = action("faults", "an epoch from a failing S3 server: what arrives, at what cost")
    faults.add_argument("--samples", default=4096, help="in the dataset, default 4096", **N)
    faults.add_argument("--sample-bytes", type=size, default=2**15, metavar="SIZE", help="on average, default 32K")
    faults.add_argument("--seed", type=int, default=0, help="of bytes, order and faults, default 0")
    faults.add_argument("--clock", default=10, help="times faster the outages and pauses pass, default 10", **N)
    loader = action("loader", "our loader against its peers and bare decoding, from one S3 server")
    loader.add_argument("--photos", metavar="DIR", help="JPEG photos to measure on, beside synthetic pictures")
    loader.add_argument("--samples", default=16384, help="in a set, default 16384", **N)
    loader.add_argument("--pictures", default=2048, help="in a measurement, default 2048", **N)
    loader.add_argument("--rounds", default=3, help="turns of each reader, default 3", **N)
    loader.add_argument("--only", metavar="SET,…", help="of: photos, photos-large, synthetic, synthetic-large")
    loader.add_argument(
        "--mds-python", metavar="PATH", help="Python with mosaicml-streaming, which needs an older numpy than we do"
    )
    loader.add_argument(
        "--store", metavar="s3://BUCKET[/PREFIX]", help="on the server of AWS_ENDPOINT_URL, default a local one"
    )
    tracking = action("tracking", "what recording costs a training, whether all of it arrives")
    tracking.add_argument("--seconds", default=20, help="in each server state, default 20", **N)
    tracking.add_argument("--points", default=100_000, help="over the outage, default 100000", **N)
    tracking.add_argument("--steps", default=10_000, help="of 20 metrics, default 10000", **N)
    tracking.add_argument("--sample", default=2000, help="points one by one, default 2000", **N)
    serve = action("serve", "a registered model against its checkpoint, cold; a batch job against a loop")
    serve.add_argument("model", metavar="MODEL", help="models:/NAME/VERSION")
    serve.add_argument("run", metavar="RUN", help="runs:/ID or the checkpoint it was registered from")
    serve.add_argument("--rounds", default=5, help="turns of each way, default 5", **N)
    serve.add_argument("--pictures", default=64, help="in a batch, default 64", **N)
    serve.add_argument("--side", type=count, default=256, metavar="PX", help="of each picture, default 256")
    serve.add_argument("--tasks", default=2, help="Ray tasks of the job; 0: none; default 2", **N0)
    evaluation = action("evaluate", "an evaluation against a plain loop over the same pictures")
    evaluation.add_argument("model", metavar="MODEL", help="models:/NAME/VERSION, runs:/ID or starter")
    evaluation.add_argument("--rounds", default=3, help="turns of each way, default 3", **N)
    evaluation.add_argument("--pictures", default=256, help="to measure, default 256", **N)
    evaluation.add_argument("--side", type=count, default=96, metavar="PX", help="of each picture, default 96")
    evaluation.add_argument("--tasks", default=2, help="Ray tasks; 0: none; default 2", **N0)
    traffic = action("traffic", "isnet serve with users, while versions move and MLflow is away")
    traffic.add_argument("name", metavar="NAME", help="registered model, in a context whose tracking is a SQLite file")
    traffic.add_argument("candidate", metavar="VERSION", help="a version that is not in production")
    traffic.add_argument("--users", default=4, help="at once, default 4", **N)
    traffic.add_argument("--requests", default=50, help="of each user, default 50", **N)
    traffic.add_argument("--side", type=count, default=128, metavar="PX", help="of the photo, default 128")
    traffic.add_argument("--replicas", default=0, help="of Ray Serve, one is killed; default 0: without Ray", **N0)
    order = action("order", "what the order of samples costs, how well it shuffles")
    order.add_argument("--samples", default=10**7, help="to plan, default 10 million", **N)
    order.add_argument("--ranks", default=1024, help="default 1024", **N)
    order.add_argument("--index-samples", default=10**6, help="default a million", **N)
    search = action("search", "what a search costs until it is good, and what NaN, kills and reports cost it")
    search.add_argument("--seeds", default=20, help="of the surrogate, default 20", **N)
    search.add_argument("--kills", default=0, help="at most, of each kind of search; default 0: at every record", **N0)
    search.add_argument("--trials", default=500, help="on Ray, default 500", **N)
    search.add_argument("--reports", default=20, help="of each of those, default 20", **N)
    search.add_argument("--rounds", default=3, help="turns of Ray's way and ours, default 3", **N)
    search.add_argument("--no-ray", action="store_true", help="only what needs no Ray")
    overhead = action("overhead", "what `isnet train` costs beside a bare torch loop, alternating")
    overhead.add_argument("preset", nargs="?", default="demo", metavar="PRESET", help="default demo")
    overhead.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=c", help="settings on top, such as model.width=32"
    )
    overhead.add_argument("--steps", default=50, help="counted in each run, default 50", **N)
    overhead.add_argument("--rounds", default=5, help="turns of each way, default 5", **N)
    overhead.add_argument("--loader-workers", default=0, help="of each way, default 0", **N0)
    overhead.add_argument("--threads", default=1, help="of torch, default 1", **N)
    threads = action("threads", "two threads against one while other processes use the cores, alternating")
    threads.add_argument("preset", nargs="?", default="demo+laptop", metavar="PRESET", help="default demo+laptop")
    threads.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=c", help="settings on top, such as data.size=128"
    )
    threads.add_argument("--steps", default=12, help="of each run, default 12", **N)
    threads.add_argument("--rounds", default=3, help="turns of each way, default 3", **N)
    threads.add_argument("--load", default=4, help="processes that keep the cores busy, default 4", **N0)
    checkpoint = action("checkpoint", "what a checkpoint of the full state takes from training")
    checkpoint.add_argument("--interval", type=count, default=50, metavar="S", help="seconds between two, default 50")
    checkpoint.add_argument("--checkpoints", default=2, help="measured, default 2", **N)
    cluster = action("cluster", "a local stack: up, down, memory, first step, a queue of jobs")
    cluster.add_argument("--store", choices=("ceph", "moto"), help="default: Ceph where it is installed")
    cluster.add_argument("--jobs", default=200, help="in the queue, default 200", **N)
