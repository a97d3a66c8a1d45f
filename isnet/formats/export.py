"""Generators for other runtimes: ONNX and torch.export, any batch and size, each compared with the network it is of.

The files take `image` (B, 3, H, W) in [0, 1] and `mask` (B, 1, H, W), 1 valid and 0 hole, and give `prediction`. Height
and width must be multiples of the network's `size_multiple`, which a runtime may not check.
Not covered: reading `.pt2` back. torch's reader unpickles parts of it, so use it on files of your own only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from isnet.errors import InputError
from isnet.generator import Generator
from isnet.spectral_norm import fold_spectral_norm

LARGEST_SIDE = 16384
LARGEST_BATCH = 4096
# float32 sums in another order; images have 255 steps of 4e-3.
TOLERANCE = 1e-4


class ExportMismatch(RuntimeError):
    """An exported file computes something else than its network. The file is removed."""


@dataclass(frozen=True)
class ExportReport:
    """What was written and how near it is.

    shapes                 -- (batch, height, width) at which it was compared, none of them the one it was traced at
    max_absolute_difference -- the largest over all shapes, of values in [0, 1]
    """

    path: Path
    shapes: tuple[tuple[int, int, int], ...]
    max_absolute_difference: float


def export_onnx(network: Generator, path: str | Path, *, tolerance: float = TOLERANCE) -> ExportReport:
    """Write `network` as ONNX with dynamic batch and size, and run it with onnxruntime against the network.

    Raises ExportMismatch beyond `tolerance`, InputError for a missing folder or when onnx, onnxscript or onnxruntime is
    not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"export to ONNX needs {error.name}; install isnet-platform[onnx]") from error
    path = _writable(path)
    folded = _folded_float(network)
    with warnings.catch_warnings():
        # The exporter's own deprecations; nothing a caller could do about them.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _program(folded),
            f=str(path),
            dynamo=True,
            input_names=["image", "mask"],
            output_names=["prediction"],
            external_data=False,
            verbose=False,
        )
    _name_dimensions(path, onnx)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: Tensor, mask: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"image": image.numpy(), "mask": mask.numpy()})[0])

    return verify_export(folded, run, path, tolerance)


def export_program(network: Generator, path: str | Path, *, tolerance: float = TOLERANCE) -> ExportReport:
    """Write `network` as a torch.export program (.pt2) with dynamic batch and size, compared with the network.

    Raises ExportMismatch beyond `tolerance`, InputError for another suffix or a missing folder.
    """
    path = _writable(path)
    if path.suffix != ".pt2":
        raise InputError(f"program file is {path.name!r}; need a name that ends in .pt2, as torch.export.load wants")
    folded = _folded_float(network)
    program = _program(folded)
    torch.export.save(program, path)
    return verify_export(folded, program.module(), path, tolerance)


def _writable(path: str | Path) -> Path:
    """Looked at before the export's seconds of work."""
    path = Path(path)
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"{path} cannot be written; need a file name in a folder that exists; make the folder first")
    return path


def _folded_float(network: Generator) -> Generator:
    return fold_spectral_norm(network).cpu().float().eval()


def _program(network: Generator) -> torch.export.ExportedProgram:
    """The network as a graph whose batch, height and width are free; the sides in steps of `size_multiple`."""
    step = network.size_multiple
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    rows = torch.export.Dim("rows", min=1, max=LARGEST_SIDE // step)
    columns = torch.export.Dim("columns", min=1, max=LARGEST_SIDE // step)
    free = {0: batch, 2: step * rows, 3: step * columns}
    # Traced at sizes other than 1, which would be taken for constants, and different from each other.
    example = _example(network, (2, 3 * step, 4 * step))
    return torch.export.export(network, example, dynamic_shapes=(free, dict(free)))


def _example(network: Generator, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    batch, height, width = shape
    generator = torch.Generator().manual_seed(0)
    image_B3HW = torch.rand(batch, 3, height, width, generator=generator)
    mask_B1HW = torch.ones(batch, 1, height, width)
    mask_B1HW[..., height // 4 : height // 2, width // 4 : width // 2] = 0
    return image_B3HW, mask_B1HW


@torch.no_grad()
def verify_export(network: Generator, run: Callable[[Tensor, Tensor], Tensor], path: Path, tolerance: float) -> ExportReport:
    """Run both on sizes other than the traced one; beyond `tolerance` remove `path` and raise ExportMismatch."""
    step = network.size_multiple
    shapes = ((1, 4 * step, 4 * step), (3, 2 * step, 5 * step))
    differences = []
    for shape in shapes:
        image, mask = _example(network, shape)
        differences.append((run(image, mask) - network(image, mask)).abs().max())
    # torch's maximum of NaN is NaN, and NaN is no difference within tolerance.
    difference = float(torch.stack(differences).max())
    if not difference <= tolerance:
        path.unlink()
        raise ExportMismatch(f"{path} differs by {difference:.3g} from the network it was exported from; removed")
    return ExportReport(path=path, shapes=shapes, max_absolute_difference=difference)


def _name_dimensions(path: Path, onnx: object) -> None:
    """Give the free dimensions the names a reader of the model expects, instead of the tracer's."""
    model = onnx.load(path)  # type: ignore[attr-defined]
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        for position, name in ((0, "batch"), (2, "height"), (3, "width")):
            dims[position].dim_param = name
    onnx.save(model, path)  # type: ignore[attr-defined]
