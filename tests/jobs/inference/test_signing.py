"""`provenance` of a context signs what is filled, and `isnet inpaint --check` reads it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isnet.images.certificates import make_certificates
from isnet.images.provenance import Identity, Origin, read_credentials
from isnet.inference.classical import classical
from jobs.inference import batch
from jobs.inference.signing import Signing
from jobs.serving.fill import BLIND, OPTIONS, fill_hole

pytest.importorskip("c2pa")
Isnet = Callable


@pytest.fixture
def files(tmp_path: Path, home: Path) -> Path:
    del home
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[8:24, 16:48] = 255
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def test_filled_pictures_say_so(isnet: Isnet, files: Path) -> None:
    fill = ["inpaint", "photo.png", "mask.png", "--model", "classical:mean"]
    assert isnet(*fill, "-o", "plain.png").status == 0
    made = isnet("config", "certificate", "signing", "--organisation", "Example Ltd")
    assert made.status == 0
    assert 'provenance = "' in made.out
    (files / "isnet.toml").write_text('default = "desk"\n[context.desk]\nprovenance = "signing"\n')
    assert isnet(*fill, "-o", "signed.png").status == 0
    plain, signed = ((files / name).read_bytes() for name in ("plain.png", "signed.png"))
    assert signed != plain
    one, other = (np.asarray(Image.open(io.BytesIO(data))) for data in (plain, signed))
    assert np.array_equal(one, other)
    told = isnet("inpaint", "--check", "signed.png")
    assert told.status == 0
    assert "signed by Example Ltd content credentials, whose certificate is trusted here" in told.out
    assert "a hole was filled by classical:mean: 32 x 16 pixels at 16, 8, 12.5 % of the picture" in told.out
    # What was changed afterwards, and what says nothing.
    (files / "signed.png").write_bytes(signed[:-30] + bytes([signed[-30] ^ 1]) + signed[-29:])
    broken = isnet("inpaint", "--check", "signed.png", "--json")
    assert (broken.status, broken.json()["state"]) == (1, "changed")
    nothing = isnet("inpaint", "--check", "plain.png")
    assert nothing.status == 0
    assert "carries no content credentials" in nothing.out


def test_a_blind_answer_does_not_say_its_version(files: Path) -> None:
    make_certificates(files / "signing", "Example Ltd")
    signing = Signing(Identity.read(files / "signing"), Origin("photo", "3", "d" * 64))
    inputs = {name: (files / f"{name}.png").read_bytes() for name in ("photo", "mask")}
    told = {}
    for blind in (False, True):
        content = fill_hole(classical("mean"), inputs, {**OPTIONS, BLIND: blind}, signing=signing).content
        [edit] = read_credentials(content, ".png").edits
        told[blind] = (edit["model"], edit["version"], edit["digest"])
        assert (b"d" * 64 in content) is not blind
    assert told == {False: ("photo", "3", "d" * 64), True: ("photo", "", "")}


def test_mistakes_are_one_sentence(isnet: Isnet, files: Path) -> None:
    assert "IMAGE and MASK and -o OUT is missing" in isnet("inpaint").err
    both = isnet("inpaint", "photo.png", "mask.png", "--check", "photo.png")
    assert (both.status, "leave the rest out" in both.err) == (2, True)
    assert isnet("inpaint", "--check", "nowhere.png").status == 2
    (files / "notes.txt").write_text("no picture")
    assert "no format with content credentials" in isnet("inpaint", "--check", "notes.txt").err
    (files / "isnet.toml").write_text('default = "desk"\n[context.desk]\nprovenance = "nowhere"\n')
    without = isnet("inpaint", "photo.png", "mask.png", "--model", "classical:mean", "-o", "out.png")
    assert without.status == 2
    assert "key.pem cannot be read" in without.err
    assert not (files / "out.png").exists()


def test_a_batch_job_signs_what_it_fills_and_a_part_that_runs_twice_records_one_file(
    isnet: Isnet, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, name in (("in", "photo.png"), ("holes", "mask.png")):
        (files / folder).mkdir()
        for number in range(3):
            (files / folder / f"{number}.png").write_bytes((files / name).read_bytes())
    assert isnet("config", "certificate", "signing", "--organisation", "Example Ltd").status == 0
    (files / "isnet.toml").write_text('default = "desk"\n[context.desk]\nprovenance = "signing"\n')
    words = ["inpaint", "in", "holes", "-o", "out", "--model", "classical:mean", "--parallel", "0", "--json"]
    # Killed when all pictures are there and no part is recorded.
    create = batch.canonical_json
    monkeypatch.setattr(
        batch, "canonical_json", lambda value: _stop() if value.keys() == {"pictures"} else create(value)
    )
    assert isnet(*words).status == 130
    before = {path.name: path.read_bytes() for path in (files / "out").glob("*.png")}
    assert len(before) == 3
    # One of them is another file meanwhile.
    (files / "out" / "1.png").write_bytes((files / "photo.png").read_bytes())
    monkeypatch.setattr(batch, "canonical_json", create)
    # What was signed then and is not to be signed now would be half a job.
    (files / "isnet.toml").write_text('default = "desk"\n[context.desk]\n')
    refused = isnet(*words)
    assert (refused.status, "the unfinished job in" in refused.err, "names none" in refused.err) == (2, True, True)
    (files / "isnet.toml").write_text('default = "desk"\n[context.desk]\nprovenance = "signing"\n')
    done = isnet(*words)
    assert done.status == 0, done.err
    for row in json.loads((files / "out" / "manifest.json").read_text())["pictures"]:
        data = (files / "out" / row["output"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert (data == before[row["output"]]) is (row["output"] != "1.png")
        said = read_credentials(data, ".png", anchors=(files / "signing" / "certificates.pem").read_bytes())
        assert (said.state, [edit["model"] for edit in said.edits]) == ("trusted", ["classical:mean"])


def _stop() -> bytes:
    raise KeyboardInterrupt
