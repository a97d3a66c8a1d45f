"""Exports a model as ONNX, or as an offline page.

The page has the model and ONNX Runtime Web in files of its own, so that a browser opens it from a disk or a stick.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from isnet.errors import InputError
from isnet.formats.export import ExportMismatch, export_onnx
from isnet.generator import Generator
from isnet.weights import load_model
from jobs import starter
from jobs.evaluation.model_address import STARTER, complete_address
from jobs.registry.register import LICENCE
from trainplane.cluster.context import Context
from trainplane.errors import UserError, error_line
from trainplane.registry.alias_check import audited_version
from trainplane.registry.package import data_of, download
from trainplane.storage import open_store

FORMATS = ("onnx", "page")
# Files of npm's package onnxruntime-web (MIT), below `dist/`, with their sha256.
RUNTIME_VERSION = "1.30.0"
_CODE, _WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_DIGESTS = {
    _CODE: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    _WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
_GET_IT = (
    f"get it with `npm pack onnxruntime-web@{RUNTIME_VERSION}`, and give that file or its folder dist: --runtime PATH"
)
# A browser gives a page a few gigabytes; a picture of this size takes about one.
MOST_PIXELS = 1_500_000
# Of values in [0, 1]: half a step of an 8-bit picture is 2e-3.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class ExportedModel:
    """A model that was exported.

    Attributes:
        model: Address of the version.
        to: "onnx" or "page".
        path: File or folder.
        bytes: Of all its files.
        max_absolute_difference: From the version's own network, of values in [0, 1], on pictures that it was not
            traced with.
    """

    model: str
    to: str
    path: Path
    bytes: int
    max_absolute_difference: float


def export_version(address: str, to: str, output: Path, context: Context, *, runtime: Path | None) -> ExportedModel:
    """Exports a registered version or the starter.

    Args:
        address: NAME@ALIAS, NAME/VERSION or "starter".
        to: "onnx" writes a file, "page" a folder.
        output: File, or folder, that is not there yet.
        context: Has the registry.
        runtime: npm's archive of onnxruntime-web, or a folder of its files; for a page.

    Raises:
        UserError: There is no such version, the runtime is another, or ONNX cannot hold the network.
    """
    if output.exists():
        raise UserError(f"{output} is there already; name another")
    if not output.parent.is_dir():
        raise UserError(f"{output.parent}: there is no such folder to write to; make it")
    # Before the model is fetched.
    files = _runtime_files(runtime) if to == "page" else {}
    pinned, folder = _opened(address, context)
    network = load_model(folder)
    if to == "onnx":
        difference = _onnx(network, output)
        return ExportedModel(pinned, to, output, output.stat().st_size, difference)
    # Whole or not at all.
    unfinished = output.with_name(f".{output.name}.unfinished")
    unfinished.mkdir(exist_ok=True)
    difference = _onnx(network, unfinished / "model.onnx")
    _write_page(unfinished, network, files, title=pinned.removeprefix("models:/"), licence=folder / LICENCE)
    unfinished.replace(output)
    size = sum(path.stat().st_size for path in output.iterdir())
    return ExportedModel(pinned, to, output, size, difference)


def _opened(address: str, context: Context) -> tuple[str, Path]:
    """Returns a version's pinned address, and its exported folder."""
    full = complete_address(address, context)
    if full == STARTER:
        return STARTER, starter.FOLDER
    if not full.startswith("models:/"):
        raise UserError(
            f"{address!r} is no registered version; register it first, then give NAME@ALIAS or NAME/VERSION"
        )
    version = audited_version(context.tracking_server, full, open_store(context.audit))
    return version.address, data_of(download(version, context.home / "cache" / "models"))


def _onnx(network: Generator, path: Path) -> float:
    try:
        return export_onnx(network, path, tolerance=_TOLERANCE).max_absolute_difference
    except (InputError, ExportMismatch):
        raise
    # The exporter has many kinds of errors for what ONNX lacks.
    except Exception as error:
        path.unlink(missing_ok=True)
        raise UserError(
            f"ONNX cannot hold this network ({network.architecture.name}: {error_line(error)[:200]}); serve it instead"
        ) from error


def _runtime_files(path: Path | None) -> dict[str, bytes]:
    """Reads the runtime, and checks its digests."""
    if path is None:
        raise UserError(f"a page needs ONNX Runtime Web {RUNTIME_VERSION}; {_GET_IT}")
    files = {}
    for name, digest in _DIGESTS.items():
        data = _from_archive(path, name) if path.is_file() else _from_folder(path, name)
        if data is None:
            raise UserError(f"{path} has no {name} of onnxruntime-web; {_GET_IT}")
        if hashlib.sha256(data).hexdigest() != digest:
            raise UserError(f"{name} in {path} is not that of onnxruntime-web {RUNTIME_VERSION}; {_GET_IT}")
        files[name] = data
    return files


def _from_folder(folder: Path, name: str) -> bytes | None:
    places = (folder / name, folder / "dist" / name, folder / "package" / "dist" / name)
    return next((place.read_bytes() for place in places if place.is_file()), None)


def _from_archive(file: Path, name: str) -> bytes | None:
    try:
        with tarfile.open(file) as archive:
            member = archive.extractfile(f"package/dist/{name}")
            return None if member is None else member.read()
    except (tarfile.TarError, KeyError, OSError):
        return None


def _write_page(folder: Path, network: Generator, runtime: dict[str, bytes], *, title: str, licence: Path) -> None:
    weights = (folder / "model.onnx").read_bytes()
    settings = {"multiple": network.size_multiple, "minimum": network.minimum_size, "most": MOST_PIXELS}
    template = Template(resources.files("jobs.registry").joinpath("page", "index.html").read_text(encoding="utf-8"))
    page = template.safe_substitute(
        title=title,
        description=f"{network.architecture.name}, {network.num_parameters() / 1e6:.1f} M parameters",
        most=f"{MOST_PIXELS / 1e6:g}",
        settings=json.dumps(settings),
    )
    scripts = {
        "model.js": f'const WEIGHTS = "{base64.b64encode(weights).decode()}";\n',
        "runtime.js": _runtime_script(runtime),
    }
    for name, text in {"index.html": page, **scripts}.items():
        (folder / name).write_text(text, encoding="utf-8")
    if licence.is_file():
        (folder / "LICENSE").write_bytes(licence.read_bytes())
    (folder / "README.txt").write_text(
        f"Open index.html in a browser; it needs no network.\n\nThe model is {title}; its terms are in LICENSE.\n"
        f"model.onnx is the same network for other programs: image and mask in, prediction out.\n"
        f"runtime.js holds ONNX Runtime Web {RUNTIME_VERSION} by Microsoft, under the MIT licence.\n",
        encoding="utf-8",
    )


def _runtime_script(runtime: dict[str, bytes]) -> str:
    code = json.dumps(runtime[_CODE].decode())
    return f'const RUNTIME = {{ code: {code}, wasm: "{base64.b64encode(runtime[_WASM]).decode()}" }};\n'
