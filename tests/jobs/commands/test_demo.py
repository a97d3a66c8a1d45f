"""`isnet demo`: mistakes are refused before anything starts."""

import numpy as np
from PIL import Image


def test_too_few_photos_for_a_demo_are_counted(isnet, tmp_path):
    folder = tmp_path / "few"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(b"no picture")
    ran = isnet("demo", "--photos", folder)
    assert ran.status == 2
    assert "0 usable photos found" in ran.err
    assert "one.jpg" in ran.err


def test_copies_of_one_photo_are_no_photos_for_a_demo(isnet, tmp_path):
    for number in range(5):
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / f"{number}.png")
    ran = isnet("demo", "--photos", tmp_path)
    assert ran.status == 2
    assert "5 usable photos found, 1 of them different, need at least 4" in ran.err


def test_an_empty_folder_has_no_photos_for_a_demo(isnet, tmp_path):
    (tmp_path / "none").mkdir()
    ran = isnet("demo", "--photos", tmp_path / "none")
    assert ran.status == 2
    assert "0 usable photos found, need at least 4" in ran.err


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


def test_a_demo_with_its_stores_in_a_bucket_is_refused(isnet, tmp_path):
    (tmp_path / "isnet.toml").write_text('[context.lab]\nstore = "s3://bucket/isnet"\n')
    ran = isnet("demo", "--context", "lab")
    assert ran.status == 2
    assert "stores of context 'lab' are in a bucket" in ran.err
