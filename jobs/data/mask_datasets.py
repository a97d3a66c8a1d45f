"""Holes of a training run: a generator by name, or the masks of a packed dataset (`isnet data pack … --kind masks`).

    draw = holes("irregular")                         # a function (height, width, rng) -> bool (height, width)
    draw = holes("s3://bucket/masks-train")           # the same, drawing one of its masks each time

Not covered: which hole a held-out picture gets (isnet_task.py), evaluation's fixed list (evaluating.py).
"""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from typing import Any, cast

import numpy as np
import torch

from isnet.errors import InputError
from isnet.mask_files import read_mask
from isnet.masks import GENERATORS, Generator, Hole, generator
from jobs.config import ISNetConfig
from trainplane.cluster.context import Context
from trainplane.data.manifest import Dataset
from trainplane.data.read.fetch import read_samples
from trainplane.data.types import Sample
from trainplane.errors import RunFailed, UserError, nearest

# Held encoded in memory, once for a rank and its decoding processes; 55,000 masks of 512 px are about 150 MB.
MAX_BYTES = 256 * 2**20


def mask_bytes(sample: Sample, address: str) -> bytes:
    """The encoded mask among a sample's members; a `UserError` where the masks at `address` are not as packed here."""
    if "png" not in sample:
        has = ", ".join(sorted(name for name in sample if not name.startswith("__"))) or "none"
        key = sample["__key__"].decode("utf-8", "replace")
        raise UserError(
            f"masks {address}: sample {key} has no KEY.png ({has}); pack them with `isnet data pack … --kind masks`"
        )
    return sample["png"]


class MaskSet:
    """The masks of one dataset, white = hole as packed; reads all of them at the first use.

    With a `digest` no other masks are drawn than those it stands for. Pickles as address and digest; given to a
    decoding process it takes its memory along, which both then look at.
    """

    def __init__(
        self, address: str, digest: str | None = None, encoded: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> None:
        self.address = address
        self.digest = digest
        self._encoded = encoded

    def __reduce__(self) -> tuple[Any, ...]:
        return MaskSet, (self.address, self.digest)

    def __call__(self, height: int, width: int, rng: np.random.Generator) -> Hole:
        """One of the masks, each as likely as any other, nearest neighbour to this size."""
        _, ends = self.encoded()
        return self.hole(int(rng.integers(len(ends) - 1)), height, width)

    def hole(self, index: int, height: int, width: int) -> Hole:
        """Mask number `index`, going round. Raises `RunFailed` where it is no mask: the picture is not to blame."""
        memory, ends = self.encoded()
        number = index % (len(ends) - 1)
        start, stop = ends[number:][:2].tolist()
        try:
            return read_mask(memory[start:stop].numpy().tobytes(), size=(height, width)).hole
        except InputError as error:
            raise RunFailed(
                f"mask {number} of {self.address} cannot be read: {error}; repair it and pack the masks again"
            ) from error

    def encoded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All files one after the other, uint8, and where each begins and the last one ends, int64."""
        if self._encoded is None:
            dataset = Dataset.open(self.address, expected_digest=self.digest)
            files = [mask_bytes(sample, self.address) for sample in read_samples(dataset, range(dataset.num_samples))]
            ends = torch.from_numpy(np.cumsum([0, *map(len, files)], dtype=np.int64))
            memory = torch.empty(int(ends[-1]), dtype=torch.uint8)
            for start, file in zip(ends.tolist(), files, strict=False):
                memory[start : start + len(file)].copy_(torch.frombuffer(bytearray(file), dtype=torch.uint8))
            self._encoded = memory, ends
        return self._encoded


def _with_its_memory(masks: MaskSet) -> tuple[Any, ...]:
    memory, ends = masks.encoded()
    memory.share_memory_()  # type: ignore[no-untyped-call]
    return MaskSet, (masks.address, masks.digest, (memory, ends))


# What starts a process pickles with this; everything else, a store or Ray, gets the address alone.
ForkingPickler.register(MaskSet, _with_its_memory)

_known: dict[str, MaskSet] = {}


def holes(masks: str) -> Generator:
    """What draws a run's holes: `masks` is a generator's name or the full address of a mask dataset."""
    return generator(masks) if masks in GENERATORS else cast("Generator", known(masks))


def known(masks: str) -> MaskSet:
    """This process's masks of that address."""
    return _known.setdefault(masks, MaskSet(masks))


def know(masks: MaskSet) -> None:
    """Draw from these wherever their address is named in this process."""
    _known[masks.address] = masks


def pin(config: ISNetConfig) -> None:
    """Draw in this process from the very mask datasets that the run began with; others at their addresses are refused.

    What has been read already stays: it is checked when it is read.
    """
    data = config.data
    for address, digest in ((data.masks, data.masks_digest), (data.val_masks, data.val_masks_digest)):
        if address is not None and digest is not None and known(address).digest != digest:
            know(MaskSet(address, digest))


def located(masks: str, context: Context) -> tuple[str, str | None]:
    """(address, digest) of the mask dataset a user named; a generator's name as it is, without a digest.

    Raises `UserError` where there is neither, the dataset holds no masks, or it is too large to keep in memory.
    """
    if masks in GENERATORS:
        return masks, None
    try:
        dataset = Dataset.open(context.dataset(masks))
    except UserError as error:
        raise UserError(
            f"masks {masks!r} are no generator{nearest(masks, list(GENERATORS))} (there are {', '.join(GENERATORS)}) "
            f"and no mask dataset: {error}"
        ) from error
    if dataset.manifest.packed.get("kind") != "masks":
        raise UserError(f"{masks!r} holds pictures, not masks; pack masks with `isnet data pack … --kind masks`")
    if dataset.bytes > MAX_BYTES:
        raise UserError(
            f"masks {masks!r} take {dataset.bytes / 2**20:.0f} MiB, every rank keeps them in memory, and "
            f"the limit is {MAX_BYTES / 2**20:.0f}; pack fewer or smaller ones"
        )
    return dataset.address, dataset.digest


def _refuse_masks(field: str, pictures: str, context: Context) -> None:
    try:
        packed = Dataset.open(context.dataset(pictures)).manifest.packed
    except UserError:
        return  # what is not there, or not yet, is told by whoever reads it
    if packed.get("kind") == "masks":
        raise UserError(f"{field}={pictures!r} holds masks, not pictures; name masks in data.masks, pictures here")


def with_located_masks(config: ISNetConfig, context: Context) -> ISNetConfig:
    """`config` with the addresses and digests of the mask datasets it names, so that any worker finds them and the
    run's identity tells one set of holes from another; a `UserError` where masks stand for pictures."""
    for name in ("train", "val"):
        if (pictures := getattr(config.data, name)) is not None:
            _refuse_masks(f"data.{name}", pictures, context)
    found: dict[str, str | None] = {}
    for name in ("masks", "val_masks"):
        if (masks := getattr(config.data, name)) is not None:
            found[name], found[f"{name}_digest"] = located(masks, context)
    return config.model_copy(update={"data": config.data.model_copy(update=found)})
