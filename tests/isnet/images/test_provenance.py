"""Content credentials: signed, read back, and every changed byte found; pixels stay as they are."""

from __future__ import annotations

import io
import struct
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from isnet.errors import InputError
from isnet.images import provenance
from isnet.images.certificates import make_certificates
from isnet.images.jumbf import unsigned_fault
from isnet.images.provenance import CERTIFICATES, KEY, Identity, Origin, read_credentials

pytest.importorskip("c2pa")

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".tiff": "TIFF"}
ORIGIN = Origin("isnet-demo", "3", "d" * 64)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    folder = tmp_path_factory.mktemp("signing") / "id"
    make_certificates(folder, "Example Ltd")
    return Identity.read(folder)


def picture(suffix: str, side: int = 48) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(5).integers(0, 256, (side, side, 3), np.uint8)
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(pixels).save(file, FORMATS[suffix], **options)
    return file.getvalue()


def signed(identity: Identity, suffix: str, side: int = 48) -> tuple[bytes, bytes]:
    data = picture(suffix, side)
    hole = np.zeros((side, side), bool)
    hole[10:20, 4:34] = True
    content = identity.sign(data, suffix, original=data, original_format=FORMATS[suffix], hole=hole, origin=ORIGIN)
    return data, content


@pytest.mark.parametrize("suffix", FORMATS)
def test_signed_file_says_who_filled_what(identity: Identity, suffix: str) -> None:
    data, content = signed(identity, suffix)
    found = read_credentials(content, suffix, anchors=identity.chain)
    assert (found.state, found.fault) == ("trusted", "")
    [edit] = found.edits
    assert (edit["model"], edit["version"], edit["digest"]) == ("isnet-demo", "3", "d" * 64)
    assert edit["regions"] == [{"x": 4.0, "y": 10.0, "width": 30.0, "height": 10.0}]
    assert "30 x 10 pixels at 4, 10" in "\n".join(found.sentences())
    # Pixels are not touched, and strangers see the same without trust.
    before, after = (np.asarray(Image.open(io.BytesIO(file))) for file in (data, content))
    assert np.array_equal(before, after)
    assert read_credentials(content, suffix).state == "signed"
    assert read_credentials(data, suffix).state == "none"


def changes(content: bytes, count: int, seed: int) -> list[bytes]:
    """Copies with one changed bit each: half anywhere, half near the manifest."""
    rng = np.random.default_rng(seed)
    start = max(0, content.find(b"jumdc2pa") - 60)
    end = min(len(content), start + 4400)
    places = [*rng.integers(0, len(content), count // 2), *rng.integers(start, end, count - count // 2)]
    copies = []
    for place in places:
        copy = bytearray(content)
        copy[place] ^= 1 << int(rng.integers(8))
        copies.append(bytes(copy))
    return copies


def missed(identity: Identity, suffix: str, count: int) -> int:
    _, content = signed(identity, suffix)
    found = [read_credentials(copy, suffix, anchors=identity.chain).state for copy in changes(content, count, 7)]
    return sum(state != "changed" for state in found)


@pytest.mark.parametrize("suffix", FORMATS)
def test_changed_byte_is_found(identity: Identity, suffix: str) -> None:
    assert missed(identity, suffix, 60) == 0


@pytest.mark.nightly
@pytest.mark.parametrize("suffix", FORMATS)
def test_thousand_changed_bytes_are_found_and_signing_is_quick(identity: Identity, suffix: str) -> None:
    assert missed(identity, suffix, 1000) == 0
    data = picture(suffix, 1024)
    hole = np.zeros((1024, 1024), bool)
    hole[100:400, 100:400] = True
    times = []
    for _ in range(21):
        started = time.process_time()
        identity.sign(data, suffix, original=data, original_format=FORMATS[suffix], hole=hole, origin=ORIGIN)
        times.append(time.process_time() - started)
    print(f"{suffix}: {1000 * sorted(times)[10]:.1f} ms of a processor at the median, {len(data)} bytes")
    assert sorted(times)[10] <= 0.03


def test_filled_again_it_keeps_its_history(identity: Identity) -> None:
    _, content = signed(identity, ".png")
    hole = np.zeros((48, 48), bool)
    hole[1, 1] = True
    again = identity.sign(content, ".png", original=content, original_format="PNG", hole=hole, origin=ORIGIN)
    found = read_credentials(again, ".png", anchors=identity.chain)
    assert (found.state, found.edits[0]["regions"][0]["width"]) == ("trusted", 1.0)


def test_original_of_another_format_is_named_by_its_digest(identity: Identity) -> None:
    data = picture(".png")
    hole = np.ones((48, 48), bool)
    content = identity.sign(data, ".png", original=b"HEIC", original_format="HEIF", hole=hole, origin=ORIGIN)
    assert read_credentials(content, ".png", anchors=identity.chain).state == "trusted"


def test_whatever_a_stranger_has_signed_is_read(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest_of = provenance._manifest

    def strange(*arguments: Any) -> dict[str, Any]:
        manifest = manifest_of(*arguments)
        manifest["claim_generator_info"] = [{"name": "stranger", "version": "1"}]
        manifest["assertions"][0]["data"]["actions"][1]["parameters"] = {"org.isnet.fill": "no table"}
        return manifest

    monkeypatch.setattr(provenance, "_manifest", strange)
    found = read_credentials(signed(identity, ".png")[1], ".png")
    assert (found.state, found.edits) == ("signed", ())
    assert len(found.sentences()) == 1


def test_boxes_deeper_than_the_stack_are_a_fault() -> None:
    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", 8 + len(content)) + kind + content

    # Type, toggles, label; the outermost is found by its type.
    kind = b"c2pa\0\x11\0\x10\x80\0\0\xaa\x008\x9bq"
    labels = [b"c2pa.assertions", b"urn:c2pa:" + 36 * b"0", b"c2pa"]
    nested = b""
    for label in [b"deep"] * 3000 + labels:
        nested = box(b"jumb", box(b"jumd", kind + b"\x03" + label + b"\0") + nested)
    assert unsigned_fault(b"TIFF" + nested, ".tiff") == "the boxes of the manifest"


def test_mistakes_are_sentences(identity: Identity, tmp_path: Path) -> None:
    hole = np.ones((2, 2), bool)
    with pytest.raises(InputError, match=r"\.bmp has no place for content credentials"):
        identity.sign(b"", ".bmp", original=b"", original_format="BMP", hole=hole, origin=ORIGIN)
    with pytest.raises(InputError, match=f"{KEY} cannot be read"):
        Identity.read(tmp_path)
    make_certificates(tmp_path / "id", "Example Ltd")
    with pytest.raises(InputError, match="already; name another folder"):
        make_certificates(tmp_path / "id", "Example Ltd")
    (tmp_path / "id" / KEY).chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        Identity.read(tmp_path / "id")
    (tmp_path / "id" / KEY).chmod(0o600)
    make_certificates(tmp_path / "other", "Other Ltd")
    (tmp_path / "id" / CERTIFICATES).write_bytes((tmp_path / "other" / CERTIFICATES).read_bytes())
    with pytest.raises(InputError, match="is not the key of the first certificate"):
        Identity.read(tmp_path / "id")
    (tmp_path / "id" / CERTIFICATES).write_text("nothing")
    with pytest.raises(InputError, match="has no certificate in PEM"):
        Identity.read(tmp_path / "id")
    with pytest.raises(InputError, match="cannot be signed"):
        signed(replace(identity, chain=b"nothing"), ".png")


def test_certificate_of_another_time_is_refused_before_anything_is_filled(tmp_path: Path) -> None:
    for name, days in (("ended", -500), ("to come", 30)):
        make_certificates(tmp_path / name, "Example Ltd", now=datetime.now(UTC) + timedelta(days=days))
        with pytest.raises(InputError, match=r"is valid from \d{4}-\d\d-\d\d until \d{4}-\d\d-\d\d; have it renewed"):
            Identity.read(tmp_path / name)
        assert Identity.read(tmp_path / name, signs=False).chain


def test_missing_extra_is_told_when_certificates_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_certificates(tmp_path / "id", "Example Ltd")
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(InputError, match=r"pip install 'isnet-platform\[provenance\]'"):
        Identity.read(tmp_path / "id")


def test_key_is_private_and_never_shown(tmp_path: Path) -> None:
    make_certificates(tmp_path / "id", "Example Ltd")
    assert (tmp_path / "id" / KEY).stat().st_mode & 0o077 == 0
    assert "PRIVATE" not in repr(Identity.read(tmp_path / "id"))
