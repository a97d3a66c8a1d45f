"""Layouts of published datasets: Places2 (Places365) and CelebA.

A layout chooses the pictures of one split from a source (a folder, a tar, a zip), adds labels from the dataset's lists,
and reports listed pictures that the source lacks. The lists are searched in the source, beside it, one folder deeper,
or in the folder of `--lists`.

Places2 as its authors publish it (places2.csail.mit.edu, "Places365-Standard"): `data_256/a/airfield/00000001.jpg` (or
`data_large/…`, or `train/…`) for training, flat `val_256/Places365_val_00000001.jpg` and
`test_256/Places365_test_00000001.jpg`; lists `places365_train_standard.txt` (`/a/airfield/00000001.jpg 0`),
`places365_val.txt` (`Places365_val_00000001.jpg 165`), `places365_test.txt`, `categories_places365.txt` (`/a/airfield
0`). The "easy format" keeps categories in one folder each, `val/airfield/Places365_val_….jpg` and
`train/apartment_building-outdoor/…`. CelebA: `img_align_celeba/000001.jpg` and `list_eval_partition.txt` (`000001.jpg
0`; 0 train, 1 val, 2 test).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from jobs.data.sources import PictureSource, Skip, read_lines
from trainplane.errors import UserError

Entries = Iterable[PictureSource | Skip]
# Pictures of a list: {key: (name in the list, labels)}.
Listed = dict[str, tuple[str, dict[str, Any]]]

SPLITS = ("train", "val", "test")
_PLACES_LISTS = {
    "train": ("places365_train_standard.txt", "places365_train_challenge.txt"),
    "val": ("places365_val.txt",),
    "test": ("places365_test.txt",),
}
_PLACES_CATEGORIES = ("categories_places365.txt",)
_PLACES_TRAIN_ROOTS = re.compile(r"(data_(256|large)(_standard|_challenge)?|train(_256|_large)?)")
_CELEBA_LISTS = ("list_eval_partition.txt", "list_eval_partition.csv")


def places2(entries: Entries, split: str, *, source: Path, lists: Path | None) -> Iterator[PictureSource | Skip]:
    """Selects a split of Places365.

    `category` and `label` are published for train and val. Lists are searched near `source`, or only in `lists`.
    """
    _check_split("places2", split)
    folders = _list_folders(source, lists)
    listed = _places_test(folders) if split == "test" else _places_labelled(split, folders)
    yield from _select(entries, listed, key=lambda name: _place_key(split, name), what=f"split {split} of Places2")


def _places_labelled(split: str, folders: list[Path]) -> Listed:
    """Reads the list of train or val with its categories."""
    file = _find(_PLACES_CATEGORIES, folders, "the names of the categories")
    categories = {label: _without_letter(name) for name, label in _labelled(file, required=True)}
    file = _find(_PLACES_LISTS[split], folders, f"the pictures of {split}")
    listed: Listed = {}
    for name, label in _labelled(file, required=True):
        if label not in categories:
            raise UserError(f"{file}: {name} has label {label}, which no category has; fetch both lists again")
        listed[_listed_key(split, name, file)] = (name, {"category": categories[label], "label": label})
    return listed


def _places_test(folders: list[Path]) -> Listed | None:
    """Reads the list of the test pictures, if any."""
    # The list has no labels and only shows which pictures are missing.
    file = _find_any(_PLACES_LISTS["test"], folders)
    if file is None:
        return None
    return {_listed_key("test", name, file): (name, {}) for name, _ in _labelled(file, required=False)}


def _listed_key(split: str, name: str, file: Path) -> str:
    key = _place_key(split, name)
    if key is None:
        raise UserError(f"{file}: {name!r} is not a picture of split {split}; fetch the list again")
    return key


def _place_key(split: str, name: str) -> str | None:
    """Key of a picture; None if it has another split."""
    parts = PurePosixPath(name.lstrip("/")).parts
    if split != "train":
        # File names of val and test are unique, so the folder does not matter.
        is_ours = re.fullmatch(rf"Places365_{split}_\d+\.jpg", parts[-1], re.IGNORECASE)
        return parts[-1].lower() if is_ours else None
    if re.fullmatch(r"Places365_(val|test)_\d+\.jpg", parts[-1], re.IGNORECASE):
        return None
    # Train is known by its category's folder and its number: `airfield/00000001.jpg`.
    root = next((at for at, part in enumerate(parts[:-1]) if _PLACES_TRAIN_ROOTS.fullmatch(part)), -1)
    return _without_letter("/".join(parts[root + 1 :])).replace("-", "/")


def _without_letter(name: str) -> str:
    """Removes the alphabet's folder: `/a/airfield` to `airfield`."""
    return re.sub(r"^[a-z]/", "", name.lstrip("/"))


def celeba(entries: Entries, split: str, *, source: Path, lists: Path | None) -> Iterator[PictureSource | Skip]:
    """Selects the aligned faces of a partition of CelebA."""
    _check_split("celeba", split)
    file = _find(_CELEBA_LISTS, _list_folders(source, lists), "the partition of each picture")
    listed: Listed = {}
    for name, partition in _labelled(file, required=True):
        if partition not in range(len(SPLITS)):
            raise UserError(f"{file}: {name} has partition {partition}; need 0, 1 or 2; fetch the list again")
        if partition == SPLITS.index(split):
            # Without its suffix: the losslessly compressed edition has another one.
            listed[PurePosixPath(name).stem] = (name, {"partition": split})
    yield from _select(entries, listed, key=lambda name: PurePosixPath(name).stem, what=f"partition {split} of CelebA")


def _select(
    entries: Entries, listed: Listed | None, *, key: Callable[[str], str | None], what: str
) -> Iterator[PictureSource | Skip]:
    """Yields the listed pictures, then reports the missing ones."""
    # Without a list, every picture that has a key is selected.
    missing = dict(listed) if listed is not None else {}
    count = 0
    for entry in entries:
        name = key(entry.name if isinstance(entry, PictureSource) else entry.file)
        if name is None or (listed is not None and name not in listed):
            continue
        # A listed picture that is not in `missing` any more has been yielded before.
        if listed is not None and name not in missing and isinstance(entry, PictureSource):
            yield Skip(entry.name, "named twice: the first one is taken")
            continue
        _, about = missing.pop(name, ("", {}))
        count += 1
        yield replace(entry, about=about) if isinstance(entry, PictureSource) else entry
    if not count:
        raise UserError(f"none of the pictures of {what} is in the source; check the source, --layout and --split")
    yield from (Skip(name, "missing: listed, but not in the source") for name, _ in missing.values())


def _check_split(layout: str, split: str) -> None:
    if split not in SPLITS:
        raise UserError(f"layout {layout} has the splits {', '.join(SPLITS)}, not {split!r}; give one: --split val")


def _list_folders(source: Path, lists: Path | None) -> list[Path]:
    """Folders in which lists are searched, nearest first."""
    # A folder from the command line is the only one searched.
    if lists is not None:
        if not lists.is_dir():
            raise UserError(f"--lists {lists}: there is no such folder; need the folder of the dataset's lists")
        return [lists]
    # Lists are published in folders such as `filelist_places365-standard`.
    near = [source, source.parent] if source.is_dir() else [source.parent]
    below = (Path(entry) for folder in near for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
             if entry.is_dir() and _may_hold_lists(entry.name))  # fmt: skip
    return [*near, *below]


def _may_hold_lists(folder: str) -> bool:
    return folder.lower().startswith(("filelist", "meta", "list", "eval", "anno", "devkit", "places_devkit"))


def _find_any(names: Iterable[str], folders: list[Path]) -> Path | None:
    candidates = (folder / name for folder in folders for name in names)
    return next((file for file in candidates if file.is_file()), None)


def _find(names: tuple[str, ...], folders: list[Path], what: str) -> Path:
    file = _find_any(names, folders)
    if file is None:
        raise UserError(
            f"{' or '.join(names)} ({what}) is not in {' or '.join(str(folder) for folder in folders[:2])}; "
            "fetch the dataset's lists and put them beside the pictures, or name their folder: --lists DIR"
        )
    return file


def _labelled(file: Path, *, required: bool) -> Iterator[tuple[str, int]]:
    """Yields each line's name and number; -1 without a number."""
    for number, line in enumerate(read_lines(file), 1):
        name, _, value = line.replace(",", " ").rpartition(" ")
        # A CSV file begins with the names of its columns.
        if number == 1 and value.strip() == "partition":
            continue
        if not name or not value.isdecimal():
            if required:
                raise UserError(
                    f"{file}: line {number} is {line[:80]!r}; need a name and a number; fetch the list again"
                )
            name, value = line, "-1"
        yield name.strip(), int(value)


LAYOUTS = {"places2": places2, "celeba": celeba}
