"""PURE: which sample is met when. numpy alone; no files, no clock, no global state.

    order = Order(digest=dataset.digest, shard_sizes=dataset.shard_sizes, seed=10, global_batch=64)
    order.batch(step)                       # int64 (global_batch,): the samples of a global step
    order.share(step, rank=1, world=4)      # int64 (global_batch / world,): one rank's part of it

How. Every shard is cut into blocks of `block` neighbouring samples; each epoch has its own random permutation of all
blocks, laid end to end into one line of all samples. The global batch has B slots; slot b walks its own slice of the
line, `steps_per_epoch` = N // B samples long, and inside consecutive windows of `window` samples it walks in random
order: 64, and more where B is small, so that 2,048 samples or more are mixed at a time, over all slots.
A rank owns whole slots, so any number of ranks that divides B sees the same global batches. A block is read by the
one slot that walks it (two where a slice begins inside it, each reading its own part), so all ranks together read
every byte of an epoch once. What is left at the end of the line, fewer than B samples, is another part each epoch.

Where the shuffling stands: the samples of one batch come from B far-apart places of a block permutation, so a batch
mixes as a full shuffle's does. What remains of the packing order is that the same blocks feed the batches of one
window: a slot's next sample is of the same block with probability of about 15/63 at most (a full shuffle: none), and
`isnet bench order` tells how many kinds of pictures 64 steps see when the kinds were packed one after the other.
Datasets of fewer than 128 samples have blocks of one: there the order is a full shuffle. Not covered: reading
(fetch.py) and what replaces damaged samples' bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from trainplane.config import canonical_json
from trainplane.errors import UserError

Samples: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

# Another number whenever any sample would come at another place. Randomness is the raw output of the counter-based
# generator Philox-4x64-10 (Salmon et al., 2011), which numpy promises not to change; its methods may change.
ORDER_VERSION = 2

_SMALLEST_WINDOW, _LARGEST_WINDOW = 64, 1024  # samples of one slot
_MIXED = 4096  # samples that the windows of all slots hold at most, where each may be larger than the smallest
_LARGEST_BLOCK = 16  # samples; a block is one request to the store
_SAMPLES_PER_BLOCK_SAMPLE = 64  # very small datasets have smaller blocks, for the sake of mixing

# Which use a stream of random numbers has: the highest word of Philox's counter.
_BLOCKS, _WINDOWS, _SUBSTITUTES, _SAMPLE = 1, 2, 3, 4


@dataclass(frozen=True)
class Visit:
    """One slot's sample at one step, and the neighbours that the slot visits in the same window.

    `first` … `end` - 1 are consecutive samples of one shard, `sample` among them: they are worth reading at once.
    """

    sample: int
    first: int
    end: int


@dataclass(frozen=True)
class _Epoch:
    """One epoch's line of blocks: its block i begins at `line_start[i]` and holds samples `sample_start[i]` …"""

    number: int
    line_start: Samples
    sample_start: Samples


class Order:
    """The order in which one run meets one dataset.

    digest       -- the dataset's
    shard_sizes  -- samples in each of its shards
    seed         -- the run's, at least 0
    global_batch -- samples per global step, over all ranks
    """

    def __init__(self, *, digest: str, shard_sizes: Sequence[int], seed: int, global_batch: int) -> None:
        num_samples = int(sum(shard_sizes))
        if global_batch < 1 or seed < 0:
            raise UserError(f"global_batch={global_batch}, seed={seed}: need at least 1 and 0")
        if num_samples < global_batch:
            raise UserError(
                f"the dataset has {num_samples} samples, one global batch needs {global_batch}; "
                f"set train.global_batch to {max(num_samples, 1)} or less, or pack more pictures"
            )
        self.num_samples = num_samples
        self.global_batch = global_batch
        self.seed = seed
        self.steps_per_epoch = num_samples // global_batch
        self.block = int(np.clip(num_samples // _SAMPLES_PER_BLOCK_SAMPLE, 1, _LARGEST_BLOCK))
        # The largest power of two that keeps the windows of all slots within what a reader holds in memory.
        wished = 2 ** ((_MIXED // global_batch).bit_length() - 1) if global_batch <= _MIXED else 0
        self.window = int(np.clip(wished, _SMALLEST_WINDOW, _LARGEST_WINDOW))
        facts = {"order": ORDER_VERSION, "dataset": digest, "seed": seed, "global_batch": global_batch}
        self.hash = hashlib.sha256(canonical_json(facts)).hexdigest()
        """Stands for every choice made here: equal hashes, equal batches."""
        self._key = np.frombuffer(bytes.fromhex(self.hash)[:16], dtype="<u8")
        self._block_start, self._block_size = _blocks(shard_sizes, self.block)
        self._epoch: _Epoch | None = None
        self._window: tuple[tuple[int, int, int, int], Samples] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_epoch": None, "_window": None}

    def position(self, step: int) -> tuple[int, int]:
        """(epoch, step within the epoch) of a global step, both from 0."""
        if step < 0:
            raise ValueError(f"step {step}: steps are counted from 0")
        return divmod(step, self.steps_per_epoch)

    def batch(self, step: int) -> Samples:
        """The samples of global step `step`: int64 of shape (global_batch,), by slot."""
        return self.share(step, rank=0, world=1)

    def share(self, step: int, *, rank: int, world: int) -> Samples:
        """The part of the batch that `rank` of `world` ranks trains on: shape (global_batch // world,)."""
        samples, _, _ = self._walk(step, self.slots(rank=rank, world=world))
        return samples

    def slots(self, *, rank: int, world: int) -> range:
        """The slots that a rank owns; a `UserError` when they cannot be shared out evenly."""
        if world < 1 or self.global_batch % world:
            raise UserError(
                f"a global batch of {self.global_batch} cannot be shared evenly by {world} ranks; "
                f"choose a number of ranks that divides {self.global_batch}"
            )
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}")
        size = self.global_batch // world
        return range(rank * size, (rank + 1) * size)

    def visits(self, step: int, slots: range) -> list[Visit]:
        """The samples that these slots meet at a step, each with the run of neighbours its window shares with it."""
        columns = (column.tolist() for column in self._walk(step, slots))
        return [Visit(*each) for each in zip(*columns, strict=True)]

    def substitute(self, step: int, slot: int, *, attempt: int) -> int:
        """The sample that takes a damaged one's place, at the given attempt (0, 1, …) to find a sound one."""
        epoch, within = self.position(step)
        raw = _philox(self._key, epoch, slot * self.steps_per_epoch + within, _SUBSTITUTES, skip=attempt // 4)
        # The bias of a remainder is below 1e-9 for any dataset that fits on Earth.
        return int(raw.random_raw(4)[attempt % 4] % self.num_samples)

    def _walk(self, step: int, slots: range) -> tuple[Samples, Samples, Samples]:
        """(sample, first, end of its run) of each slot at a step; int64 of shape (len(slots),) each."""
        number, within = self.position(step)
        epoch = self._epoch_line(number)
        window, inside = divmod(within, self.window)
        begun = window * self.window
        window_start = np.arange(slots.start, slots.stop, dtype=np.int64) * self.steps_per_epoch + begun
        window_end = window_start + min(self.window, self.steps_per_epoch - begun)
        at = window_start + self._window_order(number, window, slots)[:, inside]
        block = np.searchsorted(epoch.line_start, at, side="right") - 1
        # From positions in the line to samples: within a block both advance by one.
        to_sample = epoch.sample_start[block] - epoch.line_start[block]
        first = np.maximum(window_start, epoch.line_start[block])
        end = np.minimum(window_end, epoch.line_start[block + 1])
        return at + to_sample, first + to_sample, end + to_sample

    def _epoch_line(self, number: int) -> _Epoch:
        if self._epoch is None or self._epoch.number != number:
            raw = _philox(self._key, number, 0, _BLOCKS).random_raw(len(self._block_start))
            permutation = np.argsort(raw, kind="stable")
            line_start = np.concatenate([[0], np.cumsum(self._block_size[permutation])])
            self._epoch = _Epoch(number, line_start, self._block_start[permutation])
        return self._epoch

    def _window_order(self, epoch: int, window: int, slots: range) -> Samples:
        """The order in which each slot walks this window: a permutation per row, shape (len(slots), window's size)."""
        key = (epoch, window, slots.start, slots.stop)
        if self._window is None or self._window[0] != key:
            # Philox makes four numbers per count: the counter is set to where the first slot's numbers begin.
            raw = _philox(self._key, epoch, window, _WINDOWS, skip=slots.start * self.window // 4)
            size = min(self.window, self.steps_per_epoch - window * self.window)
            rows = raw.random_raw(len(slots) * self.window).reshape(len(slots), self.window)[:, :size]
            self._window = key, np.argsort(rows, axis=1, kind="stable")
        return self._window[1]


def sample_rng(*, seed: int, epoch: int, sample: int) -> np.random.Generator:
    """The randomness of one sample in one epoch, whichever rank or worker meets it."""
    key = np.array([seed % 2**64, seed >> 64], dtype=np.uint64)
    return np.random.Generator(_philox(key, epoch, sample, _SAMPLE))


class _Key(ISeedSequence):
    """Philox's key as it stands. Given as `key=`, numpy would ask the system for entropy beside it each time."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        return self._key


def _philox(key: Any, second: int, third: int, use: int, *, skip: int = 0) -> np.random.Philox:
    # numpy's stubs leave out the interface that its documentation offers.
    counter = np.array([skip, second, third, use], dtype=np.uint64)
    return np.random.Philox(_Key(key), counter=counter)  # type: ignore[arg-type]


def _blocks(shard_sizes: Sequence[int], block: int) -> tuple[Samples, Samples]:
    """First sample and size of every block; none reaches across two shards."""
    sizes = np.asarray(shard_sizes, dtype=np.int64)
    shard_start = np.cumsum(sizes) - sizes
    blocks_per_shard = -(-sizes // block)
    shard_of_block = np.repeat(np.arange(len(sizes)), blocks_per_shard)
    within_shard = np.arange(len(shard_of_block)) - (np.cumsum(blocks_per_shard) - blocks_per_shard)[shard_of_block]
    start = shard_start[shard_of_block] + within_shard * block
    end = np.minimum(start + block, (shard_start + sizes)[shard_of_block])
    return start, end - start
