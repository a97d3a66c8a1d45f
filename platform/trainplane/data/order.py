"""Sample order: a pure function of dataset, seed and step.

    order = Order(digest=dataset.digest, shard_sizes=dataset.shard_sizes, seed=10, global_batch=64)
    order.batch(step)                       # int64 (global_batch,): the samples of a global step
    order.share(step, rank=1, world=4)      # int64 (global_batch / world,): the part of one rank

1. Every shard is divided into blocks of neighbouring samples, about 1 MiB each.
2. Each epoch has its own random permutation of all blocks. Laid end to end they form one sequence of all samples.
3. The global batch has B slots. Slot b walks its own slice of the sequence, `steps_per_epoch` = N // B samples long.
4. Within consecutive windows of whole blocks the slot walks in random order.

The windows of all slots hold 256 MiB together, more where B is large, and begin at different steps, so that every step
asks the store for about as many bytes. A rank owns whole slots, so any number of ranks that divides B sees the same
global batches. One slot reads a block (two where a slice begins inside it, each its own part), so all ranks together
read every byte of an epoch once. Fewer than B samples at the end are left out, different ones in each epoch.

The samples of one batch come from B distant positions of a block permutation, so a batch mixes as well as a full
shuffle. One trace of the packing order remains: the same blocks feed the batches of one window; the order benchmark
counts the classes that 64 steps see when classes were packed one after the other. Datasets of fewer than 128 samples
have blocks of one sample, which is a full shuffle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from trainplane.config.canonical import canonical_json
from trainplane.errors import UserError

Samples: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

# Raise this number whenever any sample would come at another position. Randomness is the raw output of the
# counter-based generator Philox-4x64-10 (Salmon et al., 2011). numpy promises to keep that output, not its methods.
ORDER_VERSION = 3

_BLOCK_BYTES = 1 << 20  # a block is one request to the store
_MAX_BLOCK = 64  # samples
_MIN_BLOCKS = 64  # in a dataset: very small datasets have smaller blocks, so that they still mix
_MIN_BLOCKS_PER_SLOT = 8  # in an epoch, for the same reason
_WINDOWS_BYTES = 256 << 20  # of all slots together; on average half of them wait in memory
_MIN_WINDOW_BYTES = 4 << 20  # of one slot: with many slots, a rank of 64 slots holds as much as above
_MAX_WINDOW = 1024  # samples
_SAMPLE_BYTES = 64 << 10

# Use of a stream of random numbers: the highest word of Philox's counter.
_BLOCKS, _WINDOWS, _SUBSTITUTES, _SAMPLE = 1, 2, 3, 4


@dataclass(frozen=True)
class Visit:
    """Sample of one slot at one step, and its neighbours."""

    sample: int  # Number of the sample
    first: int  # First of the consecutive samples of one shard that the slot visits in this window
    end: int  # Number behind the last of them. It pays to read `first` … `end` - 1 at once.
    since: int = 0  # First global step of the window
    until: int = 2**63 - 1  # Last global step of the window, included


@dataclass(frozen=True)
class _Epoch:
    """Block sequence of one epoch."""

    # Block i of the sequence begins at position `block_position[i]` and holds samples from `block_sample[i]` on.
    number: int
    block_position: Samples
    block_sample: Samples


class _Windows:
    """Current window of each slot.

    It covers positions `start` … `end` - 1 of the sequence. `walk` holds the offsets within it in the order of the
    visits, one row per slot.
    """

    def __init__(self, key: tuple[int, int, int], num_slots: int, longest: int) -> None:
        self.key = key
        self.number = np.full(num_slots, -1, dtype=np.int64)
        self.start = np.zeros(num_slots, dtype=np.int64)
        self.end = np.zeros(num_slots, dtype=np.int64)
        self.walk = np.zeros((num_slots, longest), dtype=np.int64)


class Order:
    """Order in which one run visits one dataset.

    Args:
        digest: Digest of the dataset.
        shard_sizes: Samples in each of its shards.
        seed: Seed of the run, at least 0.
        global_batch: Samples per global step, over all ranks.
        sample_bytes: Mean bytes of a sample (`Dataset.sample_bytes`); sets the size of blocks and windows.
    """

    def __init__(
        self,
        *,
        digest: str,
        shard_sizes: Sequence[int],
        seed: int,
        global_batch: int,
        sample_bytes: int = _SAMPLE_BYTES,
    ) -> None:
        num_samples = int(sum(shard_sizes))
        if global_batch < 1 or seed < 0:
            raise UserError(f"global_batch={global_batch}, seed={seed}: need at least 1 and 0")
        if num_samples < global_batch:
            raise UserError(
                f"the dataset has {num_samples} samples, one global batch needs {global_batch}; "
                f"set train.global_batch to {max(num_samples, 1)} or less, or pack more samples"
            )
        self.num_samples = num_samples
        self.global_batch = global_batch
        self.seed = seed
        self.steps_per_epoch = num_samples // global_batch
        # The smallest of four limits: one request, memory, mixing over the dataset, mixing within a slot.
        self.block = max(
            1,
            min(
                _BLOCK_BYTES // max(1, sample_bytes),
                _MAX_BLOCK,
                num_samples // _MIN_BLOCKS,
                self.steps_per_epoch // _MIN_BLOCKS_PER_SLOT,
            ),
        )
        window_bytes = max(_WINDOWS_BYTES // global_batch, _MIN_WINDOW_BYTES)
        self.window = int(np.clip(window_bytes // max(1, sample_bytes), self.block, _MAX_WINDOW))
        # Everything that decides the order goes into the hash, and the hash is the key of all its random numbers.
        parameters = {
            "order": ORDER_VERSION,
            "dataset": digest,
            "seed": seed,
            "global_batch": global_batch,
            "block": self.block,
            "window": self.window,
        }
        self.hash = hashlib.sha256(canonical_json(parameters)).hexdigest()
        """Identity of the order: equal hashes mean equal batches."""
        self._key = np.frombuffer(bytes.fromhex(self.hash)[:16], dtype="<u8")
        self._block_start, self._block_size = _blocks(shard_sizes, self.block)
        self._epoch: _Epoch | None = None
        self._windows: _Windows | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Both are caches; a copy in another process computes its own.
        return self.__dict__ | {"_epoch": None, "_windows": None}

    def position(self, step: int) -> tuple[int, int]:
        """Returns epoch and step within it, both from 0."""
        if step < 0:
            raise ValueError(f"step {step}: steps are counted from 0")
        return divmod(step, self.steps_per_epoch)

    def batch(self, step: int) -> Samples:
        """Returns the samples of a global step: int64 (global_batch,)."""
        return self.share(step, rank=0, world=1)

    def share(self, step: int, *, rank: int, world: int) -> Samples:
        """Returns a rank's part: int64 (global_batch // world,)."""
        epoch, windows, offset = self._locate(step, self.slots(rank=rank, world=world))
        return _samples_at(epoch, windows.start + windows.walk[np.arange(len(offset)), offset])

    def slots(self, *, rank: int, world: int) -> range:
        """Slots of a rank; `UserError` unless `world` divides the batch."""
        return rank_slots(self.global_batch, rank=rank, world=world)

    def visits(self, step: int, slots: range) -> list[Visit]:
        """Returns the visits of some slots at a global step."""
        epoch, windows, offset = self._locate(step, slots)
        # Position of each slot in the sequence, and the block that it lies in.
        at = windows.start + windows.walk[np.arange(len(offset)), offset]
        block = np.searchsorted(epoch.block_position, at, side="right") - 1
        # From positions to samples: within a block both advance by one.
        to_sample = epoch.block_sample[block] - epoch.block_position[block]
        # The neighbours are the part of the block that lies in the window.
        first = np.maximum(windows.start, epoch.block_position[block])
        end = np.minimum(windows.end, epoch.block_position[block + 1])
        # A slot advances one position per step, so the window's length is its number of steps.
        since = step - offset
        until = since + (windows.end - windows.start) - 1
        columns = (at + to_sample, first + to_sample, end + to_sample, since, until)
        return [Visit(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def visited_before(self, step: int, slots: range) -> frozenset[int]:
        """Returns the samples visited earlier in the current windows."""
        # A run that starts at `step` does not need them, although they lie in blocks that it reads.
        epoch, windows, offset = self._locate(step, slots)
        visited = [windows.start[row] + windows.walk[row, : offset[row]] for row in range(len(offset))]
        return frozenset(_samples_at(epoch, np.concatenate(visited)).tolist())

    def substitute(self, step: int, slot: int, *, attempt: int) -> int:
        """Sample that replaces a damaged one, another for each attempt."""
        epoch, within = self.position(step)
        # One count of Philox gives four numbers, hence four attempts.
        raw = _philox(self._key, epoch, slot * self.steps_per_epoch + within, _SUBSTITUTES, skip=attempt // 4)
        # The bias of a remainder is below 1e-9 for any dataset that fits on Earth.
        return int(raw.random_raw(4)[attempt % 4] % self.num_samples)

    def _locate(self, step: int, slots: range) -> tuple[_Epoch, _Windows, Samples]:
        """Returns epoch, windows, and each slot's offset in its window."""
        number, within = self.position(step)
        epoch = self._epoch_sequence(number)
        # Windows are kept between calls: consecutive steps mostly stay within them.
        key = (number, slots.start, slots.stop)
        if self._windows is None or self._windows.key != key:
            self._windows = _Windows(key, len(slots), self.window + self.block)
        windows = self._windows
        at = np.arange(slots.start, slots.stop, dtype=np.int64) * self.steps_per_epoch + within
        if ((at < windows.start) | (at >= windows.end)).any():
            self._move_windows(windows, epoch, within, slots)
        return epoch, windows, at - windows.start

    def _move_windows(self, windows: _Windows, epoch: _Epoch, within: int, slots: range) -> None:
        slot = np.arange(slots.start, slots.stop, dtype=np.int64)
        # Stagger the windows by multiples of the golden ratio: those of neighbouring slots, which a rank owns, begin
        # at evenly spread steps.
        stagger = (slot * 0x9E3779B1 % 2**32) * self.window >> 32
        number = np.where(within < stagger, 0, (within - stagger) // self.window + 1)
        # A window is cut short at the block that its last step would lie in. Where that was before this step, the
        # slot is in the next window already.
        number += slot * self.steps_per_epoch + within >= self._window_start(epoch, number + 1, slot, stagger)
        windows.start = self._window_start(epoch, number, slot, stagger)
        windows.end = self._window_start(epoch, number + 1, slot, stagger)
        # Shuffle each new window. Philox makes four numbers per count, so a slot's numbers begin at a multiple of
        # four: the counter is set to that position.
        stride = windows.walk.shape[1] + 3 & ~3
        for row in np.flatnonzero(number != windows.number).tolist():
            skip = int(slot[row]) * stride // 4
            raw = _philox(self._key, windows.key[0], int(number[row]), _WINDOWS, skip=skip)
            size = int(windows.end[row] - windows.start[row])
            windows.walk[row, :size] = np.argsort(raw.random_raw(size), kind="stable")
        windows.number = number

    def _window_start(self, epoch: _Epoch, number: Samples, slot: Samples, stagger: Samples) -> Samples:
        """Returns each slot's position where its window `number` begins."""
        slice_start = slot * self.steps_per_epoch
        # Offset in the slice without regard to blocks. Window 0 ends after `stagger` steps, the others after `window`.
        nominal = np.where(number <= 0, 0, np.minimum(stagger + (number - 1) * self.window, self.steps_per_epoch))
        block = np.searchsorted(epoch.block_position, slice_start + nominal, side="right") - 1
        # Move back to the start of the block, but stay within the slice and let the last window end with it.
        return np.where(
            nominal == self.steps_per_epoch,
            slice_start + self.steps_per_epoch,
            np.maximum(slice_start, epoch.block_position[block]),
        )

    def _epoch_sequence(self, number: int) -> _Epoch:
        """Returns the block sequence of an epoch; keeps the latest."""
        if self._epoch is None or self._epoch.number != number:
            raw = _philox(self._key, number, 0, _BLOCKS).random_raw(len(self._block_start))
            permutation = np.argsort(raw, kind="stable")
            block_position = np.concatenate([[0], np.cumsum(self._block_size[permutation])])
            self._epoch = _Epoch(number, block_position, self._block_start[permutation])
        return self._epoch


def rank_slots(global_batch: int, *, rank: int, world: int) -> range:
    """Slots of a rank; `UserError` unless `world` divides the batch."""
    if world < 1 or global_batch % world:
        raise UserError(
            f"a global batch of {global_batch} cannot be shared evenly by {world} ranks; "
            f"choose a number of ranks that divides {global_batch}"
        )
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}")
    size = global_batch // world
    return range(rank * size, (rank + 1) * size)


def sample_rng(*, seed: int, epoch: int, sample: int) -> np.random.Generator:
    """Generator of a sample in an epoch, on any rank."""
    key = np.array([seed % 2**64, seed >> 64], dtype=np.uint64)
    return np.random.Generator(_philox(key, epoch, sample, _SAMPLE))


def _samples_at(epoch: _Epoch, at: Samples) -> Samples:
    block = np.searchsorted(epoch.block_position, at, side="right") - 1
    return at + epoch.block_sample[block] - epoch.block_position[block]


class _Key(ISeedSequence):
    """Fixed Philox key."""

    # With `key=` alone, numpy would ask the system for entropy each time, although it does not use it.
    def __init__(self, key: Any) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        return self._key


def _philox(key: Any, second: int, third: int, use: int, *, skip: int = 0) -> np.random.Philox:
    # numpy's stubs leave out the seed-sequence interface that its documentation offers.
    counter = np.array([skip, second, third, use], dtype=np.uint64)
    return np.random.Philox(_Key(key), counter=counter)  # type: ignore[arg-type]


def _blocks(shard_sizes: Sequence[int], block: int) -> tuple[Samples, Samples]:
    """Returns start and size of blocks; none crosses a shard."""
    sizes = np.asarray(shard_sizes, dtype=np.int64)
    shard_start = np.cumsum(sizes) - sizes
    # The last block of a shard may be shorter than the others.
    blocks_per_shard = -(-sizes // block)
    shard_of_block = np.repeat(np.arange(len(sizes)), blocks_per_shard)
    # Number of each block within its shard.
    within_shard = np.arange(len(shard_of_block)) - (np.cumsum(blocks_per_shard) - blocks_per_shard)[shard_of_block]
    start = shard_start[shard_of_block] + within_shard * block
    end = np.minimum(start + block, (shard_start + sizes)[shard_of_block])
    return start, end - start
