"""Where well-known datasets keep their pictures and lists: Places2 (Places365) and CelebA; `folder` takes all.

A layout chooses the pictures of one of the dataset's own splits out of whatever lies in the source (a folder, a tar, a
zip), adds to each what its lists know, and names what the lists promise and the source has not. The lists are looked
for in the source and beside it, one folder deep, or where `--lists` says.

Places2 as its authors publish it (places2.csail.mit.edu, "Places365-Standard"): `data_256/a/airfield/00000001.jpg`
(or `data_large/…`, or `train/…`) for training, flat `val_256/Places365_val_00000001.jpg` and
`test_256/Places365_test_00000001.jpg`; lists `places365_train_standard.txt` (`/a/airfield/00000001.jpg 0`),
`places365_val.txt` (`Places365_val_00000001.jpg 165`), `places365_test.txt`, `categories_places365.txt`
(`/a/airfield 0`). The "easy format" keeps categories in one folder each, `val/airfield/Places365_val_….jpg` and
`train/apartment_building-outdoor/…`. CelebA: `img_align_celeba/000001.jpg` and `list_eval_partition.txt`
(`000001.jpg 0`; 0 train, 1 val, 2 test).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from jobs.data.sources import Skip, Source, read_lines
from trainplane.errors import UserError

Found = Iterable[Source | Skip]

SPLITS = ("train", "val", "test")
_PLACES_LISTS = {
    "train": ("places365_train_standard.txt", "places365_train_challenge.txt"),
    "val": ("places365_val.txt",),
    "test": ("places365_test.txt",),
}
_PLACES_CATEGORIES = ("categories_places365.txt",)
_PLACES_TRAIN_ROOTS = re.compile(r"(data_(256|large)(_standard|_challenge)?|train(_256|_large)?)")
_CELEBA_LISTS = ("list_eval_partition.txt", "list_eval_partition.csv")


def places2(found: Found, split: str, *, place: Path, lists: Path | None) -> Iterator[Source | Skip]:
    """The pictures of a split of Places365 with `category` and `label` where they are published."""
    _check_split("places2", split)
    folders = _folders(place, lists)
    categories: dict[int, str] = {}
    if split != "test":
        file = _find(_PLACES_CATEGORIES, folders, "the names of the categories")
        categories = {label: _without_letter(name) for name, label in _labelled(file, required=True)}
    if split == "test":
        listed = _places_test(folders)
    else:
        file = _find(_PLACES_LISTS[split], folders, f"the pictures of {split}")
        listed = {}
        for name, label in _labelled(file, required=True):
            if label not in categories:
                raise UserError(f"{file}: {name} has label {label}, which no category has; fetch both lists again")
            listed[_listed_key(split, name, file)] = (name, {"category": categories[label], "label": label})
    yield from _chosen(found, listed, key=lambda name: _place_key(split, name), what=f"split {split} of Places2")


def _places_test(folders: list[Path]) -> dict[str, tuple[str, dict[str, Any]]] | None:
    """The test pictures have no labels: their list is only to tell what is missing, and may be missing itself."""
    file = _look_for(_PLACES_LISTS["test"], folders)
    if file is None:
        return None
    return {_listed_key("test", name, file): (name, {}) for name, _ in _labelled(file, required=False)}


def _listed_key(split: str, name: str, file: Path) -> str:
    key = _place_key(split, name)
    if key is None:
        raise UserError(f"{file}: {name!r} is no picture of split {split}; fetch the list again")
    return key


def _place_key(split: str, name: str) -> str | None:
    """PURE: what a picture's path and its line in the list have in common; None for a picture of another split."""
    parts = PurePosixPath(name.lstrip("/")).parts
    if split != "train":
        is_ours = re.fullmatch(rf"Places365_{split}_\d+\.jpg", parts[-1], re.IGNORECASE)
        return parts[-1].lower() if is_ours else None
    if re.fullmatch(r"Places365_(val|test)_\d+\.jpg", parts[-1], re.IGNORECASE):
        return None
    root = next((at for at, part in enumerate(parts[:-1]) if _PLACES_TRAIN_ROOTS.fullmatch(part)), -1)
    return _without_letter("/".join(parts[root + 1 :])).replace("-", "/")


def _without_letter(name: str) -> str:
    """PURE: `/a/airfield` to `airfield`: the folders of the alphabet say nothing."""
    return re.sub(r"^[a-z]/", "", name.lstrip("/"))


def celeba(found: Found, split: str, *, place: Path, lists: Path | None) -> Iterator[Source | Skip]:
    """The aligned faces of a partition of CelebA."""
    _check_split("celeba", split)
    file = _find(_CELEBA_LISTS, _folders(place, lists), "which picture belongs to which partition")
    wanted = SPLITS.index(split)
    listed = {}
    for name, partition in _labelled(file, required=True):
        if partition not in range(len(SPLITS)):
            raise UserError(f"{file}: {name} has partition {partition}; need 0, 1 or 2; fetch the list again")
        if partition == wanted:
            # The losslessly compressed edition differs in its suffix.
            listed[PurePosixPath(name).stem] = (name, {"partition": split})
    yield from _chosen(found, listed, key=lambda name: PurePosixPath(name).stem, what=f"partition {split} of CelebA")


def _chosen(
    found: Found,
    listed: Mapping[str, tuple[str, dict[str, Any]]] | None,
    *,
    key: Callable[[str], str | None],
    what: str,
) -> Iterator[Source | Skip]:
    """The sources that are listed (without a list: that have a key), and then what is listed and was not found."""
    waiting = dict(listed) if listed is not None else {}
    used = 0
    for entry in found:
        name = key(entry.name if isinstance(entry, Source) else entry.file)
        if name is None or (listed is not None and name not in listed):
            continue
        if listed is not None and name not in waiting and isinstance(entry, Source):
            yield Skip(entry.name, "named twice: the first one is taken")
            continue
        _, about = waiting.pop(name, ("", {}))
        used += 1
        yield replace(entry, about=about) if isinstance(entry, Source) else entry
    if not used:
        raise UserError(f"none of the pictures of {what} is in the source; check the source, --layout and --split")
    yield from (Skip(name, "missing: listed, but not in the source") for name, _ in waiting.values())


def _check_split(layout: str, split: str) -> None:
    if split not in SPLITS:
        raise UserError(f"layout {layout} has the splits {', '.join(SPLITS)}, not {split!r}; give one: --split val")


def _folders(place: Path, lists: Path | None) -> list[Path]:
    """Where lists may lie, nearest first."""
    if lists is not None:
        if not lists.is_dir():
            raise UserError(f"--lists {lists}: there is no such folder; need the folder of the dataset's lists")
        return [lists]
    near = [place, place.parent] if place.is_dir() else [place.parent]
    below = (Path(entry) for folder in near for entry in sorted(os.scandir(folder), key=lambda one: one.name)
             if entry.is_dir() and _may_hold_lists(entry.name))  # fmt: skip
    return [*near, *below]


def _may_hold_lists(folder: str) -> bool:
    return folder.lower().startswith(("filelist", "meta", "list", "eval", "anno", "devkit", "places_devkit"))


def _look_for(names: Iterable[str], folders: list[Path]) -> Path | None:
    candidates = (folder / name for folder in folders for name in names)
    return next((file for file in candidates if file.is_file()), None)


def _find(names: tuple[str, ...], folders: list[Path], what: str) -> Path:
    file = _look_for(names, folders)
    if file is None:
        raise UserError(
            f"{' or '.join(names)} ({what}) is not in {' or '.join(str(folder) for folder in folders[:2])}; "
            "fetch the dataset's lists and put them beside the pictures, or say where they are: --lists DIR"
        )
    return file


def _labelled(file: Path, *, required: bool) -> Iterator[tuple[str, int]]:
    """(name, number) of each line; -1 for a line without a number, unless it is required."""
    for number, line in enumerate(read_lines(file), 1):
        name, _, value = line.replace(",", " ").rpartition(" ")
        if number == 1 and value.strip() == "partition":  # the heading of a table
            continue
        if not name or not value.isdecimal():
            if required:
                raise UserError(
                    f"{file}: line {number} is {line[:80]!r}; need a name and a number; fetch the list again"
                )
            name, value = line, "-1"
        yield name.strip(), int(value)


LAYOUTS = {"places2": places2, "celeba": celeba}
