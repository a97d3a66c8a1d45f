"""Random holes: pure functions of (height, width, rng).

True is hole, and no mask is empty or full. Kinds: `irregular` (strokes up to a requested hole ratio, like Liu et al.'s
masks [4]), `thin`, `medium` and `thick` (of LaMa's tests), `lama` (of its training), `box`, `large_box` (CA's), `half`,
and `silhouette` (shapes of objects). Lengths in the settings are pixels of a 256-pixel picture and grow with the
shorter side. Hole ratios and their bins are here too.

Not here: masks from files and arrays (`isnet.mask_files`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isnet.errors import InputError

Hole = NDArray[np.bool_]
Generator = Callable[[int, int, np.random.Generator], Hole]

# Hole ratio in percent, each bin without its lower and with its upper edge, as Liu et al. [4] divide their test masks.
# The paper's Tables 3 and 4 have the four from 10-20 to 40-50.
RATIO_BINS = ("0-10", "10-20", "20-30", "30-40", "40-50", "50-60")


def hole_ratio(hole: Hole) -> float:
    """Share of hole pixels, 0 to 1."""
    return float(np.count_nonzero(hole)) / hole.size


def ratio_bin(ratio: float) -> str | None:
    """Bin of a hole ratio: "10-20"; None above 0.6."""
    if not 0 <= ratio <= 1:
        raise InputError(f"hole ratio {ratio} is outside 0 to 1; give the share of hole pixels")
    # A ratio such as 0.3 arrives as 30.000000000000004 percent.
    number = max(0, math.ceil(round(ratio * 10, 9)) - 1)
    return RATIO_BINS[number] if number < len(RATIO_BINS) else None


def bin_range(name: str) -> tuple[float, float]:
    """Edges of a bin: "10-20" gives hole ratios (0.1, 0.2)."""
    if name not in RATIO_BINS:
        raise InputError(f"ratio bin {name!r} is unknown; need one of {', '.join(RATIO_BINS)}")
    low, high = name.split("-")
    return int(low) / 100, int(high) / 100


def valid_1HW(hole: Hole) -> NDArray[np.float32]:
    """The paper's M as float32, 0 in the hole."""
    return (~hole)[None].astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Strokes:
    """Ranges of a brush, ends included; pixels at 256, radians."""

    num: tuple[int, int]
    width: tuple[float, float]
    length: tuple[float, float]
    vertices: tuple[int, int] = (1, 5)
    max_turn: float = 4.0


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Number of rectangles and their sides in pixels at 256."""

    num: tuple[int, int]
    side: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class StrokesAndBoxes:
    """Strokes or, with weight `box_weight` against 1, boxes."""

    strokes: Strokes
    boxes: Boxes | None = None
    box_weight: float = 0.3
    # A mask is drawn again while more than this is hole.
    max_ratio: float = 0.5


# LaMa's settings at 256 pixels: counts, largest widths and lengths, boxes (its published data_gen files).
THIN = StrokesAndBoxes(strokes=Strokes(num=(4, 50), width=(2, 10), length=(10, 40)))
MEDIUM = StrokesAndBoxes(
    strokes=Strokes(num=(4, 5), width=(5, 50), length=(10, 100)), boxes=Boxes(num=(1, 5), side=(10, 50))
)
THICK = StrokesAndBoxes(
    strokes=Strokes(num=(1, 5), width=(5, 100), length=(10, 200)), boxes=Boxes(num=(1, 3), side=(30, 150))
)
# LaMa's training, with equal probability: strokes, whose number and lengths exceed the configured ones by one step, or
# boxes.
LAMA = StrokesAndBoxes(
    strokes=Strokes(num=(1, 6), width=(5, 104), length=(10, 209), max_turn=3.0),
    boxes=Boxes(num=(1, 4), side=(30, 150)),
    box_weight=1.0,
)
# Strokes as wide and long as most in Liu et al.'s masks; their number follows from the ratio.
IRREGULAR = Strokes(num=(1, 1), width=(5, 40), length=(15, 120), vertices=(2, 8), max_turn=2.5)

# Draws before a mask that covers too much is replaced by a small box.
_ATTEMPTS = 20


def irregular(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    ratio: tuple[float, float] = (0.1, 0.5),
    strokes: Strokes = IRREGULAR,
) -> Hole:
    """Draws strokes until the hole ratio is in the range.

    The goal is uniform above ratio[0] and up to ratio[1]. The default covers the four bins of the paper's Tables 3
    and 4; `bin_range("20-30")` gives one of them. Raises `InputError` when no number of pixels lies in the range.
    """
    import cv2

    num_pixels = _num_pixels(height, width)
    low, high = ratio
    if not 0 <= low < high <= 1:
        raise InputError(f"hole ratio from {low} to {high}; need 0 <= lower < upper <= 1")
    least, most = math.floor(low * num_pixels) + 1, min(math.floor(high * num_pixels), num_pixels - 1)
    if least > most:
        raise InputError(f"no hole of {width}x{height} pixels has a ratio of {low} to {high}; take a larger picture")
    goal = int(rng.integers(least, most + 1))

    # Segment by segment, so that the goal is passed by one segment at most.
    canvas = np.zeros((height, width), np.uint8)
    count, scale = 0, min(height, width) / 256
    for _ in range(1000):
        # Below a fifth of a pixel a smaller brush draws the same.
        if count >= goal or scale * strokes.width[0] < 0.2:
            break
        for segment in _stroke(height, width, rng, strokes, scale):
            trial = _draw(canvas.copy(), segment)
            num_hole = cv2.countNonZero(trial)
            if num_hole > most:
                scale *= 0.7  # one segment covers too much: continue with a smaller brush
                break
            canvas, count = trial, num_hole
            if count >= goal:
                break
    hole = canvas.astype(bool)
    return hole if count >= goal else _topped_up(hole, goal, rng)


def _topped_up(hole: Hole, goal: int, rng: np.random.Generator) -> Hole:
    # For pictures too small for a brush: single pixels in reading order from a random start.
    order = np.roll(np.arange(hole.size), -int(rng.integers(hole.size)))
    free = order[~hole.ravel()[order]]
    hole.ravel()[free[: goal - np.count_nonzero(hole)]] = True
    return hole


def mixture(height: int, width: int, rng: np.random.Generator, *, settings: StrokesAndBoxes) -> Hole:
    """Draws one mask as LaMa does."""
    _num_pixels(height, width)
    scale = min(height, width) / 256
    for _ in range(_ATTEMPTS):
        canvas = np.zeros((height, width), np.uint8)
        # Boxes or strokes, never both in one mask.
        if settings.boxes and rng.random() < settings.box_weight / (1 + settings.box_weight):
            for _ in range(_between(rng, settings.boxes.num)):
                _draw_box(canvas, rng, settings.boxes.side[0] * scale, settings.boxes.side[1] * scale)
        else:
            for _ in range(_between(rng, settings.strokes.num)):
                for segment in _stroke(height, width, rng, settings.strokes, scale):
                    _draw(canvas, segment)
        hole = canvas.astype(bool)
        if 0 < hole_ratio(hole) <= settings.max_ratio:
            return hole
    return box(height, width, rng)


def thin(height: int, width: int, rng: np.random.Generator) -> Hole:
    """LaMa's thin masks: 4 to 50 strokes."""
    return mixture(height, width, rng, settings=THIN)


def medium(height: int, width: int, rng: np.random.Generator) -> Hole:
    """LaMa's medium masks: 4 or 5 strokes, or boxes."""
    return mixture(height, width, rng, settings=MEDIUM)


def thick(height: int, width: int, rng: np.random.Generator) -> Hole:
    """LaMa's thick masks: 1 to 5 strokes, or boxes."""
    return mixture(height, width, rng, settings=THICK)


def lama(height: int, width: int, rng: np.random.Generator) -> Hole:
    """LaMa's training masks: 1 to 6 strokes, or boxes."""
    return mixture(height, width, rng, settings=LAMA)


def large_box(height: int, width: int, rng: np.random.Generator) -> Hole:
    """Draws CA's rectangle, 3/8 to half of each side."""
    return box(height, width, rng, share=(0.375, 0.5))


def box(height: int, width: int, rng: np.random.Generator, *, share: tuple[float, float] = (0.25, 0.5)) -> Hole:
    """Draws a rectangle, `share` of each side."""
    _num_pixels(height, width)
    canvas = np.zeros((height, width), np.uint8)
    rows = max(1, round(height * rng.uniform(*share)))
    columns = max(1, round(width * rng.uniform(*share)))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    canvas[top : top + rows, left : left + columns] = 1
    return canvas.astype(bool)


def half(height: int, width: int, rng: np.random.Generator) -> Hole:
    """Draws the left, right, upper or lower half."""
    _num_pixels(height, width)
    hole = np.zeros((height, width), bool)
    side = int(rng.integers(4))
    # A picture one pixel wide or high can be split in one direction only.
    by_columns = width > 1 and (side < 2 or height == 1)
    lines = hole.T if by_columns else hole
    lines[: len(lines) // 2] = True
    return hole[::-1, ::-1].copy() if side % 2 else hole


def silhouette(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    shapes: Sequence[Hole],
    num: tuple[int, int] = (1, 3),
    side: tuple[float, float] = (0.25, 0.8),
    max_ratio: float = 0.5,
) -> Hole:
    """Draws outlines of objects.

    `shapes` are bool (h, w); `isnet.mask_files.read_silhouettes` reads them from a folder. `side` is the range of an
    object's longer side as a share of the picture's shorter side.
    """
    _num_pixels(height, width)
    if len(shapes) == 0:
        raise InputError("no silhouettes; need at least one shape; read a folder of object masks first")
    for _ in range(_ATTEMPTS):
        hole = np.zeros((height, width), bool)
        for _ in range(_between(rng, num)):
            shape = shapes[int(rng.integers(len(shapes)))]
            factor = rng.uniform(*side) * min(height, width) / max(shape.shape)
            shape = resized_hole(shape, max(1, round(shape.shape[0] * factor)), max(1, round(shape.shape[1] * factor)))
            # Mirrored half of the time.
            _paste(hole, shape[:, ::-1] if rng.random() < 0.5 else shape, rng)
        if 0 < hole_ratio(hole) <= max_ratio:
            return hole
    return box(height, width, rng)


def _paste(hole: Hole, shape: Hole, rng: np.random.Generator) -> None:
    # Anywhere with its centre inside; parts beyond the edges are cut off.
    top = int(rng.integers(hole.shape[0])) - shape.shape[0] // 2
    left = int(rng.integers(hole.shape[1])) - shape.shape[1] // 2
    inside = shape[max(0, -top) : hole.shape[0] - top, max(0, -left) : hole.shape[1] - left]
    top, left = max(0, top), max(0, left)
    hole[top : top + inside.shape[0], left : left + inside.shape[1]] |= inside


def resized_hole(hole: Hole, height: int, width: int) -> Hole:
    """Resizes a bool array by nearest neighbour."""
    # Each new pixel takes the old one below its centre, in exact integers.
    rows = ((2 * np.arange(height) + 1) * hole.shape[0]) // (2 * height)
    columns = ((2 * np.arange(width) + 1) * hole.shape[1]) // (2 * width)
    resized: Hole = hole[rows[:, None], columns]
    return resized


GENERATORS: dict[str, Generator] = {
    "irregular": irregular,
    "thin": thin,
    "medium": medium,
    "thick": thick,
    "lama": lama,
    "box": box,
    "large_box": large_box,
    "half": half,
}


def generator(name: str) -> Generator:
    """Picklable function of (height, width, rng) by name."""
    if name not in GENERATORS:
        raise InputError(f"mask kind {name!r} is unknown; need one of {', '.join(GENERATORS)}")
    return GENERATORS[name]


@dataclass(frozen=True)
class _Segment:
    """Straight piece of a stroke, (x, y) in pixels."""

    start: tuple[int, int]
    end: tuple[int, int]
    thickness: int


def _stroke(height: int, width: int, rng: np.random.Generator, strokes: Strokes, scale: float) -> Iterator[_Segment]:
    """Yields a zigzag from a random start."""
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    heading = rng.uniform(0, 2 * math.pi)
    thickness = max(1, round(scale * rng.uniform(*strokes.width)))
    for number in range(_between(rng, strokes.vertices)):
        # Left and right in turn; a point beyond an edge is reflected.
        heading += rng.uniform(0, strokes.max_turn) * (1 if number % 2 else -1)
        length = scale * rng.uniform(*strokes.length)
        to_x = _reflected(x + length * math.cos(heading), width - 1)
        to_y = _reflected(y + length * math.sin(heading), height - 1)
        yield _Segment((int(x), int(y)), (int(to_x), int(to_y)), thickness)
        x, y = to_x, to_y


def _reflected(position: float, last: int) -> float:
    """Reflects a coordinate at the edges 0 and `last`."""
    position = abs(position)
    return max(0.0, min(position, 2 * last - position))


def _draw(canvas: NDArray[np.uint8], segment: _Segment) -> NDArray[np.uint8]:
    """Draws into `canvas`, with round ends."""
    import cv2

    cv2.line(canvas, segment.start, segment.end, 1, segment.thickness)
    return canvas


def _draw_box(canvas: NDArray[np.uint8], rng: np.random.Generator, smallest: float, largest: float) -> None:
    rows, columns = (max(1, round(rng.uniform(smallest, largest))) for _ in range(2))
    rows, columns = min(rows, canvas.shape[0]), min(columns, canvas.shape[1])
    top = int(rng.integers(canvas.shape[0] - rows + 1))
    left = int(rng.integers(canvas.shape[1] - columns + 1))
    canvas[top : top + rows, left : left + columns] = 1


def _between(rng: np.random.Generator, ends: tuple[int, int]) -> int:
    return int(rng.integers(ends[0], ends[1] + 1))


def _num_pixels(height: int, width: int) -> int:
    if height < 1 or width < 1 or height * width < 2:
        raise InputError(f"a picture of {width}x{height} has no mask that is neither empty nor full; need two pixels")
    return height * width
