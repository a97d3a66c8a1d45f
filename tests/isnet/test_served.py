"""The served model: requests in, filled pictures out, mistakes in a sentence."""

import base64
import io
import shutil
import struct
import zlib

import numpy as np
import pandas
import pytest
from PIL import Image

import isnet
from isnet.errors import InputError
from isnet.images.files import PictureError
from isnet.inpaint import inpaint
from isnet.masks import box
from isnet.served import TRAINED, ServedModel, _load_pyfunc
from isnet.weights import save_model

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (37, 51, 3), dtype=np.uint8)
HOLE = box(37, 51, RNG)


def base64_png(array, mode=None):
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def pixels(text):
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert image.format == "PNG"
        return np.asarray(image)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(isnet.build("isnet", blocks=1, width=4, init_std=0.1), folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return _load_pyfunc(str(folder))


ROW = {"image": base64_png(IMAGE), "mask": base64_png(HOLE)}


def test_a_data_frame_gives_a_data_frame(model, folder):
    from isnet.weights import load_model

    answer = model.predict(pandas.DataFrame([ROW, ROW]))
    assert isinstance(answer, pandas.DataFrame)
    assert list(answer.columns) == ["image", "notes"]
    expected = inpaint(IMAGE, HOLE, model=load_model(folder)).image
    for text in answer["image"]:
        filled = pixels(text)
        assert np.array_equal(filled[~HOLE], IMAGE[~HOLE])
        assert np.array_equal(filled, expected)


@pytest.mark.parametrize("request_", [[ROW], ROW, {"image": [ROW["image"]], "mask": [ROW["mask"]]}, [{**ROW, "id": 7}]])
def test_plain_python_gives_plain_python(model, request_):
    answer = model.predict(request_)
    assert isinstance(answer, list)
    assert np.array_equal(pixels(answer[0]["image"])[~HOLE], IMAGE[~HOLE])


def test_addresses_with_data_and_line_breaks_are_understood(model):
    text = "data:image/png;base64," + "\n".join(ROW["image"][i : i + 76] for i in range(0, len(ROW["image"]), 76))
    answer = model.predict([{"image": text, "mask": ROW["mask"].encode()}])
    assert pixels(answer[0]["image"]).shape == IMAGE.shape


def test_no_rows_are_no_work(model):
    assert model.predict([]) == []


def test_parameters_change_the_filling(model):
    inverted = model.predict([{**ROW, "mask": base64_png(~HOLE)}], params={"hole": "black"})
    assert inverted[0]["image"] == model.predict([ROW])[0]["image"]
    raw = pixels(model.predict([ROW], {"composite": False})[0]["image"])
    assert not np.array_equal(raw[~HOLE], IMAGE[~HOLE])
    small = model.predict([{**ROW, "mask": base64_png(HOLE[:20])}], {"resize_mask": True})
    assert "mask resized from 51x20 to 51x37" in small[0]["notes"]


def test_a_model_that_knows_its_training_size_refines_unless_told_otherwise(model, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "sized")
    trained = tmp_path / "sized" / TRAINED
    trained.write_text('{"evaluation_size": 16}')
    sized = _load_pyfunc(str(tmp_path / "sized"))
    refined, plain = (sized.predict([ROW], {"refine": refine})[0] for refine in ("auto", "off"))
    assert sized.predict([ROW])[0] == refined
    assert plain["image"] == model.predict([ROW])[0]["image"] != refined["image"]
    assert "trained on squares of 16 pixels" in plain["notes"]
    assert np.array_equal(pixels(refined["image"])[~HOLE], IMAGE[~HOLE])
    borders = sized.predict([ROW], {"grow": 1, "feather": 2})[0]
    assert "mask grown by 1 pixels" in borders["notes"]
    for content in ("{", "[]", '{"evaluation_size": "16"}', '{"evaluation_size": 0}'):
        trained.write_text(content)
        with pytest.raises(InputError, match="register the model again"):
            _load_pyfunc(str(tmp_path / "sized"))


def test_the_mode_of_the_picture_is_kept(model):
    answer = model.predict([{**ROW, "image": base64_png(IMAGE, "L")}])
    assert pixels(answer[0]["image"]).ndim == 2


def bomb():
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ([ROW, {**ROW, "image": "***"}], "row 1: image is no base64"),
        ([{**ROW, "image": ""}], "empty: row 0"),
        (
            [{**ROW, "image": base64.b64encode(b"<html>").decode()}],
            "not a picture: row 0: the content looks like a web",
        ),
        ([{**ROW, "image": ROW["image"][: len(ROW["image"]) // 8 * 4]}], "truncated: row 0: PNG of 51x37"),
        ([{**ROW, "mask": base64_png(HOLE[:20])}], "row 0: mask is 51x20 and picture 51x37"),
        ([{**ROW, "image": bomb()}], "too large: row 0: its header says 10000x10000 = 100000000 pixels"),
        ([{**ROW, "mask": bomb()}], "too large: row 0"),
        ([{**ROW, "mask": None}], "row 0: mask is NoneType"),
        ([{"image": ROW["image"]}], r"row 0 has the columns \['image'\]; need image and mask"),
        ({"image": [ROW["image"]], "mask": []}, "columns have different lengths"),
        ("hello", "got str; need a table"),
        ([1], "got list; need a table"),
    ],
)
def test_bad_requests_are_answered_in_a_sentence(model, request_, message):
    with pytest.raises(InputError, match=message) as caught:
        model.predict(request_)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"holes": "white"}, "parameters holes are unknown; need some of hole"),
        ({"hole": "gray"}, "hole='gray'; need 'white' or 'black'"),
        ({"composite": "yes"}, "composite is 'yes'; need true or false"),
        ({"threshold": "128"}, "threshold is '128'"),
        ({"refine": "best"}, "refine is 'best'; need one of auto, off"),
        ({"grow": -1}, "row 0: grow is -1; need a whole number of pixels"),
        ({"grow": 99}, "row 0: the mask grown by 99 pixels covers all of the picture"),
        ({"feather": 1.5}, "row 0: feather is 1.5"),
    ],
)
def test_bad_parameters_are_answered_in_a_sentence(model, params, message):
    with pytest.raises(InputError, match=message):
        model.predict([ROW], params)


def test_the_limit_is_a_setting():
    served = ServedModel(isnet.build("isnet", blocks=1, width=4), max_pixels=1000)
    with pytest.raises(PictureError, match="51x37 = 1887 pixels; need at most 1000"):
        served.predict([ROW])


def test_mlflow_is_not_imported():
    import subprocess
    import sys

    code = "import isnet.served, sys; sys.exit(any(name in sys.modules for name in ('mlflow', 'ray', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
