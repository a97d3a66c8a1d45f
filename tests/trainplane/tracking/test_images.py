"""Strips and sheets show their pictures unchanged, under captions, the same bytes every time."""

from __future__ import annotations

import numpy as np
import pytest

from trainplane.tracking.images import CAPTION_HEIGHT, GAP, contact_sheet, strip


def panel(seed: int, size: tuple[int, ...] = (128, 96, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def test_a_strip_shows_every_panel_unchanged_under_its_caption() -> None:
    panels = [("damaged", panel(0)), ("mask", panel(1, (128, 96))), ("repaired", panel(2)), ("truth", panel(3))]
    shown = strip(panels)
    assert shown.shape == (128 + CAPTION_HEIGHT, 4 * 96 + 3 * GAP, 3)
    assert shown.dtype == np.uint8
    for index, (_, pixels) in enumerate(panels):
        left = index * (96 + GAP)
        expected = pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=2)
        assert np.array_equal(shown[CAPTION_HEIGHT:, left : left + 96], expected)
        assert (shown[:CAPTION_HEIGHT, left : left + 96] < 255).any()


def test_small_panels_are_enlarged_by_a_whole_factor() -> None:
    small = panel(0, (48, 32, 3))
    shown = strip([("a", small)], least_height=128)
    assert shown.shape == (144 + CAPTION_HEIGHT, 96, 3)
    assert np.array_equal(shown[CAPTION_HEIGHT::3, ::3], small)


def test_the_same_input_gives_the_same_bytes() -> None:
    first = strip([("Bücher ☃", panel(0)), ("b", panel(1))])
    assert first.tobytes() == strip([("Bücher ☃", panel(0)), ("b", panel(1))]).tobytes()


def test_captions_differ_where_their_texts_differ() -> None:
    one, two = strip([("trial 1", panel(0))]), strip([("trial 2", panel(0))])
    assert not np.array_equal(one[:CAPTION_HEIGHT], two[:CAPTION_HEIGHT])
    assert np.array_equal(one[CAPTION_HEIGHT:], two[CAPTION_HEIGHT:])


@pytest.mark.parametrize(("num_strips", "columns", "rows"), [(1, 1, 1), (3, 2, 2), (4, 2, 2), (5, 1, 5)])
def test_a_contact_sheet_holds_every_strip(num_strips: int, columns: int, rows: int) -> None:
    strips = [
        (
            f"trial {i}\nblocks={i}",
            strip([("a", panel(i, (128 - i, 64, 3))), ("b", panel(i, (128 - i, 64, 3)))], least_height=1),
        )
        for i in range(num_strips)
    ]
    sheet = contact_sheet(strips, columns=columns)
    width = strips[0][1].shape[1]
    # The first of each row is its highest.
    tops = np.cumsum([0, *(pixels.shape[0] + 2 * CAPTION_HEIGHT + GAP for _, pixels in strips[::columns])])
    assert len(tops) == rows + 1
    assert sheet.shape == (tops[-1] - GAP, columns * (width + GAP) - GAP, 3)
    for index, (_, pixels) in enumerate(strips):
        top, left = tops[index // columns] + 2 * CAPTION_HEIGHT, index % columns * (width + GAP)
        assert np.array_equal(sheet[top : top + pixels.shape[0], left : left + width], pixels)


@pytest.mark.parametrize(
    ("panels", "complaint"),
    [
        ([], "at least one panel"),
        ([("a", panel(0)), ("b", panel(0, (64, 96, 3)))], "must have one size"),
        ([("a", panel(0).astype(np.float32))], "need uint8"),
        ([("a", panel(0, (8, 8, 4)))], "need \\(H, W, 3\\)"),
    ],
)
def test_what_cannot_be_shown_is_said(panels: list[tuple[str, np.ndarray]], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        strip(panels)
