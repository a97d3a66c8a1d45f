"""What browsers cannot show is shown by the server, and what is no photo is a sentence."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from jobs.serving.photo_preview import add_preview
from jobs.serving.problems import add_handlers
from trainplane.serving.admission import AdmissionQueue, QueueLimits


@pytest.fixture
def ask():
    """Posts a file to the route alone, with a real queue; no version is opened for it."""
    app = FastAPI()
    add_handlers(app, lambda status: None)
    service = SimpleNamespace(queue=AdmissionQueue(QueueLimits(1, 4, 4)))
    add_preview(app, lambda: service, lambda request: "me", max_bytes=1 << 20, max_pixels=100_000)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield lambda content, name="photo": client.post("/v1/preview", files={name: ("a.tif", content)})


def encoded(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def test_a_gray_tiff_of_16_bits_is_shown_with_its_own_size(ask):
    ramp = np.linspace(0, 65535, 200 * 300).astype(np.uint16).reshape(200, 300)
    answer = ask(encoded(ramp, "TIFF"))
    assert (answer.status_code, answer.headers["x-isnet-size"]) == (200, "300x200")
    shown = np.asarray(Image.open(io.BytesIO(answer.content)).convert("L")).astype(int)
    assert np.abs(shown - ramp // 257).max() <= 1


def test_a_photo_on_its_side_is_shown_upright_and_a_large_one_smaller(ask):
    exif = Image.Exif()
    exif[0x0112] = 6
    answer = ask(encoded(np.zeros((30, 3000, 3), np.uint8), "TIFF", exif=exif))
    assert answer.headers["x-isnet-size"] == "30x3000"
    assert Image.open(io.BytesIO(answer.content)).size == (20, 2048)


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"\x7fELF" + bytes(100), "photo", "not a picture"),
        (b"", "photo", "no bytes"),
        (encoded(np.zeros((400, 300), np.uint8), "TIFF"), "photo", "400"),
        (b"x", "picture", "no photo"),
    ],
)
def test_what_is_no_photo_is_refused_in_a_sentence(ask, content, name, words):
    answer = ask(content, name)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
