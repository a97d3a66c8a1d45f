"""Exports generators to ONNX and torch.export, with dynamic sizes.

Each file is compared with its network. The files take `image` (B, 3, H, W) in [0, 1] and `mask` (B, 1, H, W), 1 valid
and 0 hole, and give `prediction`. Height and width must be multiples of the network's `size_multiple`, which a runtime
may not check. Not covered: reading `.pt2` back. torch's reader unpickles parts of it, so use it only on your own files.
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
# Runtimes sum float32 in another order; the steps of 8-bit images are 4e-3.
TOLERANCE = 1e-4


class ExportMismatch(RuntimeError):
    """Reports an exported file that differs from its network."""


@dataclass(frozen=True)
class ExportReport:
    """Result of an export and its comparison.

    Attributes:
        path: The file.
        shapes: (batch, height, width) of the comparisons, none of them the traced one.
        max_absolute_difference: Maximum over all shapes, of values in [0, 1].
    """

    path: Path
    shapes: tuple[tuple[int, int, int], ...]
    max_absolute_difference: float


def export_onnx(network: Generator, path: str | Path, *, tolerance: float = TOLERANCE) -> ExportReport:
    """Writes `network` as ONNX, and compares it in onnxruntime.

    Raises:
        ExportMismatch: The results differ by more than `tolerance`.
        InputError: The folder is missing, or onnx, onnxscript or onnxruntime is not installed.
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
        # The exporter warns about deprecations in its own code.
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
    # Compare the file as other programs run it.
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: Tensor, mask: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"image": image.numpy(), "mask": mask.numpy()})[0])

    return verify_export(folded, run, path, tolerance)


def export_program(network: Generator, path: str | Path, *, tolerance: float = TOLERANCE) -> ExportReport:
    """Writes `network` as a torch.export program, and compares it.

    Raises:
        ExportMismatch: The results differ by more than `tolerance`.
        InputError: The suffix is not .pt2, or the folder is missing.
    """
    path = _writable(path)
    if path.suffix != ".pt2":
        raise InputError(f"program file is {path.name!r}; need a name that ends in .pt2, as torch.export.load requires")
    folded = _folded_float(network)
    program = _program(folded)
    torch.export.save(program, path)
    return verify_export(folded, program.module(), path, tolerance)


def _writable(path: str | Path) -> Path:
    """Checks the path before the export, which takes seconds."""
    path = Path(path)
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"{path} cannot be written; need a file name in a folder that exists; make the folder first")
    return path


def _folded_float(network: Generator) -> Generator:
    return fold_spectral_norm(network).cpu().float().eval()


def _program(network: Generator) -> torch.export.ExportedProgram:
    """Traces the network with free batch, height and width.

    The sides are multiples of `size_multiple`.
    """
    step = network.size_multiple
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    rows = torch.export.Dim("rows", min=1, max=LARGEST_SIDE // step)
    columns = torch.export.Dim("columns", min=1, max=LARGEST_SIDE // step)
    free = {0: batch, 2: step * rows, 3: step * columns}
    # The tracer would treat sizes of 1, or equal sizes, as constants.
    example = _example(network, (2, 3 * step, 4 * step))
    program = torch.export.export(network, example, dynamic_shapes=(free, dict(free)))
    # Each pass of the exporter copies the history of every node, which doubles; nobody reads it.
    for node in program.graph_module.graph.nodes:
        node.meta.pop("from_node", None)
    return program


def _example(network: Generator, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    batch, height, width = shape
    generator = torch.Generator().manual_seed(0)
    image_B3HW = torch.rand(batch, 3, height, width, generator=generator)
    mask_B1HW = torch.ones(batch, 1, height, width)
    mask_B1HW[..., height // 4 : height // 2, width // 4 : width // 2] = 0
    return image_B3HW, mask_B1HW


@torch.no_grad()
def verify_export(
    network: Generator, run: Callable[[Tensor, Tensor], Tensor], path: Path, tolerance: float
) -> ExportReport:
    """Compares `run` with `network` on sizes not traced.

    Raises:
        ExportMismatch: They differ by more than `tolerance`; `path` is removed.
    """
    step = network.size_multiple
    shapes = ((1, 4 * step, 4 * step), (3, 2 * step, 5 * step))
    differences = []
    for shape in shapes:
        image, mask = _example(network, shape)
        differences.append((run(image, mask) - network(image, mask)).abs().max())
    difference = float(torch.stack(differences).max())
    # `not <=` also refuses NaN, which torch's maximum keeps.
    if not difference <= tolerance:
        path.unlink()
        raise ExportMismatch(f"{path} differs by {difference:.3g} from the network it was exported from; removed")
    return ExportReport(path=path, shapes=shapes, max_absolute_difference=difference)


def _name_dimensions(path: Path, onnx: object) -> None:
    """Renames the tracer's free dimensions to batch, height and width."""
    model = onnx.load(path)  # type: ignore[attr-defined]
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        for position, name in ((0, "batch"), (2, "height"), (3, "width")):
            dims[position].dim_param = name
    onnx.save(model, path)  # type: ignore[attr-defined]
