"""What fills holes, opened by the name that a person gives; `isnet.fill` on top."""

import numpy as np
import pytest
from PIL import Image

import isnet
from isnet.errors import InputError
from isnet.inference.classical import Classical
from isnet.inference.open_filler import open_filler
from isnet.inference.predictor import Predictor
from isnet.weights import save_model


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 56), np.uint8)
    mask[12:20, 20:33] = 255
    return rng.integers(0, 256, (40, 56, 3), np.uint8), mask


def test_the_starter_fills_files_arrays_and_keeps_known_pixels(picture, tmp_path):
    pixels, mask = picture
    filled = isnet.fill(pixels, mask).image
    assert np.array_equal(filled[mask == 0], pixels[mask == 0])
    assert not np.array_equal(filled[mask > 0], pixels[mask > 0])
    Image.fromarray(pixels).save(tmp_path / "p.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    isnet.fill(tmp_path / "p.png", tmp_path / "m.png", "starter").save(tmp_path / "f.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "f.png")), filled)


def test_a_folder_a_network_and_a_classical_method_are_models(picture, tmp_path):
    network = isnet.build("isnet", blocks=1, width=4, init_std=0.1).eval()
    save_model(network, tmp_path / "net")
    (tmp_path / "net" / "trained.json").write_text('{"evaluation_size": 48}')
    by_folder = open_filler(tmp_path / "net")
    assert isinstance(by_folder, Predictor)
    assert (by_folder.trained_size, by_folder.refine) == (48, "auto")
    one, other = (isnet.fill(*picture, model, refine="off").image for model in (tmp_path / "net", network))
    assert np.array_equal(one, other)
    assert isinstance(open_filler("classical:telea"), Classical)
    assert open_filler(by_folder) is by_folder


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("isnet-demo@production", "'isnet-demo@production' is no model; .*starter.* opened by jobs.api.fill"),
        ("classical:nothing", "method 'nothing' is unknown"),
    ],
)
def test_an_unknown_model_is_answered_with_what_there_is(picture, name, sentence):
    with pytest.raises(InputError, match=sentence):
        isnet.fill(*picture, name)
