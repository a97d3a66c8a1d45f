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


def test_a_demo_of_other_photos_keeps_the_former_data_under_another_name(home, tmp_path):
    from jobs.data.demo_photos import TRAIN, folder_photos, keep_dataset, pack_sides
    from trainplane.cluster.context import resolve
    from trainplane.data.manifest import Dataset
    from trainplane.data.verify import verify

    context = resolve()
    packed = []
    for number in range(2):
        photos = tmp_path / f"photos-{number}"
        photos.mkdir()
        for shade in range(5):
            Image.fromarray(np.full((20, 20, 3), 10 * shade + number, np.uint8)).save(photos / f"{shade}.png")
        elsewhere = context.at(datasets=str(tmp_path / f"server-{number}"))
        packed.append(pack_sides(folder_photos(photos), elsewhere)[0])
    first, second = packed
    assert "another dataset" not in keep_dataset(first, context)
    # The same photos again: nothing moves.
    assert "another dataset" not in keep_dataset(first, context)
    aside = f"{TRAIN}-{first.digest[:12]}"
    assert f"another dataset of that name is called '{aside}' now" in keep_dataset(second, context)
    for name, digest in ((TRAIN, second.digest), (aside, first.digest)):
        kept = Dataset.open(context.dataset(name))
        assert kept.digest == digest
        assert verify(kept) == []
    # Back to the first photos: both stay, and what a killed demo left is out of the way.
    (home / "datasets" / f".{TRAIN}.unfinished").mkdir()
    keep_dataset(first, context)
    assert Dataset.open(context.dataset(TRAIN)).digest == first.digest
    assert Dataset.open(context.dataset(f"{TRAIN}-{second.digest[:12]}")).digest == second.digest
