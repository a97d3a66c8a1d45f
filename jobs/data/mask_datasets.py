"""Draws the holes of a training run.

    draw = hole_generator("irregular")                         # a function (height, width, rng) -> bool (height, width)
    draw = hole_generator("s3://bucket/masks-train")           # draws one of the dataset's masks each time

Not here: the holes of held-out pictures (`jobs.data.samples`) and of an evaluation (`jobs.evaluation.pairs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar, cast

import numpy as np
import torch

from isnet.errors import InputError
from isnet.mask_files import read_mask
from isnet.masks import GENERATORS, Generator, Hole, generator
from jobs.config import ISNetConfig
from jobs.data.mask_mixture import Masks, shares
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.data.manifest import Dataset
from trainplane.data.named import open_dataset
from trainplane.data.read.fetch import read_samples
from trainplane.data.types import Sample
from trainplane.errors import RunFailed, UserError, nearest
from trainplane.train.run_config import RunConfig

ConfigT = TypeVar("ConfigT", bound=RunConfig)

# Kept encoded in memory, once for a rank and its decoding processes; 55,000 masks of 512 px are about 150 MB.
MAX_BYTES = 256 * 2**20


def _pack_masks() -> str:
    return command_line("data", "pack", "SRC", "NAME", "--kind", "masks")


def mask_bytes(sample: Sample, address: str) -> bytes:
    """Returns the encoded mask of a sample."""
    if "png" not in sample:
        members = ", ".join(sorted(name for name in sample if not name.startswith("__"))) or "none"
        key = sample["__key__"].decode("utf-8", "replace")
        raise UserError(f"masks {address}: sample {key} has no KEY.png ({members}); pack them with `{_pack_masks()}`")
    return sample["png"]


class MaskSet:
    """Masks of one dataset, read at the first use.

    White is hole, as packed. Pickles as address and digest; a decoding process gets the masks in shared memory instead.
    """

    def __init__(
        self, address: str, digest: str | None = None, encoded: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> None:
        """Names the masks; with a digest, other masks are refused."""
        self.address = address
        self.digest = digest
        self._encoded = encoded

    def __reduce__(self) -> tuple[Any, ...]:
        return MaskSet, (self.address, self.digest)

    def __call__(self, height: int, width: int, rng: np.random.Generator) -> Hole:
        """Draws one mask uniformly and resizes it by nearest neighbour."""
        _, ends = self.encoded()
        return self.hole(int(rng.integers(len(ends) - 1)), height, width)

    def hole(self, index: int, height: int, width: int) -> Hole:
        """Returns mask `index` modulo their number."""
        memory, ends = self.encoded()
        number = index % (len(ends) - 1)
        start, stop = ends[number : number + 2].tolist()
        try:
            return read_mask(memory[start:stop].numpy().tobytes(), size=(height, width)).hole
        # Not an `InputError`, which would be reported for the picture.
        except InputError as error:
            raise RunFailed(
                f"mask {number} of {self.address} cannot be read: {error}; repair it and pack the masks again"
            ) from error

    def encoded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns all encoded masks, read at the first use.

        Returns:
            Files one after the other, uint8, and the start of each and the end of the last, int64.
        """
        if self._encoded is None:
            # One block of memory that processes can share, instead of thousands of objects.
            dataset = Dataset.open(self.address, expected_digest=self.digest)
            files = [mask_bytes(sample, self.address) for sample in read_samples(dataset, range(dataset.num_samples))]
            ends = torch.from_numpy(np.cumsum([0, *map(len, files)], dtype=np.int64))
            memory = torch.empty(int(ends[-1]), dtype=torch.uint8)
            for start, file in zip(ends.tolist(), files, strict=False):
                memory[start : start + len(file)].copy_(torch.frombuffer(bytearray(file), dtype=torch.uint8))
            self._encoded = memory, ends
        return self._encoded


def _with_shared_memory(masks: MaskSet) -> tuple[Any, ...]:
    memory, ends = masks.encoded()
    memory.share_memory_()  # type: ignore[no-untyped-call]
    return MaskSet, (masks.address, masks.digest, (memory, ends))


# `multiprocessing` uses this to start a process. Everything else (a store, Ray) pickles the address alone.
ForkingPickler.register(MaskSet, _with_shared_memory)

_mask_sets: dict[str, MaskSet] = {}


def hole_generator(masks: str) -> Generator:
    """Returns the function for a generator's name or dataset's address."""
    return generator(masks) if masks in GENERATORS else cast("Generator", mask_set(masks))


def mask_set(masks: str) -> MaskSet:
    """Returns this process's mask set of an address."""
    return _mask_sets.setdefault(masks, MaskSet(masks))


def cache_mask_set(masks: MaskSet) -> None:
    """Sets this process's mask set of its address."""
    _mask_sets[masks.address] = masks


def pin_mask_sets(config: ISNetConfig) -> None:
    """Requires the mask datasets with which the run started."""
    # `locate_masks` put the digests into the configuration when the run started.
    data = config.data
    for address, digest in (*digests_of(data.masks, data.masks_digest), (data.val_masks, data.val_masks_digest)):
        # Other masks are refused when they are read; masks of the same digest stay in memory.
        if address is not None and digest is not None and mask_set(address).digest != digest:
            cache_mask_set(MaskSet(address, digest))


def digests_of(masks: Masks, digests: str | Mapping[str, str] | None) -> list[tuple[str, str | None]]:
    """Kinds of `data.masks` with their required digests."""
    by_kind = digests if isinstance(digests, Mapping) else dict.fromkeys(shares(masks), digests)
    return [(kind, by_kind.get(kind)) for kind in shares(masks)]


def draw_hole(masks: Masks, height: int, width: int, rng: np.random.Generator) -> Hole:
    """Draws a hole of one of the kinds of `data.masks`."""
    if isinstance(masks, str):
        return hole_generator(masks)(height, width, rng)
    kinds, weights = zip(*shares(masks).items(), strict=True)
    return hole_generator(kinds[int(rng.choice(len(kinds), p=weights))])(height, width, rng)


def locate_masks(masks: str, context: Context) -> tuple[str, str | None]:
    """Finds a mask dataset by its name or address.

    Returns:
        Full address and digest; for a generator its name and None.
    """
    if masks in GENERATORS:
        return masks, None
    try:
        dataset = open_dataset(masks, context)
    except UserError as error:
        raise UserError(
            f"masks {masks!r} are neither a generator{nearest(masks, list(GENERATORS))} "
            f"(there are {', '.join(GENERATORS)}) nor a mask dataset: {error}"
        ) from error
    if dataset.manifest.packed.get("kind") != "masks":
        raise UserError(f"{masks!r} holds pictures, not masks; pack masks with `{_pack_masks()}`")
    # Every rank keeps all masks in memory.
    if dataset.bytes > MAX_BYTES:
        raise UserError(
            f"masks {masks!r} take {dataset.bytes / 2**20:.0f} MiB, every rank keeps them in memory, and "
            f"the limit is {MAX_BYTES / 2**20:.0f}; pack fewer or smaller ones"
        )
    return dataset.address, dataset.digest


def _refuse_masks(field: str, pictures: str, context: Context) -> None:
    try:
        packed = open_dataset(pictures, context).manifest.packed
    except UserError:
        # A missing dataset is reported when it is opened; a demo dataset may still be packed.
        return
    if packed.get("kind") == "masks":
        raise UserError(f"{field}={pictures!r} holds masks, not pictures; name masks in data.masks, pictures here")


def with_located_masks(config: ConfigT, context: Context) -> ConfigT:
    """Adds addresses and digests of ISNet's mask datasets to `config`.

    With the address any worker finds them; with the digest other masks make another run. Other tasks have no masks.
    """
    if not isinstance(config, ISNetConfig):
        return config
    # Pictures and masks must not be mixed up, in either direction.
    for name in ("train", "val"):
        if (pictures := getattr(config.data, name)) is not None:
            _refuse_masks(f"data.{name}", pictures, context)
    located: dict[str, Any] = {}
    for name in ("masks", "val_masks"):
        masks = getattr(config.data, name)
        if isinstance(masks, str):
            located[name], located[f"{name}_digest"] = locate_masks(masks, context)
        elif masks is not None:
            places = {kind: locate_masks(kind, context) for kind in shares(masks)}
            located[name] = {places[kind][0]: share for kind, share in shares(masks).items()}
            located[f"{name}_digest"] = {address: digest for address, digest in places.values() if digest} or None
    return config.model_copy(update={"data": config.data.model_copy(update=located)})
