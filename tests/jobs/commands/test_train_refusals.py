"""What cannot be trained is refused in one sentence with status 2, before MLflow or the store hears of it."""

import itertools
import os
import re
import shutil
import stat
from dataclasses import replace

import pytest
from small_run import SMALL

from jobs.config import load_run_config
from trainplane.cluster.context import resolve
from trainplane.cluster.stack.moto_server import local_s3
from trainplane.config.canonical import canonical_json
from trainplane.data.manifest import Dataset
from trainplane.storage import ensure_bucket, open_store
from trainplane.testing.fault_proxy import FaultProxy
from trainplane.tracking.client import TrackingServer
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.resume import check_resumable
from trainplane.train.run_key import find_run_dir, run_key

MISTAKES = {
    ("train.stesp=5",): "unknown setting 'train.stesp'; did you mean train.steps=5?",
    ("trian.steps=5",): "unknown setting 'trian.steps'; did you mean train.steps=5?",
    ("mdel.width=8",): "unknown setting 'mdel.width'; did you mean model.width=8?",
    ("steps=5",): "did you mean train.steps=5?",
    ("train.device=cuda",): "did you mean train.use_gpu=… (true, false or auto)?",
    ("train.batch_size=4",): "did you mean train.global_batch=4?",
    ("--steps", "5"): "settings have no dashes: write train.steps=5",
    ("--train.steps=5",): "settings have no dashes: write train.steps=5",
    ("train.steps", "5"): "did you mean train.steps=5?",
    ("laptop",): "a layer is joined to the preset's name: demo+laptop",
    ("places2",): "is a second preset",
    ("search.trials=3",): "is a setting of a search",
    ("train.steps=abc",): "train.steps='abc': need a whole number ≥ 1; give",
    ("train.steps=",): "train.steps has no value",
    ("train.steps=1:30",): "need a whole number ≥ 1",
    ("train.global_batch=7", "train.workers=2"): "set train.global_batch=6 or 8",
    ("data.size=40",): "set data.size=32 or 48",
    ("data.size=40", "data.resize=44"): "set data.size=32",
    (
        "data.size=36",
        "model.name=unet_like",
    ): "is no multiple of 8, which model.name=unet_like needs; set data.size=32 or 40",
    ("model.skips=true",): "model.skips=true is for model.name=unet_like",
    ("model.prune=true",): "model.prune=true is for model.name=base",
    ("model.width=4096",): "≤ 1024",
    ("loss.style=1", "loss.style_layers=[relu9_1]"): "loss.style_layers",
    ("loss.style=1", "loss.style_layers=[]"): "name layers, or set loss.style=0",
    ("loss.style=1", "loss.perceptual_weights=README"): "no VGG19 weights at loss.perceptual_weights=",
    ("train.global_batch=5", "train.workers=2"): "set train.global_batch=4 or 6",
    ("train.micro_batch=3",): "does not divide each rank's share of 4",
    ("train.global_batch=64",): "has 8 samples, fewer than one global batch of 64; pack more samples",
    ("data.train=nothere",): "nothere: there is no dataset (no manifest.json)",
    ("data.val=nothere",): "nothere: there is no dataset (no manifest.json)",
    ("data.masks=nothere",): "nothere",
    ("train.use_gpu=true",): "this machine has no GPU; set train.use_gpu=auto or false",
    (
        "train.use_gpu=true",
        "train.workers=2",
        "train.steps=6",
    ): "2 workers need 2 GPUs, one each, and the cluster has 0",
    ("train.workers=4096", "train.global_batch=4096"): "fewer than one global batch",
    ("train.workers=2", "train.cpus_per_worker=5000", "train.steps=6"): "× train.cpus_per_worker=5000 need 10000 CPUs",
    ("train.precision=fp16",): "need fp32 or bf16",
    ("train.lr_g=nan",): "train.lr_g='nan': need a finite number > 0",
    ("train.lr_g=.nan",): "train.lr_g=nan: need a finite number > 0",
    ("train.lr_d=-.inf",): "need a finite number > 0",
    ("train.lr_g=-1",): "need a number > 0",
    ("train.lr_g=0",): "need a number > 0",
    ("train.lr_g=1e400",): "need a finite number > 0",
    ("train.steps=-3",): "≥ 1",
    ("train.steps=1.5",): "need a whole number ≥ 1",
    ("train.steps=true",): "train.steps=true is neither a number nor text",
    ("train.steps=null",): "train.steps",
    ("train.steps=2",): "has done 4 steps already, more than train.steps=2",
    ("train.threads=100000",): "≤ 1024",
    ("data.loader_workers=-1",): "≥ 0",
    ("data.loader_workers=100000",): "≤ 256",
    ("train.workers=0",): "≥ 1",
    ("train.workers=[2, 1]",): "write [1, 2]",
    ("train.checkpoint_every=0",): "is no cadence",
    ("train.checkpoint_every=-5min",): "is no cadence",
    ("train.ema=1",): "< 1",
    ("train.betas=[0.9]",): "train.betas",
    ("train.keep_best=1",): "name a metric of validation",
    ("train.keep_best=1", "train.best_metric=val/psrn", "--fresh"): "did you mean 'val/psnr'?",
    ("train.lr_schedule=cosine", "train.lr_warmup=9"): "does not end within train.steps=4",
    ("data.size=31",): "≥ 32",
    ("data.resize=20",): "smaller than the crop data.size=32",
    ("loss.perceptual_weights=nothere.safetensors",): "no VGG19 weights at loss.perceptual_weights=",
    ("guard.budget=-1",): "≥ 0",
    ("name=Not/A/Name",): "name='Not/A/Name'",
    ("name=",): "name",
    ("train.steps",): "is no override; need section.key=value",
    ("train=5",): "train=5",
    ("train.lr_g={",): "no YAML",
}


def traces(home):
    """All that a run leaves: what MLflow knows, and every file of checkpoints."""
    client = TrackingServer(f"sqlite:///{home / 'mlflow.db'}").client
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = [
        (r.info.run_id, r.info.status, r.data.tags.get("trainplane.attempts")) for r in client.search_runs(experiments)
    ]
    files = {str(p): p.stat().st_mtime_ns for p in (home / "checkpoints").rglob("*") if p.is_file()}
    return sorted(runs), files


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_sentence_and_nothing_is_started(isnet_there, project, words):
    home = project.folder / "home"
    before = traces(home)
    ran = isnet_there("train", "demo", *SMALL, *words)
    assert ran.status == 2, ran.err
    assert MISTAKES[words] in ran.err
    (sentence,) = ran.err.strip().splitlines()
    assert sentence.startswith("isnet: ")
    assert ran.out == ""
    assert traces(home) == before


def test_with_json_a_mistake_is_the_one_object_on_standard_output(isnet_there):
    ran = isnet_there("train", "demo", *SMALL, "train.lr_g=0", "--json")
    assert ran.status == 2
    assert ran.json() == {
        "error": "train.lr_g=0: need a number > 0",
        "remedy": "give train.lr_g=… accordingly",
    }


@pytest.mark.parametrize("workers", ["9", "[9, 11]", "3"])
def test_advice_about_workers_works_on_this_machine(isnet_there, project, monkeypatch, workers):
    # A machine of two processors, whatever this one has.
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    words = ["demo", *SMALL, "train.use_gpu=false", "train.steps=6", "train.global_batch=8"]
    refused = isnet_there("plan", "train", *words, f"train.workers={workers}")
    assert refused.status == 2
    advised = re.search(r"set (train\.\w+=\d+)", refused.err)[1]
    accepted = isnet_there(
        "plan", "train", *words, *([f"train.workers={workers}"] if "workers" not in advised else []), advised
    )
    assert accepted.status == 0, accepted.err


def place_of(home, *words):
    """The folder that a run would have."""
    config = load_run_config("demo", [*SMALL, *words])
    digests = [Dataset.open(str(home / "datasets" / name)).digest for name in (config.data.train, config.data.val)]
    key = run_key(config, *digests)
    return find_run_dir(config, key=key, checkpoints=str(home / "checkpoints"), fresh=False).folder


def test_a_checkpoint_of_another_architecture_is_refused_with_the_settings_that_differ(isnet_there, project):
    home = project.folder / "home"
    ours = place_of(home)
    other = home / "checkpoints" / place_of(home, "model.width=8")
    shutil.copytree(home / "checkpoints" / ours, other)
    try:
        before = traces(home)
        ran = isnet_there("train", "demo", *SMALL, "model.width=8", "train.steps=6")
        assert ran.status == 2, ran.err
        assert "was made with model.width=4 (here 8); give the configuration it was made with" in ran.err
        assert traces(home) == before
    finally:
        shutil.rmtree(other)


def test_a_checkpoint_of_other_data_is_refused_and_both_digests_are_named(isnet_there, project, photos):
    home = project.folder / "home"
    (photos / "photo-0.png").unlink()
    digest = isnet_there("data", "pack", photos, "fewer", "--json").json()["digest"]
    mine = isnet_there("data", "show", "mine", "--json").json()["digest"]
    other = home / "checkpoints" / place_of(home, "data.train=fewer")
    shutil.copytree(home / "checkpoints" / place_of(home), other)
    try:
        before = traces(home)
        ran = isnet_there("train", "demo", *SMALL, "data.train=fewer", "train.steps=6")
        assert ran.status == 2, ran.err
        assert digest in ran.err
        assert mine in ran.err
        assert traces(home) == before
    finally:
        shutil.rmtree(other)


def test_a_checkpoint_of_another_order_of_samples_is_refused_by_train_and_plan(isnet_there, project, tmp_path):
    """As when the program has learnt another way to shuffle since."""
    home = project.folder / "home"
    run = home / "checkpoints" / place_of(home)
    shutil.copytree(run, tmp_path / "sound")
    store = open_store(str(run))
    found = checkpoints.newest_good(store)
    checkpoints.write(store, found.state, meta={**found.meta, "order_hash": "0" * 64})
    try:
        before = traces(home)
        for command in (["train"], ["plan", "train"]):
            ran = isnet_there(*command, "demo", *SMALL, "train.steps=6")
            assert ran.status == 2, ran.err
            assert "made by another version of this program" in ran.err
            assert "start a new run with --fresh" in ran.err
        assert traces(home) == before
    finally:
        shutil.rmtree(run)
        shutil.copytree(tmp_path / "sound", run)


def test_a_flipped_digit_of_the_newest_checkpoint_blames_nobody_and_the_one_before_is_looked_at(project):
    home = project.folder / "home"
    run = home / "checkpoints" / place_of(home)
    store = open_store(str(run))
    found = checkpoints.newest_good(store)
    newer = checkpoints.write(store, replace(found.state, step=5), meta=found.meta)
    for name, is_older in itertools.product(("dataset_digest", "order_hash"), (False, True)):
        manifest = {**newer.manifest, name: "0" * 64}
        if is_older:
            del manifest["manifest_digest"]
        store.write(f"{newer.key}/manifest.json", canonical_json(manifest))
        config = load_run_config("demo", [*SMALL, "train.steps=6"])
        data = Dataset.open(str(home / "datasets" / config.data.train))
        assert check_resumable(store, config, data) == found.checkpoint.step
    checkpoints.delete(store, newer.key)


def test_a_copy_of_a_run_beside_it_is_no_run(project):
    home = project.folder / "home"
    ours = place_of(home)
    copies = [home / "checkpoints" / f"{ours}{end}" for end in (".bak", "-copy", ".2.bak")]
    for copy in copies:
        shutil.copytree(home / "checkpoints" / ours, copy)
    try:
        assert place_of(home) == ours
    finally:
        for copy in copies:
            shutil.rmtree(copy)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_found_before_the_first_step(isnet_there, project):
    home = project.folder / "home"
    run = home / "checkpoints" / place_of(home)
    mode = run.stat().st_mode
    run.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        before = traces(home)
        ran = isnet_there("train", "demo", *SMALL, "train.steps=6")
        assert ran.status == 2, ran.err
        assert "checkpoints cannot be written to" in ran.err
        assert traces(home) == before
    finally:
        run.chmod(mode)


def test_a_file_where_the_folder_of_checkpoints_should_be_is_found_before_the_first_step(isnet, photos, home):
    assert isnet("data", "pack", photos, "mine").status == 0
    (home / "checkpoints").write_text("no folder")
    ran = isnet("train", "demo", *SMALL, "data.val=mine")
    assert ran.status == 2, ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert TrackingServer(f"sqlite:///{home / 'mlflow.db'}").client.search_runs(["0", "1"]) == []


@pytest.fixture
def bucket(home, monkeypatch):
    """A context whose checkpoints go to S3 through a proxy; the proxy."""
    with local_s3() as environment, FaultProxy(environment["AWS_ENDPOINT_URL"]) as proxy:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        ensure_bucket("s3://there")
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def test_a_bucket_that_may_be_read_and_not_written_is_found_before_the_first_step(isnet, photos, home, bucket):
    for name in ("mine", "held"):
        assert isnet("data", "pack", photos, name).status == 0
    (home.parent / "isnet.toml").write_text('[context.s3]\ncheckpoints = "s3://there/checkpoints"\n')
    bucket.fault = lambda method, path, number: "denied" if method in ("PUT", "POST") else None
    ran = isnet("train", "demo", *SMALL, "--context", "s3")
    assert ran.status == 2, ran.err
    (sentence,) = ran.err.strip().splitlines()
    assert sentence.startswith("isnet: checkpoints cannot be written to s3://there/checkpoints/demo-")
    client = TrackingServer(resolve("s3").tracking).client
    assert client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]) == []
