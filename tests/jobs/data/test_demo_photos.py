"""Photos of the demo: equal bytes stay on one side."""

import io

import numpy as np
from PIL import Image


def test_samples_of_equal_bytes_never_stand_on_both_sides(tmp_path):
    from jobs.data.demo_photos import folder_photos

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(buffer, "PNG")
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(buffer.getvalue())
    for number in range(6):
        Image.fromarray(np.full((20, 20, 3), number, np.uint8)).save(tmp_path / f"other-{number}.png")
    sides = folder_photos(tmp_path)
    train = {source.read() for source in sides.train}
    assert train.isdisjoint({source.read() for source in sides.val})
    assert len(sides.train) + len(sides.val) == 12
    # Nine times the same beside four others: wherever its digest falls, both sides have photos.
    for value in range(40):
        folder = tmp_path / f"copies-{value}"
        folder.mkdir()
        for number in range(13):
            shade = value if number < 9 else 200 + number
            Image.fromarray(np.full((2, 2, 3), shade, np.uint8)).save(folder / f"{number}.png")
        sides = folder_photos(folder)
        assert sides.train, value
        assert sides.val, value
