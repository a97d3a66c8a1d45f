"""The commands, as typed: from photos to a promoted model without Ray, and every mistake answered in a sentence."""

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from small_run import SMALL

from trainplane.storage.folder import FolderStore
from trainplane.storage.store import StorageError


def test_pack_verify_and_show_agree_and_plain_tools_read_the_shards(isnet, photos, home):
    packed = isnet("data", "pack", photos, "mine", "--json")
    assert packed.status == 0, packed.err
    shown = isnet("data", "show", "mine", "--json").json()
    assert shown == packed.json()
    assert (shown["samples"], shown["shards"], shown["skipped"]) == (8, 1, [])
    assert isnet("data", "verify", "mine", "--json").json() == {"dataset": "mine", "sound": True, "damage": []}
    shard = home / "datasets" / "mine" / "shard-000000.tar"
    with tarfile.open(shard) as tar:
        assert len(tar.getnames()) == 16
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False))
    originals = {json.loads(sample["json"])["path"] for sample in samples}
    assert originals == {path.name for path in photos.iterdir()}


def test_packing_again_changes_nothing_and_other_input_is_refused(isnet, photos):
    first = isnet("data", "pack", photos, "mine", "--json").json()
    assert isnet("data", "pack", photos, "mine", "--json").json() == first
    (photos / "photo-0.png").unlink()
    refused = isnet("data", "pack", photos, "mine")
    assert refused.status == 2
    assert "allow replacing it (--replace)" in refused.err
    assert isnet("data", "pack", photos, "mine", "--replace", "--json").json()["samples"] == 7


def test_folder_tar_zip_and_list_pack_the_same_pictures(isnet, photos, tmp_path):
    files = sorted(photos.iterdir())
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        for file in files:
            tar.add(file, file.name)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    (photos / "list.txt").write_text("".join(f"{file.name} {label}\n" for label, file in enumerate(files)))
    shards = {
        isnet("data", "pack", source, f"d{number}", "--name", "same", "--json").json()["digest"]
        for number, source in enumerate([photos, tmp_path / "p.tar", tmp_path / "p.zip", photos / "list.txt"])
    }
    assert len(shards) == 1


def test_unusable_files_are_named_with_their_reason(isnet, photos):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a picture")
    (photos / "empty.png").touch()
    found = isnet("data", "pack", photos, "mine", "--json").json()
    assert found["samples"] == 8
    assert {entry["file"] for entry in found["skipped"]} == {"broken.jpg", "empty.png"}


def test_large_pictures_shrink_and_masks_carry_their_ratio(isnet, photos, tmp_path, home):
    shrunk = isnet("data", "pack", photos, "small", "--max-side", "40", "--json").json()
    assert shrunk["samples"] == 8
    masks = tmp_path / "masks"
    masks.mkdir()
    hole = np.zeros((40, 40), np.uint8)
    hole[:10] = 255
    Image.fromarray(hole).save(masks / "quarter.png")
    assert isnet("data", "pack", masks, "holes", "--kind", "masks").status == 0
    (sample,) = webdataset.WebDataset(
        str(home / "datasets" / "holes" / "shard-000000.tar"), shardshuffle=False, empty_check=False
    )
    assert json.loads(sample["json"])["hole_ratio"] == 0.25


def test_a_flipped_byte_is_found_and_the_exit_status_says_so(isnet, photos, home):
    isnet("data", "pack", photos, "mine")
    shard = home / "datasets" / "mine" / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[1024] ^= 1
    shard.write_bytes(data)
    found = isnet("data", "verify", "mine", "--json")
    assert found.status == 1
    assert not found.json()["sound"]
    assert len(found.json()["damage"]) == 1


def test_from_a_run_to_a_promoted_model_that_fills_a_hole(isnet_there, project, tmp_path):
    isnet, run = isnet_there, project.run
    assert (run["status"], run["step"]) == ("finished", 4)
    version = isnet("models", "register", f"runs:/{run['run_id']}", "--name", "m", "--json").json()["version"]
    again = isnet("models", "register", run["checkpoint"], "--name", "m", "--json").json()["version"]
    assert again == version

    # Not evaluated, it may not be promoted; with a dataset it is evaluated first, and judged by these rules.
    refused = isnet("models", "promote", "m", version)
    assert refused.status == 1
    assert "no evaluation" in refused.err
    (tmp_path / "high.yaml").write_text("floors: [{metric: psnr, at_least: 99}]\n")
    refused = isnet("models", "promote", "m", version, "--dataset", "held", "--gates", tmp_path / "high.yaml")
    assert refused.status == 1
    assert "need at least 99" in refused.err
    forced = isnet(
        "models", "promote", "m", version, "--gates", tmp_path / "high.yaml", "--force", "a test of the way there"
    )
    assert forced.status == 0, forced.err

    shown = isnet("models", "show", "m", "--json").json()["versions"][0]
    assert shown["aliases"] == ["production"]
    assert shown["run_id"] == run["run_id"]
    assert shown["evaluation"]["bins"]["all"]["n"] == 8 * 6
    assert {verdict["passed"] for verdict in shown["gates"]} == {True, False}
    audit = isnet("models", "audit", "m", "--json").json()["records"]
    assert [record["action"] for record in audit] == ["force"]
    assert isnet("models", "audit", "m", "--verify", "--json").json()["sound"]

    photo = np.asarray(Image.open(project.photos / "photo-0.png"))
    hole = np.zeros(photo.shape[:2], np.uint8)
    hole[20:50, 30:60] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    words = ["inpaint", project.photos / "photo-0.png", tmp_path / "mask.png", "-o", tmp_path / "out.png"]
    done = isnet(*words, "--model", "models:/m@production")
    assert done.status == 0, done.err
    filled = np.asarray(Image.open(tmp_path / "out.png"))
    assert filled.shape == photo.shape
    assert np.array_equal(filled[hole == 0], photo[hole == 0])
    assert not np.array_equal(filled[hole > 0], photo[hole > 0])


def test_the_same_model_by_any_address_measures_the_same(isnet_there, project):
    isnet, run = isnet_there, project.run
    version = isnet("models", "register", f"runs:/{run['run_id']}", "--name", "n", "--json").json()["version"]
    addresses = [f"models:/n/{version}", f"runs:/{run['run_id']}", run["checkpoint"]]
    found = [isnet("evaluate", address, "held", "--json").json() for address in addresses]
    for other in found[1:]:
        assert other["masks_digest"] == found[0]["masks_digest"]
        for name, row in other["bins"].items():
            assert row == pytest.approx(found[0]["bins"][name], rel=1e-6)
    assert set(found[0]["bins"]) == {"all", "0-10", "10-20", "20-30", "30-40", "40-50", "50-60"}


def test_the_same_command_goes_on_and_fresh_starts_anew(isnet_there, project):
    isnet, settings = isnet_there, [*SMALL, "train.seed=3"]
    first = isnet("train", "demo", *settings, "--json").json()
    again = isnet("train", "demo", *settings, "--json").json()
    assert (again["run_id"], again["state_digest"]) == (first["run_id"], first["state_digest"])
    longer = isnet("train", "demo", *settings, "train.steps=6", "tracking.register_as=r", "--json").json()
    assert (longer["run_id"], longer["step"]) == (first["run_id"], 6)
    assert longer["registered"] == {"name": "r", "version": "1"}
    fresh = isnet("train", "demo", *settings, "--fresh", "--json").json()
    assert fresh["run_id"] != first["run_id"]
    assert fresh["state_digest"] == first["state_digest"]


def test_a_run_is_recorded_once_with_curves_gallery_and_lineage(isnet_there, project):
    from trainplane.tracking.client import client_for

    isnet_there("train", "demo", *SMALL)
    client = client_for(f"sqlite:///{project.folder / 'home' / 'mlflow.db'}")
    run = client.get_run(project.run["run_id"])
    assert run.info.status == "FINISHED"
    # Parameters are what differs from the defaults; the whole configuration is an artifact.
    assert run.data.params["model.width"] == "4"
    assert "loss.style" not in run.data.params
    config = json.loads(Path(client.download_artifacts(run.info.run_id, "config.json")).read_text())
    assert config["loss"]["style"] == 250.0
    assert run.data.tags["trainplane.state_digest"] == project.run["state_digest"]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/generator")] == [2, 4]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "epoch/generator")] == [2, 4]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "val/psnr")] == [0, 2, 4]
    images = {entry.path for entry in client.list_artifacts(run.info.run_id, "images") if entry.path.endswith(".png")}
    assert len(images) == 3
    assert {i.dataset.name for i in run.inputs.dataset_inputs} == {"mine", "held"}


def test_runs_are_listed_and_nothing_is_left_to_send(isnet_there, project):
    runs = isnet_there("runs", "list", "--json").json()["runs"]
    assert project.run["run_id"] in [run["run_id"] for run in runs]
    assert isnet_there("runs", "sync", "--json").json()["left"] == 0
    shown = isnet_there("runs", "show", project.run["run_id"], "--json").json()
    assert shown["tags"]["trainplane.dataset_digest"]


def test_classical_methods_are_models_too(isnet, photos, tmp_path):
    isnet("data", "pack", photos, "held")
    mean = isnet("evaluate", "classical:mean", "held", "--size", "48", "--json").json()
    telea = isnet("evaluate", "classical:telea", "held", "--size", "48", "--json").json()
    assert mean["masks_digest"] == telea["masks_digest"]
    assert telea["bins"]["all"]["psnr"] > mean["bins"]["all"]["psnr"]


def test_a_folder_is_filled_by_name_and_what_is_missing_is_said(isnet, photos, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    hole = np.zeros((70, 91), np.uint8)
    hole[10:20, 10:20] = 255
    for number in (0, 1):
        Image.fromarray(hole).save(masks / f"photo-{number}.png")
    done = isnet("inpaint", photos, masks, "-o", tmp_path / "out", "--model", "classical:telea", "--json")
    assert done.status == 1
    assert len(done.json()["done"]) == 2
    assert len(done.json()["failed"]) == 6
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"photo-0.png", "photo-1.jpg"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "dmeo"], "did you mean 'demo'"),
        (["train", "demo", "train.stpes=3"], "did you mean 'steps'"),
        (["train", "search_demo"], "isnet tune search_demo"),
        (["train", "demo", "train.workers=3"], "does not divide"),
        (["train", "demo", "data.train=nowhere"], "nowhere"),
        (["train", "demo", "loss.perceptual_weights=null", "data.train=mine", "data.val=null"], "perceptual_weights"),
        (["train", "demo", "--context", "lab"], "context 'lab' is not known"),
        (["tune", "demo"], "is no search"),
        (["tune", "search_demo", "search.objective.mode=best"], "'max' or 'min'"),
        (["evaluate", "something", "mine"], "is no model"),
        (["evaluate", "models:/none@production", "mine"], "no registered model 'none'"),
        (["evaluate", "classical:magic", "mine"], "magic"),
        (["inpaint", "no.png", "no.png", "-o", "x.png", "--model", "classical:mean"], "no.png"),
        (["inpaint", "no.png", "no.png", "-o", "x.ppm", "--model", "models:/none@production"], "written as '.ppm'"),
        (["inpaint", "photos", "photos", "-o", "photos", "--model", "classical:mean"], "input folder"),
        (["data", "pack", "nowhere", "x"], "nowhere"),
        (["data", "show", "nowhere"], "nowhere"),
        (["models", "show", "none"], "no registered model 'none'"),
        (["runs", "show", "abc"], "no run 'abc'"),
        (["submit", "train", "demo"], "names no cluster"),
        (["submit"], "nothing to submit"),
        (["submit", "demo"], "runs where you sit"),
        (["jobs", "list"], "names no cluster"),
        (["demo", "--photos", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence_with_status_2(isnet, photos, words, sentence):
    isnet("data", "pack", photos, "mine")
    ran = isnet(*words)
    assert ran.status == 2, ran.err
    assert sentence in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_too_few_photos_for_a_demo_are_counted(isnet, tmp_path):
    folder = tmp_path / "few"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(b"no picture")
    ran = isnet("demo", "--photos", folder)
    assert ran.status == 2
    assert "0 usable photos found" in ran.err
    assert "one.jpg" in ran.err


def test_a_second_demo_in_the_same_home_is_refused(isnet, home):
    from trainplane.train.run_key import exclusive

    with exclusive(home, "demo", doing="running the demo"):
        ran = isnet("demo")
    assert ran.status == 2
    assert "is running the demo" in ran.err


def test_a_port_in_use_is_named(isnet, photos):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ran = isnet("demo", "--photos", photos, "--port", str(taken.getsockname()[1]))
    assert ran.status == 2
    assert "cannot be used" in ran.err


def test_the_pages_are_where_the_command_says(isnet, monkeypatch):
    from jobs.commands import runs

    started = []

    class Server:
        def __init__(self, command, **options):
            started.append(command)

        def wait(self):
            return 0

    monkeypatch.setattr(runs.subprocess, "Popen", Server)
    ran = isnet("ui", "--port", "0", "--json")
    assert ran.status == 0
    [command] = started
    served = command[command.index("--port") + 1]
    assert int(served) > 0
    assert ran.json()["address"] == f"http://127.0.0.1:{served}"


def test_doctor_finds_a_local_machine_well(isnet):
    ran = isnet("doctor", "--json")
    assert ran.status == 0, ran.out
    assert ran.json()["ok"]


def test_doctor_names_a_store_that_cannot_be_written(isnet, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "isnet.toml").write_text(f'[context.bad]\ncheckpoints = "{tmp_path}/file/below"\n')
    ran = isnet("doctor", "--context", "bad", "--json")
    assert ran.status == 1
    assert any(f["level"] == "error" and "checkpoints" in f["what"] for f in ran.json()["findings"])


@pytest.mark.parametrize(("place", "level", "status"), [("datasets", "warning", 0), ("checkpoints", "error", 1)])
def test_doctor_takes_datasets_that_can_only_be_read_for_enough(isnet, home, monkeypatch, place, level, status):
    def refused(self, key, data):
        if self.address.endswith(f"/{place}"):
            raise StorageError(f"cannot write {key} (AccessDenied); check the credentials")
        write(self, key, data)

    write = FolderStore.write
    monkeypatch.setattr(FolderStore, "write", refused)
    ran = isnet("doctor", "--json")
    assert ran.status == status
    assert [f["level"] for f in ran.json()["findings"] if "AccessDenied" in f["what"]] == [level]


def test_doctor_writes_nothing_into_the_audit_and_leaves_nothing_elsewhere(isnet, home, monkeypatch):
    keys = []
    for verb in ("write", "create"):
        original = getattr(FolderStore, verb)

        def noted(self, key, data, original=original):
            keys.append(f"{self.address}/{key}")
            return original(self, key, data)

        monkeypatch.setattr(FolderStore, verb, noted)
    assert isnet("doctor").status == 0
    assert len(keys) == 6
    assert not [key for key in keys if "audit" in key]
    assert not list(home.rglob("doctor-*"))


def test_samples_of_equal_bytes_never_stand_on_both_sides(tmp_path):
    from jobs.data.demo_photos import folder_photos

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(buffer, "PNG")
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(buffer.getvalue())
    for number in range(6):
        Image.fromarray(np.full((20, 20, 3), number, np.uint8)).save(tmp_path / f"other-{number}.png")
    sides = folder_photos(tmp_path)
    train = {source.read() for source in sides.train}
    assert train.isdisjoint({source.read() for source in sides.val})
    assert len(sides.train) + len(sides.val) == 12
    # Nine times the same beside four others: wherever its digest falls, both sides have photos.
    for value in range(40):
        folder = tmp_path / f"copies-{value}"
        folder.mkdir()
        for number in range(13):
            shade = value if number < 9 else 200 + number
            Image.fromarray(np.full((2, 2, 3), shade, np.uint8)).save(folder / f"{number}.png")
        sides = folder_photos(folder)
        assert sides.train, value
        assert sides.val, value


def test_copies_of_one_photo_are_no_photos_for_a_demo(isnet, tmp_path):
    for number in range(5):
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / f"{number}.png")
    ran = isnet("demo", "--photos", tmp_path)
    assert ran.status == 2
    assert "5 usable photos found, 1 of them different, need at least 4" in ran.err


def test_a_damaged_archive_is_refused_whole_and_nothing_is_packed(isnet, photos, tmp_path, home):
    plain, zipped = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for file in sorted(photos.iterdir()):
            tar.add(file, file.name)
    with zipfile.ZipFile(zipped, "w") as archive:
        for file in sorted(photos.iterdir()):
            archive.write(file, file.name)
    whole = plain.getvalue()
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        third = tar.getmembers()[2].offset
    header = bytearray(whole)
    header[third + 150] ^= 0xFF
    squeezed = bytearray(gzip.compress(whole))
    squeezed[len(squeezed) // 2] ^= 0xFF
    damaged = {
        "header.tar": bytes(header),
        "between-members.tar": whole[:third],
        "inside-a-member.tar": whole[: third + 700],
        "flipped.tar.gz": bytes(squeezed),
        "cut.tar.gz": gzip.compress(whole)[:-2000],
        "cut.zip": zipped.getvalue()[:-40] + b"\0" * 18 + zipped.getvalue()[-22:],
    }
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        ran = isnet("data", "pack", tmp_path / name, "d")
        assert ran.status == 2, f"{name}: {ran.out}{ran.err}"
        assert "damaged" in ran.err or "is no folder" in ran.err, name
        assert "Traceback" not in ran.err
        assert not (home / "datasets" / "d" / "manifest.json").exists()


def test_results_of_a_folder_overwrite_neither_each_other_nor_the_masks(isnet, photos, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.open(photos / "photo-0.png").save(pictures / "b.png")
    Image.open(photos / "photo-2.png").convert("P").save(pictures / "b.gif")
    hole = np.zeros((70, 91), np.uint8)
    hole[5:20, 5:20] = 255
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(hole).save(masks / "b.png")
    refused = isnet("inpaint", pictures, masks, "-o", masks, "--model", "classical:mean")
    assert refused.status == 2
    assert "input folder" in refused.err
    done = isnet("inpaint", pictures, masks, "-o", tmp_path / "out", "--model", "classical:mean", "--json")
    assert done.status == 0, done.err
    outputs = [entry["output"] for entry in done.json()["done"]]
    assert len(set(outputs)) == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"b.png", "b.gif.png"}


@pytest.mark.parametrize(("name", "written"), [("b.avif", "b.avif.png"), ("c.avif", "c.png"), ("b.png", "b.png")])
def test_one_picture_of_a_format_that_is_not_written_becomes_png_in_a_folder(isnet, photos, tmp_path, name, written):
    picture = Image.open(photos / "photo-0.png").convert("RGB")
    picture.save("b.png")
    picture.save(name)
    Image.new("L", picture.size, 0).save("mask.png")
    (tmp_path / "out").mkdir()
    done = isnet("inpaint", name, "mask.png", "-o", tmp_path / "out", "--model", "classical:mean")
    assert done.status == 0, done.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [written]


def test_a_second_process_does_not_touch_the_record_of_a_run_that_trains(isnet_there, project):
    from trainplane.tracking.client import client_for
    from trainplane.train.run_key import exclusive

    client = client_for(f"sqlite:///{project.folder / 'home' / 'mlflow.db'}")
    before = dict(client.get_run(project.run["run_id"]).data.tags)
    folder = project.run["checkpoint"].split("/")[-2]
    with exclusive(project.folder / "home", folder, doing="training it"):
        refused = isnet_there("train", "demo", *SMALL)
    assert refused.status == 2
    assert f"is training {folder}" in refused.err
    assert dict(client.get_run(project.run["run_id"]).data.tags) == before


@pytest.mark.parametrize("words", [["ui", "--port", "70000"], ["data", "pack", "x", "y", "--shard-bytes", "inf"]])
def test_numbers_out_of_range_are_refused_by_the_parser(isnet, words):
    ran = isnet(*words)
    assert ran.status == 2
    assert "Traceback" not in ran.err


def test_an_empty_folder_has_no_photos_for_a_demo(isnet, tmp_path):
    (tmp_path / "none").mkdir()
    ran = isnet("demo", "--photos", tmp_path / "none")
    assert ran.status == 2
    assert "0 usable photos found, need at least 4" in ran.err


def test_a_link_to_itself_is_a_sentence(isnet, tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    Image.new("L", (9, 9), 255).save("mask.png")
    refused = isnet("inpaint", "loop.png", "mask.png", "-o", "out.png", "--model", "classical:mean")
    assert refused.status == 2
    assert "loop.png cannot be read" in refused.err
