"""Batch inpainting fills each picture once, resumes after a kill, and writes the manifest last."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.inference import batch, planning
from jobs.inference.batch import STATE_PREFIX
from trainplane.cluster.stack.moto_server import local_s3
from trainplane.storage import ensure_bucket, open_store


@pytest.fixture
def masks(tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    hole = np.zeros((70, 91), np.uint8)
    hole[20:40, 30:60] = 255
    for number in range(8):
        Image.fromarray(hole).save(folder / f"photo-{number}.png")
    return folder


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(planning, "PICTURES_PER_PART", 3)


def words(photos, masks, out, *more):
    return ["inpaint", photos, masks, "-o", out, "--model", "classical:telea", "--parallel", "0", "--json", *more]


def manifest_of(out):
    return json.loads((Path(out) / "manifest.json").read_text())


def test_a_job_fills_what_the_command_fills_one_by_one(isnet, photos, masks, tmp_path, small_parts):
    one_by_one = isnet("inpaint", photos, masks, "-o", tmp_path / "a", "--model", "classical:telea", "--json")
    job = isnet(*words(photos, masks, tmp_path / "b"))
    assert (one_by_one.status, job.status) == (0, 0), job.err
    rows = manifest_of(tmp_path / "b")["pictures"]
    assert [row["image"] for row in rows] == sorted(path.name for path in photos.iterdir())
    for row in rows:
        data = (tmp_path / "b" / row["output"]).read_bytes()
        assert data == (tmp_path / "a" / row["output"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (row["bytes"], row["sha256"])
    assert not (tmp_path / "b" / STATE_PREFIX).exists() or not list((tmp_path / "b" / STATE_PREFIX).iterdir())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").iterdir() if path.is_file()}
    assert isnet(*words(photos, masks, tmp_path / "b")).json() == job.json()
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_job_that_was_stopped_goes_on_and_fills_nothing_twice(
    isnet, photos, masks, tmp_path, small_parts, monkeypatch
):
    filled = []
    original = batch.fill_item

    def counted(item, *rest):
        if len(filled) == 4:
            raise KeyboardInterrupt
        filled.append(item.image)
        return original(item, *rest)

    monkeypatch.setattr(batch, "fill_item", counted)
    stopped = isnet(*words(photos, masks, tmp_path / "out"))
    assert stopped.status == 130
    assert "continues after the stored parts" in stopped.err
    assert not (tmp_path / "out" / "manifest.json").exists()
    monkeypatch.setattr(batch, "fill_item", lambda item, *rest: filled.append(item.image) or original(item, *rest))
    assert isnet(*words(photos, masks, tmp_path / "out")).status == 0
    # The interrupted part is done again, the recorded one is not.
    assert sorted(filled) == sorted([*(f"photo-{n}.{'jpg' if n % 2 else 'png'}" for n in range(8)), "photo-3.jpg"])
    assert len(manifest_of(tmp_path / "out")["pictures"]) == 8


def test_a_result_that_went_missing_is_made_again(isnet, photos, masks, tmp_path, small_parts, monkeypatch):
    monkeypatch.setattr(batch, "canonical_json", failing_at_manifest(batch.canonical_json))
    assert isnet(*words(photos, masks, tmp_path / "out")).status == 130
    monkeypatch.undo()
    monkeypatch.setenv("ISNET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(planning, "PICTURES_PER_PART", 3)
    (tmp_path / "out" / "photo-5.jpg").write_bytes(b"half a pict")
    assert isnet(*words(photos, masks, tmp_path / "out")).status == 0
    for row in manifest_of(tmp_path / "out")["pictures"]:
        assert hashlib.sha256((tmp_path / "out" / row["output"]).read_bytes()).hexdigest() == row["sha256"]


def failing_at_manifest(original):
    def encode(value):
        if isinstance(value, dict) and "failed" in value:
            raise KeyboardInterrupt
        return original(value)

    return encode


def test_a_job_that_filled_nothing_can_be_asked_for_in_another_way(isnet, photos, masks, tmp_path):
    for mask in masks.iterdir():
        Image.open(mask).resize((40, 40)).save(mask)
    first = isnet(*words(photos, masks, tmp_path / "out"))
    assert (first.status, manifest_of(tmp_path / "out")["pictures"]) == (1, [])
    assert "need the same size" in first.out
    second = isnet(*words(photos, masks, tmp_path / "out", "--resize-mask"))
    assert second.status == 0, second.err
    assert len(manifest_of(tmp_path / "out")["pictures"]) == len(list(photos.iterdir()))


def test_another_job_does_not_write_over_the_results(isnet, photos, masks, tmp_path):
    assert isnet(*words(photos, masks, tmp_path / "out")).status == 0
    other = isnet(*words(photos, masks, tmp_path / "out", "--raw"))
    assert other.status == 2
    assert "holds the results of another job" in other.err
    (tmp_path / "out" / "manifest.json").unlink()
    store = open_store(str(tmp_path / "out"))
    store.write(f"{STATE_PREFIX}/job.json", b'{"identity": "0", "requested": "models:/x/1", "model": "models:/x/1"}')
    busy = isnet(*words(photos, masks, tmp_path / "out"))
    assert busy.status == 2
    assert "belongs to another job" in busy.err


JOB = planning.InpaintJob(
    "/in", "/masks", "/out", "models:/m/1", planning.Options(refine="off"), (planning.InpaintItem("a", "b", "c", 1, 2),)
)


def test_an_older_job_keeps_its_identity_and_goes_on_with_refine_off(isnet, photos, masks, tmp_path):
    # As the code before `--refine` computed it.
    assert JOB.identity == "908b973fc475b25a2fd6a5187b4b0fab2348fdf7c2a4dcac27ee93dcfafdb1ff"
    for other in ({"refine": "auto"}, {"grow": 1}, {"feather": 1}):
        assert replace(JOB, options=replace(JOB.options, **other)).identity != JOB.identity
    assert isnet(*words(photos, masks, tmp_path / "out", "--refine", "off")).status == 0
    refused = isnet(*words(photos, masks, tmp_path / "out"))
    assert refused.status == 2
    assert "go on with --refine off" in refused.err


def test_the_job_grows_and_feathers_like_the_command(isnet, photos, masks, tmp_path):
    options = ("--grow", "3", "--feather", "4")
    job = isnet(*words(photos, masks, tmp_path / "job", *options))
    assert job.status == 0, job.err
    one = isnet("inpaint", photos, masks, "-o", tmp_path / "one", "--model", "classical:telea", "--json", *options)
    rows = manifest_of(tmp_path / "job")["pictures"]
    assert [row["hole_ratio"] for row in rows] == [entry["hole_ratio"] for entry in one.json()["done"]]
    for row in rows:
        assert (tmp_path / "job" / row["output"]).read_bytes() == (tmp_path / "one" / row["output"]).read_bytes()
        assert "mask grown by 3 pixels, from 9.4% of the picture to" in row["notes"][0]


FOREIGN = {
    "a dataset": b'{"dataset_digest":"0","format":1,"name":"mine","samples":3,"shards":[],"split":"train"}',
    "a checkpoint": b'{"files":{},"manifest_digest":"0","state_digest":"0","step":20}',
    "a list": b"[]",
    "cut short": b'{"identity": "0", "pict',
    "nothing": b"",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_manifest_of_something_else_is_never_removed(isnet, photos, masks, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_bytes(content)
    ran = isnet(*words(photos, masks, tmp_path / "out"))
    assert ran.status == 2
    assert "give another OUT" in ran.err
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "out").iterdir()] == [("manifest.json", content)]


def test_names_that_are_no_utf8_are_left_out_or_refused_in_a_sentence(isnet, photos, masks, tmp_path):
    odd = Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png"))
    odd.write_bytes((photos / "photo-0.png").read_bytes())
    ran = isnet(*words(photos, masks, tmp_path / "out"))
    assert (ran.status, len(ran.json()["done"])) == (1, 8), ran.err
    assert [entry["image"] for entry in ran.json()["failed"]] == ["caf\\xe9.png"]
    folder = photos.rename(os.fsdecode(os.fsencode(photos) + b"\xe9"))
    refused = isnet(*words(folder, masks, tmp_path / "other"))
    assert (refused.status, "rename the folder" in refused.err) == (2, True), refused.err


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"identity": 1, "requested": "x", "model": "x"}', b""])
def test_a_damaged_note_of_a_job_is_told_in_a_sentence(isnet, photos, masks, tmp_path, content):
    open_store(str(tmp_path / "out")).write(f"{STATE_PREFIX}/job.json", content)
    ran = isnet(*words(photos, masks, tmp_path / "out"))
    assert ran.status == 2
    assert "job.json is damaged" in ran.err
    assert f"remove {tmp_path / 'out'}/{STATE_PREFIX}" in ran.err


def test_damaged_records_of_parts_are_made_again(isnet, photos, masks, tmp_path, small_parts, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(batch, "canonical_json", failing_at_manifest(batch.canonical_json))
        assert isnet(*words(photos, masks, tmp_path / "out")).status == 130
    state = tmp_path / "out" / STATE_PREFIX
    records = sorted(state.glob("part-*.json"))
    sound = records[0].read_bytes()
    damaged = [b"{", b"[]", b'{"pictures":[{}]}', b'{"pictures":7}', sound.replace(b"sha256", b"sha255")]
    for record, content in zip(records, damaged, strict=False):
        record.write_bytes(content)
    assert isnet(*words(photos, masks, tmp_path / "out")).status == 0
    assert len(manifest_of(tmp_path / "out")["pictures"]) == 8


def test_hidden_pictures_and_masks_below_the_pictures_are_not_part_of_a_job(isnet, photos, masks, tmp_path):
    for name in (".thumbnails/photo-0.png", "@eaDir/photo-0.png", "._photo-0.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"\0\5\x16\7")
    masks.rename(photos / "masks")
    ran = isnet(*words(photos, photos / "masks", tmp_path / "out"))
    assert (ran.status, len(ran.json()["done"])) == (0, 8), ran.err


@pytest.mark.parametrize(
    ("image", "mask", "out", "sentence"),
    [
        ("photos", "masks", "photos", "results would become inputs"),
        ("photos", "masks", "masks/below", "results would become inputs"),
        ("empty", "masks", "out", "no pictures there"),
        ("photos", "empty", "out", "no mask fits any of 8 pictures"),
    ],
)
def test_mistakes_are_answered_before_anything_is_written(isnet, photos, masks, tmp_path, image, mask, out, sentence):
    (tmp_path / "empty").mkdir()
    ran = isnet(*words(tmp_path / image, tmp_path / mask, tmp_path / out))
    assert ran.status == 2
    assert sentence in ran.err
    assert not (tmp_path / "out").exists()


def test_hostile_pictures_are_left_out_with_a_reason_and_the_rest_is_filled(isnet, photos, masks, tmp_path):
    (photos / "photo-1.jpg").write_bytes(b"<html>no picture</html>")
    (photos / "photo-2.png").write_bytes((photos / "photo-2.png").read_bytes()[:300])
    (photos / "photo-3.jpg").write_bytes(b"")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(masks / "photo-4.png")
    ran = isnet(*words(photos, masks, tmp_path / "out"))
    assert ran.status == 1
    reasons = {entry["image"]: entry["reason"] for entry in ran.json()["failed"]}
    assert set(reasons) == {"photo-1.jpg", "photo-2.png", "photo-3.jpg", "photo-4.png"}
    assert "web page" in reasons["photo-1.jpg"]
    assert "need the same size" in reasons["photo-4.png"]
    assert {row["image"] for row in manifest_of(tmp_path / "out")["pictures"]} == {
        f"photo-{n}.{'jpg' if n % 2 else 'png'}" for n in (0, 5, 6, 7)
    }


def test_no_two_results_share_a_name(isnet, masks, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 91, 3), np.uint8))
    # Where a name is taken, a picture of that very name has it.
    names = ["photo-0.gif", "photo-0.png", "photo-0.gif.png", "photo-1.avif", "photo-1.gif", "photo-1.gif.png"]
    for name in names:
        pixels.save(folder / name)
    for stem in ("photo-0.gif", "photo-1.gif"):
        shutil.copyfile(masks / "photo-0.png", masks / f"{stem}.png")
    ran = isnet(*words(folder, masks, tmp_path / "out"))
    assert ran.status == 0, ran.err
    targets = {row["image"]: row["output"] for row in manifest_of(tmp_path / "out")["pictures"]}
    assert sorted(targets) == sorted(names)
    assert len({*targets.values()}) == len(names)
    assert all(targets[name] == name for name in names if name.endswith(".png"))


@pytest.mark.real
def test_tasks_that_are_killed_leave_each_picture_once_in_s3(isnet, photos, masks, tmp_path, monkeypatch):
    with local_s3() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        ensure_bucket("s3://work")
        for place, folder in (("in", photos), ("masks", masks)):
            for path in folder.iterdir():
                for copy in range(6):
                    open_store(f"s3://work/{place}").write(f"{copy}/{path.name}", path)
        command = [
            sys.executable,
            "-m",
            "jobs.cli",
            "inpaint",
            "s3://work/in",
            "s3://work/masks",
            "-o",
            "s3://work/out",
        ]
        command += ["--model", "classical:telea", "--parallel", "2", "--json"]
        killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        out = open_store("s3://work/out")
        while killed.poll() is None and not [e for e in out.list() if e.key.startswith(f"{STATE_PREFIX}/part-")]:
            pass
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        manifest = json.loads(out.read("manifest.json"))
        names = [row["output"] for row in manifest["pictures"]]
        assert len(names) == len(set(names)) == 48
        assert {entry.key for entry in out.list()} == {*names, "manifest.json"}
        for row in manifest["pictures"]:
            assert hashlib.sha256(out.read(row["output"])).hexdigest() == row["sha256"]


HOSTILE = Path(__file__).parents[3].parent / "shared" / "data" / "hostile.tar"


@pytest.mark.skipif(not HOSTILE.exists(), reason="the folder of hostile pictures is not here")
def test_no_picture_of_the_hostile_set_stops_a_job(isnet, tmp_path):
    with tarfile.open(HOSTILE) as tar:
        tar.extractall(tmp_path / "in", filter="fully_trusted")
    hole = np.zeros((64, 64), np.uint8)
    hole[20:40, 20:40] = 255
    count = 0
    for path in sorted((tmp_path / "in").rglob("*")):
        if path.is_file():
            target = (tmp_path / "masks" / path.relative_to(tmp_path / "in")).with_suffix(".png")
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(hole).save(target)
            count += 1
    ran = isnet(*words(tmp_path / "in", tmp_path / "masks", tmp_path / "out", "--resize-mask"))
    assert ran.status == 1, ran.err
    assert "Traceback" not in ran.err
    found = ran.json()
    assert found["done"]
    assert all(entry["reason"] for entry in found["failed"])
