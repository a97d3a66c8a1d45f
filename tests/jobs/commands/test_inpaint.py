"""`isnet inpaint`: files and folders are filled, inputs are never overwritten."""

import numpy as np
import pytest
from PIL import Image


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


def test_a_link_to_itself_is_a_sentence(isnet, tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    Image.new("L", (9, 9), 255).save("mask.png")
    refused = isnet("inpaint", "loop.png", "mask.png", "-o", "out.png", "--model", "classical:mean")
    assert refused.status == 2
    assert "loop.png cannot be read" in refused.err


def test_a_picture_too_wide_for_the_output_is_refused_before_a_model_is_opened(isnet, tmp_path):
    Image.new("RGB", (17000, 4), "red").save("wide.png")
    Image.new("L", (17000, 4), 255).save("mask.png")
    refused = isnet("inpaint", "wide.png", "mask.png", "-o", "out.webp", "--model", "models:/none@production")
    assert refused.status == 2
    assert "WEBP holds at most 16383 pixels a side, and the picture has 17000x4" in refused.err


@pytest.fixture
def single_mask(tmp_path):
    hole = np.zeros((70, 91), np.uint8)
    hole[5:20, 5:20] = 255
    Image.fromarray(hole).save(tmp_path / "one.png")
    return tmp_path / "one.png"


def test_results_and_masks_below_the_pictures_are_not_filled(isnet, photos, single_mask):
    (photos / "masks").mkdir()
    for picture in list(photos.glob("photo-*")):
        (photos / "masks" / f"{picture.stem}.png").write_bytes(single_mask.read_bytes())
    words = ["inpaint", photos, photos / "masks", "-o", photos / "out", "--model", "classical:mean", "--json"]
    for _ in range(2):
        done = isnet(*words)
        assert (done.status, len(done.json()["done"])) == (0, 8), done.err
    assert not (photos / "out" / "out").exists()
    assert not (photos / "out" / "masks").exists()


def test_what_systems_leave_in_folders_is_no_picture_that_is_missing(isnet, photos, single_mask, tmp_path):
    (photos / "._photo-0.png").write_bytes(b"\0\5\x16\7" + bytes(100))
    for folder in (".thumbnails", "@eaDir", "album.jpg"):
        (photos / folder).mkdir()
        (photos / folder / "x.png").write_bytes((photos / "photo-0.png").read_bytes())
    done = isnet("inpaint", photos, single_mask, "-o", tmp_path / "out", "--model", "classical:mean", "--json")
    assert done.status == 0, done.err
    assert len(done.json()["done"]) == 9
    assert (tmp_path / "out" / "album.jpg" / "x.png").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--refine", "best"], "'best' is not known; need one of auto, off"),
        (["--grow", "-1"], "-1 is negative"),
        (["--grow", "100000"], "grow is 100000; need a whole number of pixels from 0 to 1024"),
        (["--feather", "x"], "'x' is no whole number"),
        (["--feather", "3", "--raw"], "leave out one of the two"),
        (["--grow", "90"], "grown by 90 pixels covers all of the picture of 91x70"),
    ],
)
def test_borders_that_cannot_be_used_are_refused_and_nothing_is_written(isnet, photos, tmp_path, options, sentence):
    hole = np.zeros((70, 91), np.uint8)
    hole[10:20, 10:20] = 255
    Image.fromarray(hole).save("hole.png")
    words = ["inpaint", photos / "photo-0.png", "hole.png", "-o", "out.png", "--model", "classical:telea", *options]
    refused = isnet(*words)
    assert refused.status == 2
    assert sentence in refused.err
    assert not (tmp_path / "out.png").exists()


def test_a_large_picture_is_filled_coarse_to_fine_unless_told_otherwise(isnet, photos):
    picture = Image.open(photos / "photo-0.png").convert("RGB").resize((300, 200))
    picture.save("large.png")
    hole = np.zeros((200, 300), np.uint8)
    hole[50:150, 100:200] = 255
    Image.fromarray(hole).save("hole.png")
    filled = {}
    for refine in ("auto", "off"):
        words = ["inpaint", "large.png", "hole.png", "-o", f"{refine}.png", "--model", "untrained:demo", "--json"]
        ran = isnet(*words, "--refine", refine)
        assert ran.status == 0, ran.err
        (entry,) = ran.json()["done"]
        filled[refine] = np.asarray(Image.open(f"{refine}.png"))
        assert any("trained on squares of 64 pixels" in note for note in entry["notes"]) == (refine == "off")
        assert np.array_equal(filled[refine][hole == 0], np.asarray(picture)[hole == 0])
    assert not np.array_equal(filled["auto"], filled["off"])
    assert isnet("inpaint", "large.png", "hole.png", "-o", "third.png", "--model", "untrained:demo").status == 0
    assert np.array_equal(np.asarray(Image.open("third.png")), filled["auto"])
