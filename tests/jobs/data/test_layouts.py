"""Places2 and CelebA as they are published: which pictures, with which labels, and what is missing."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from urllib.parse import unquote

import pytest
import webdataset
from PIL import Image

CATEGORIES = "/a/airfield 0\n/a/apartment_building/outdoor 8\n/t/train_station/platform 340\n"
TRAIN = (
    "/a/airfield/00000001.jpg 0\n/a/airfield/00000002.jpg 0\n"
    "/a/apartment_building/outdoor/00000001.jpg 8\n/t/train_station/platform/00000001.jpg 340\n"
)
VAL = "Places365_val_00000001.jpg 340\nPlaces365_val_00000002.jpg 0\n"
TEST = "Places365_test_00000001.jpg\n"


def put(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        # A colour from the name, so that every picture differs.
        Image.new("RGB", (8, 8), tuple(name.encode()[-7:-4])).save(path, "JPEG", comment=f"{name} {number}")


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """All of Places365-Standard as its archives unpack, with four, two and one picture."""
    root = tmp_path / "places"
    put(root / "data_256", *(line.split()[0] for line in TRAIN.splitlines()))
    put(root / "val_256", "Places365_val_00000001.jpg", "Places365_val_00000002.jpg")
    put(root / "test_256", "Places365_test_00000001.jpg")
    lists = root / "filelist_places365-standard"
    lists.mkdir()
    (lists / "categories_places365.txt").write_text(CATEGORIES)
    (lists / "places365_train_standard.txt").write_text(TRAIN)
    (lists / "places365_val.txt").write_text(VAL)
    (lists / "places365_test.txt").write_text(TEST)
    return root


@pytest.fixture
def pack(isnet, home):
    """Pack with a layout; what the command reports, and the JSON of the samples by original path."""

    def run(place: Path, layout: str, split: str, *words: object):
        ran = isnet(
            "data",
            "pack",
            place,
            "d",
            "--layout",
            layout,
            "--split",
            split,
            "--replace",
            "--name",
            "n",
            "--json",
            *words,
        )
        assert ran.status == 0, ran.err
        shards = sorted(str(path) for path in (home / "datasets" / "d").glob("*.tar"))
        samples = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
        described = [json.loads(sample["json"]) for sample in samples]
        return ran.json(), {unquote(sample.pop("path")): sample for sample in described}

    return run


def test_places_train_has_its_categories(pack, places: Path) -> None:
    report, samples = pack(places, "places2", "train")
    assert report["skipped"] == []
    labels = {name: (sample["category"], sample["label"]) for name, sample in samples.items()}
    assert labels == {
        "data_256/a/airfield/00000001.jpg": ("airfield", 0),
        "data_256/a/airfield/00000002.jpg": ("airfield", 0),
        "data_256/a/apartment_building/outdoor/00000001.jpg": ("apartment_building/outdoor", 8),
        "data_256/t/train_station/platform/00000001.jpg": ("train_station/platform", 340),
    }


@pytest.mark.parametrize("deeper", ["", "data_256"])
def test_any_folder_of_it_will_do(pack, places: Path, deeper: str) -> None:
    assert pack(places / deeper, "places2", "train")[0]["samples"] == 4


def test_places_val_and_test_are_flat(pack, places: Path) -> None:
    _, val = pack(places, "places2", "val")
    assert {name: (sample["category"], sample["label"]) for name, sample in val.items()} == {
        "val_256/Places365_val_00000001.jpg": ("train_station/platform", 340),
        "val_256/Places365_val_00000002.jpg": ("airfield", 0),
    }
    _, test = pack(places / "test_256", "places2", "test")
    assert test == {"Places365_test_00000001.jpg": {"height": 8, "width": 8}}


def test_places_in_tars_as_they_are_downloaded(pack, places: Path) -> None:
    for folder, split in (("data_256", "train"), ("val_256", "val"), ("test_256", "test")):
        with tarfile.open(places / f"{folder}.tar", "w") as tar:
            tar.add(places / folder, folder)
        _, loose = pack(places, "places2", split)
        report, packed = pack(places / f"{folder}.tar", "places2", split)
        assert packed == loose
        assert report["skipped"] == []


def test_places_in_easy_format(pack, places: Path, tmp_path: Path) -> None:
    easy = tmp_path / "easy"
    put(easy / "train", "airfield/00000001.jpg", "airfield/00000002.jpg", "apartment_building-outdoor/00000001.jpg",
        "train_station-platform/00000001.jpg")  # fmt: skip
    put(easy / "val", "airfield/Places365_val_00000002.jpg", "train_station-platform/Places365_val_00000001.jpg")
    lists = places / "filelist_places365-standard"
    report, train = pack(easy, "places2", "train", "--lists", lists)
    assert report["skipped"] == []
    assert train["train/apartment_building-outdoor/00000001.jpg"]["label"] == 8
    assert pack(easy, "places2", "val", "--lists", lists)[0]["samples"] == 2


def test_listed_pictures_that_are_missing_are_reported(pack, places: Path) -> None:
    (places / "data_256/a/airfield/00000002.jpg").unlink()
    put(places / "data_256", "a/airfield/99999999.jpg")  # not in any list, so not in the dataset
    report, samples = pack(places, "places2", "train")
    assert report["samples"] == len(samples) == 3
    assert report["skipped"] == [
        {"file": "/a/airfield/00000002.jpg", "reason": "missing: listed, but not in the source"}
    ]
    assert report["reasons"] == {"missing": 1}


def test_celeba_partitions(pack, tmp_path: Path) -> None:
    put(tmp_path / "celeba" / "img_align_celeba", "000001.jpg", "000002.jpg", "000003.jpg")
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text(
        "000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n000004.jpg 2\n"
    )
    for split, number in (("train", 1), ("val", 2), ("test", 3)):
        report, samples = pack(tmp_path / "celeba", "celeba", split)
        name = f"img_align_celeba/{number:06d}.jpg"
        assert samples == {name: {"height": 8, "width": 8, "partition": split}}
        assert report["reasons"] == ({"missing": 1} if split == "test" else {})
    (tmp_path / "celeba" / "list_eval_partition.txt").unlink()
    (tmp_path / "list_eval_partition.csv").write_text("image_id,partition\n000001.jpg,0\n000002.jpg,1\n")
    assert pack(tmp_path / "celeba" / "img_align_celeba", "celeba", "val", "--lists", tmp_path)[0]["samples"] == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--split", "all"], "layout places2 has the splits train, val, test, not 'all'"),
        (["--split", "train", "--shares", "train=50,val=50"], "has splits of its own"),
        (["--split", "train", "--lists", "nowhere"], "--lists nowhere: there is no such folder"),
        (["--split", "train", "--lists", "."], "categories_places365.txt"),
    ],
)
def test_mistakes_with_a_layout_are_answered(isnet, places: Path, words: list[str], sentence: str) -> None:
    ran = isnet("data", "pack", places, "d", "--layout", "places2", *words)
    assert ran.status == 2
    assert sentence in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("places365_train_standard.txt", None, "places365_train_standard.txt or places365_train_challenge.txt"),
        ("categories_places365.txt", None, "categories_places365.txt"),
        ("places365_train_standard.txt", "/a/airfield/00000001.jpg\n", "line 1 is"),
        ("places365_train_standard.txt", "/a/airfield/00000001.jpg 77\n", "has label 77, which no category has"),
        ("places365_train_standard.txt", "/z/zoo/00000001.jpg 0\n", "none of the pictures of split train"),
        ("places365_train_standard.txt", "Places365_val_00000001.jpg 0\n", "is not a picture of split train"),
    ],
)
def test_lists_that_are_missing_or_wrong_are_named(isnet, places: Path, file: str, text, sentence: str) -> None:
    path = places / "filelist_places365-standard" / file
    path.unlink() if text is None else path.write_text(text)
    ran = isnet("data", "pack", places, "d", "--layout", "places2", "--split", "train")
    assert ran.status == 2, ran.out
    assert sentence in ran.err
    assert "Traceback" not in ran.err


def test_lists_of_no_layout_are_refused(isnet, places: Path) -> None:
    ran = isnet("data", "pack", places, "d", "--lists", places)
    assert ran.status == 2
    assert "--lists belongs to --layout" in ran.err


def test_genuine_pictures_of_places2_pack_by_their_names(isnet) -> None:
    shared = Path(__file__).parents[3].parent / "shared" / "data" / "places2"
    if not shared.is_dir():
        pytest.skip("the collection of test pictures is not beside this checkout")
    with io.BytesIO() as buffer, tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(shared, "test_256")
        tar.close()
        Path("test_256.tar").write_bytes(buffer.getvalue())
    report = isnet("data", "pack", "test_256.tar", "d", "--layout", "places2", "--split", "test", "--json").json()
    assert report["samples"] == 3
