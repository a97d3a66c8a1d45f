"""No code is loaded that is not this installation's, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trainplane.registry.package import package
from trainplane.registry.package_code import foreign_code
from trainplane.task import Exported


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "source" / "tiny_model"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "serving.py").write_text("def _load_pyfunc(path): ...\n")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "serving.cpython-311.pyc").write_bytes(b"cache")
    return folder


@pytest.fixture
def packed(code: Path, tmp_path: Path) -> Path:
    data = tmp_path / "exported"
    data.mkdir()
    (data / "weights.json").write_text("{}")
    exported = Exported("tiny_model.serving", [code], [])
    names = {"inputs": ["i"], "outputs": ["o"], "example": {"i": "x"}}
    return package(exported, data=data, folder=tmp_path / "model", created_ms=0, **names)


def fault(packed: Path, code: Path, **options: tuple[str, ...]) -> str | None:
    return foreign_code(packed, loader_module="tiny_model.serving", installed={"tiny_model": code}, **options)


def test_a_package_of_this_installation_may_be_loaded(packed: Path, code: Path) -> None:
    assert fault(packed, code) is None


def edited(line: str, other: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        text = (model / "MLmodel").read_text()
        assert line in text
        (model / "MLmodel").write_text(text.replace(line, other))

    return change


def added(path: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        (model / path).parent.mkdir(parents=True, exist_ok=True)
        (model / path).write_text("raise SystemExit\n")

    return change


def linked(model: Path) -> None:
    (model / "code" / "tiny_model" / "serving.py").unlink()
    (model / "code" / "tiny_model" / "serving.py").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (added("code/tiny_model/serving.py"), "not that of this installation ('tiny_model/serving.py')"),
        (added("code/torch.py"), "not that of this installation ('torch.py')"),
        (added("code/sitecustomize.py"), "not that of this installation"),
        (added("code/tiny_model/__pycache__/serving.cpython-311.pyc"), "not that of this installation"),
        (lambda model: (model / "code/tiny_model/__init__.py").unlink(), "not that of this installation"),
        (linked, "is a link"),
        (edited("loader_module: tiny_model.serving", "loader_module: os"), "says loader_module: 'os'"),
        (edited("code: code", "code: data"), "says code: 'data'"),
        (edited("data: data/exported", "data: /"), "says data: '/'"),
        (edited("streamable: false", "predict_fn: __reduce__"), "says predict_fn: '__reduce__'"),
        (edited("streamable: false", "config: {a: 1}"), "says config: "),
        (edited("flavors:\n", "flavors:\n  sklearn: {pickled_model: m.pkl}\n"), "need python_function alone"),
        (edited("flavors:\n", "flavors: !!python/object/apply:os.system [id]\nothers:\n"), "cannot be read"),
        (lambda model: (model / "MLmodel").write_text("[]"), "cannot be read"),
        (lambda model: (model / "MLmodel").unlink(), "cannot be read"),
    ],
)
def test_anything_else_that_would_run_is_named(
    packed: Path, code: Path, change: Callable[[Path], None], reason: str
) -> None:
    change(packed)
    assert reason in str(fault(packed, code))


def test_code_that_the_gates_name_by_its_digest_may_be_loaded(packed: Path, code: Path) -> None:
    (code / "serving.py").write_text("# the next version\n")
    told = str(fault(packed, code))
    [digest] = [word for word in told.split() if len(word) == 64]
    assert fault(packed, code, trusted=(digest,)) is None
    added("code/tiny_model/more.py")(packed)
    assert fault(packed, code, trusted=(digest,)) is not None
