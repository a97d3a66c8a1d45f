"""The starter: its weights, the licences of its photos, and what is filled with it."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from isnet.inference.classical import classical
from isnet.inference.predictor import Predictor
from isnet.masks import irregular
from isnet.weights import TENSORS, load_model
from jobs import starter
from jobs.config import load_isnet_config
from jobs.data.demo_photos import packaged_photos
from jobs.data.starter_photos import copy_photos, qt_resources, table
from jobs.train.networks import generator_options
from trainplane.errors import UserError


def held_out_photos(size):
    for source in packaged_photos().val:
        photo = Image.open(io.BytesIO(source.read())).convert("RGB").resize((size, size), Image.Resampling.BOX)
        yield np.asarray(photo, dtype=np.float32) / 255


def test_the_weights_are_small_whole_and_of_the_preset():
    network = load_model(starter.FOLDER)
    assert (starter.FOLDER / TENSORS).stat().st_size <= 12_000_000
    options = {"name": "isnet", **generator_options(load_isnet_config("starter", []))}
    assert network.architecture.to_dict() == network.architecture.to_dict() | options


def test_holes_are_filled_better_than_by_classical_methods():
    models = {"starter": Predictor(load_model(starter.FOLDER))}
    models |= {name: classical(name) for name in ("telea", "biharmonic")}
    errors = {name: [] for name in models}
    for number, photo in enumerate(held_out_photos(128)):
        hole = irregular(128, 128, np.random.default_rng(number), ratio=(0.3, 0.4))
        for name, model in models.items():
            errors[name].append(np.square(model.predict(photo, hole) - photo)[hole].mean())
    psnr = {name: float(-10 * np.log10(values).mean()) for name, values in errors.items()}
    assert psnr["starter"] > psnr["telea"] + 0.5
    assert psnr["starter"] > psnr["biharmonic"] + 0.5


def test_every_photo_has_a_licence_that_allows_to_pass_on_what_was_learned():
    rows = table()
    assert len(rows) == len({row["sha256"] for row in rows}) == len({row["file"] for row in rows})
    allowed = ("public domain", "CC0-", "CC-BY-")
    assert [row for row in rows if not row["licence"].startswith(allowed) or "NC" in row["licence"]] == []
    assert all(row["author"] and row["package"] and row["path"] for row in rows)
    # None of them is a held-out photo of the demo.
    held = {source.name for source in packaged_photos().val}
    assert held.isdisjoint(row["path"].rpartition("/")[2] for row in rows)


def test_missing_packages_are_named(tmp_path):
    with pytest.raises(UserError, match=r"photos are missing or of another version, the first lomiri"):
        copy_photos(tmp_path, tmp_path / "photos")


def test_files_of_a_qt_resource_are_read():
    def name(text):
        return struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")

    names, contents = name("a") + name("b.webp"), struct.pack(">I", 4) + b"data"
    # Root folder, folder `a`, file `b.webp`.
    nodes = struct.pack(">IHII", 0, 2, 1, 1) + struct.pack(">IHII", 0, 2, 1, 2) + struct.pack(">IHHHI", 8, 0, 0, 0, 0)
    header = struct.pack(">4s4I", b"qres", 1, 20, 20 + len(nodes), 20 + len(nodes) + len(contents))
    assert list(qt_resources(header + nodes + contents + names)) == [("/a/b.webp", b"data")]
    with pytest.raises(UserError, match="begins with 'qres'"):
        list(qt_resources(b"RIFF" + header[4:]))


def test_without_any_model_a_hole_is_filled_with_the_starter(isnet, tmp_path):
    photo = (next(held_out_photos(64)) * 255).astype(np.uint8)
    hole = np.zeros((64, 64), np.uint8)
    hole[20:40, 20:40] = 255
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(hole).save(tmp_path / "mask.png")
    done = isnet("inpaint", tmp_path / "photo.png", tmp_path / "mask.png", "-o", tmp_path / "filled.png")
    assert done.status == 0, done.err
    assert "none is registered; this is the starter, a small model that ships with isnet" in done.err
    filled = np.asarray(Image.open(tmp_path / "filled.png"))
    assert np.array_equal(filled[hole == 0], photo[hole == 0])
    assert len(np.unique(filled[hole > 0])) > 50
