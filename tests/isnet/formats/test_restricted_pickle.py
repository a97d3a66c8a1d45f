"""Torch's zip files are read without executing anything: what is forbidden, damaged or too large is refused."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from isnet.errors import InputError
from isnet.formats.released import load
from isnet.formats.restricted_pickle import StoredTensor, is_torch_zip, read_torch_zip


def test_tensors_of_every_type_and_shape_come_back(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32)
    dtypes = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]
    content = {
        "plain": base.view(2, 3, 4),
        "turned": base.view(2, 3, 4).permute(2, 0, 1),
        "part": base[5:9],
        "empty": torch.empty(0, 3),
        "number": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.rand(2)),
        "nested": {"list": [1, "two", None, (3.5, True)]},
        **{str(dtype): base.to(dtype) for dtype in (*dtypes, torch.uint8, torch.bool)},
    }
    torch.save(content, tmp_path / "x")
    assert is_torch_zip(tmp_path / "x")
    found: Any = read_torch_zip(tmp_path / "x")
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            assert isinstance(found[name], StoredTensor)
            assert torch.equal(found[name].read(), value.detach())
            assert found[name].read().dtype == value.dtype
        else:
            assert found[name] == value


def archive(folder: Path, data: bytes, *, compression: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    path = folder / "file"
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", data)
        for name, value in members.items():
            file.writestr(f"archive/data/{name.removeprefix('n')}", value)
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(*, count: int = 4, offset: int = 0, shape: str = "(I2\nI2\nt", stride: str = "(I2\nI1\nt") -> bytes:
    """The pickle of one tensor named `w`, with any claims."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"I%d\n" % count + b"tQ"
    arguments = storage + b"I%d\n" % offset + shape.encode() + stride.encode() + b"I00\n" + b"}"
    return b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs."


def test_the_handmade_tensor_is_read(tmp_path: Path) -> None:
    found: Any = read_torch_zip(archive(tmp_path, tensor(), n0=struct.pack("<4f", 1, 2, 3, 4)))
    assert found["w"].read().tolist() == [[1, 2], [3, 4]]


SIXTEEN = {"n0": bytes(16)}
ONES = "(" + "I1\n" * 99 + "t"
HOSTILE: dict[str, tuple[bytes, dict[str, bytes], str]] = {
    "a shell": (b"cos\nsystem\n(Vtouch x\ntR.", {}, r"names os\.system, which belongs to no checkpoint; nothing was"),
    "eval": (b"cbuiltins\neval\n(V1\ntR.", {}, r"names builtins\.eval"),
    "an import": (b"c__builtin__\n__import__\n(Vos\ntR.", {}, r"names __builtin__\.__import__"),
    "a name on a terminal": (b"c\x1b[2J\nx\n.", {}, r"names '\\x1b\[2J\.x'"),
    "a package that looks known": (b"ctorchevil\nx\n.", {}, r"names torchevil\.x"),
    "an extension": (b"\x82\x01.", {}, "cannot be read as weights"),
    "numbers that are not there": (
        tensor(count=10**15),
        SIXTEEN,
        "storage '0' claims 1000000000000000 numbers of torch.fl",
    ),
    "no storage": (tensor(), {}, "storage '0' claims 4 numbers of torch.float32 and holds nothing"),
    "an offset behind the end": (tensor(offset=3), SIXTEEN, r"shape \(2, 2\) reaches value 6 of 4"),
    "a huge shape of stride 0": (
        tensor(shape="(I1000000\nI1000000\nt", stride="(I0\nI0\nt"),
        SIXTEEN,
        r"claims the shape \(1000000, 1000000\) and holds 4 numbers",
    ),
    "a negative stride": (tensor(stride="(I-2\nI1\nt"), SIXTEEN, "need whole numbers from 0"),
    "many dimensions": (
        tensor(shape=ONES, stride=ONES),
        SIXTEEN,
        "another number",
    ),
    "a memo of a billion": (b"\x80\x02}r\xff\xff\xff\x3f.", {}, ""),
    "a length of a terabyte": (b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".", {}, "cannot be read as weights"),
    "nothing": (b"", {}, "cannot be read as weights"),
    "an end too early": (tensor()[:-9], SIXTEEN, "cannot be read as weights"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused(tmp_path: Path, what: str) -> None:
    data, members, message = HOSTILE[what]
    path = archive(tmp_path, data, **members)
    if message:
        with pytest.raises(InputError, match=message):
            read_torch_zip(path)
    with pytest.raises(InputError):
        load(path)


def test_compressed_and_cut_archives_are_refused(tmp_path: Path) -> None:
    bomb = archive(tmp_path, tensor(count=10**7), compression=zipfile.ZIP_DEFLATED, n0=bytes(4 * 10**7))
    with pytest.raises(InputError, match=r"is compressed or larger than the file, need what torch\.save writes"):
        load(bomb)
    path = archive(tmp_path, tensor(), **SIXTEEN)
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match="cannot be read"):
            load(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "no weights")
    with pytest.raises(InputError, match=r"holds 0 files \*/data\.pkl, need one"):
        load(path)


def test_values_whose_checksum_does_not_fit_are_refused(tmp_path: Path) -> None:
    torch.save({"deconv13.weight": torch.rand(64)}, tmp_path / "x")
    data = bytearray((tmp_path / "x").read_bytes())
    data[data.find(b"/data/0") + 150] ^= 1
    (tmp_path / "x").write_bytes(data)
    found: Any = read_torch_zip(tmp_path / "x")
    with pytest.raises(InputError, match=r"is damaged at data/0; copy the file again"):
        found["deconv13.weight"].read()


def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path, tensor(), **SIXTEEN)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/code/__torch__.py", "")
    with pytest.raises(InputError, match="is a TorchScript program, need the checkpoint of tensors"):
        load(path)


def test_a_huge_claim_in_the_old_format_takes_no_memory(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"w": torch.rand(4)}, file, _use_new_zipfile_serialization=False)
    # The number of values, as one byte, becomes ten trillion.
    claimed = file.getvalue().replace(b"K\x04N", b"\x8a\x06" + (10**13).to_bytes(6, "little") + b"N")
    assert len(claimed) == len(file.getvalue()) + 6
    (tmp_path / "old").write_bytes(claimed)
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "old")


def test_objects_of_known_packages_become_nothing(tmp_path: Path) -> None:
    # An object with state and items, and one that is a key: as Lightning's callbacks are.
    data = b"\x80\x02}(" + text("a") + b"comegaconf.base\nNode\n)\x81}" + text("x") + b"I1\nsb"
    data += b"cpytorch_lightning.callbacks\nEarlyStopping\n}u."
    found: Any = read_torch_zip(archive(tmp_path, data))
    assert type(found["a"]).__name__ == "_Placeholder"
    assert len(found) == 2
