"""PURE: which sample is met when. numpy alone; no files, no clock, no global state.

    order = Order(digest=dataset.digest, shard_sizes=dataset.shard_sizes, seed=10, global_batch=64)
    order.batch(step)                       # int64 (global_batch,): the samples of a global step
    order.share(step, rank=1, world=4)      # int64 (global_batch / world,): one rank's part of it

How. Every shard is cut into blocks of neighbouring samples, about 1 MiB each; each epoch has its own random permutation
of all blocks, laid end to end into one line of all samples. The global batch has B slots; slot b walks its own slice
of the line, `steps_per_epoch` = N // B samples long, and within consecutive windows of whole blocks it walks in random
order. The windows of all slots hold 256 MiB together, more where B is large. They begin at different steps for
different slots, so a reader is asked for about as many bytes at one step as at another. A rank owns whole slots, so any
number of ranks that divides B sees the same global batches. A block is read by the one slot that walks it (two where
a slice begins inside it, each reading its own part), so all ranks together read every byte of an epoch once. What is
left at the end of the line, fewer than B samples, is another part each epoch.

Where the shuffling stands: the samples of one batch come of B far-apart places of a block permutation, so a batch
mixes as a full shuffle's does. What remains of the packing order is that the same blocks feed the batches of one
window; `isnet bench order` tells how many kinds of pictures 64 steps see when the kinds were packed one after the
other. Datasets of fewer than 128 samples have blocks of one: there the order is a full shuffle. Not covered: reading
(fetch.py) and what replaces damaged samples' bytes.
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

# Another number whenever any sample would come at another place. Randomness is the raw output of the counter-based
# generator Philox-4x64-10 (Salmon et al., 2011), which numpy promises not to change; its methods may change.
ORDER_VERSION = 3

_BLOCK_BYTES = 1 << 20  # a block is one request to the store
_LARGEST_BLOCK = 64  # samples
_BLOCKS_AT_LEAST = 64  # of a dataset: very small ones have smaller blocks, for the sake of mixing
_BLOCKS_OF_A_SLOT_AT_LEAST = 8  # in an epoch, likewise
_WINDOWS_BYTES = 256 << 20  # of all slots together; half of them wait to be met, on average
_WINDOW_BYTES_AT_LEAST = 4 << 20  # of one slot, where there are many: a rank of 64 slots holds as much as above
_LARGEST_WINDOW = 1024  # samples
_SAMPLE_BYTES = 64 << 10

# Which use a stream of random numbers has: the highest word of Philox's counter.
_BLOCKS, _WINDOWS, _SUBSTITUTES, _SAMPLE = 1, 2, 3, 4


@dataclass(frozen=True)
class Visit:
    """One slot's sample at one step, and the neighbours that the slot visits in the same window.

    `first` … `end` - 1 are consecutive samples of one shard, `sample` among them: they are worth reading at once.
    The window reaches from the global step `since` to `until`, both included.
    """

    sample: int
    first: int
    end: int
    since: int = 0
    until: int = 2**63 - 1


@dataclass(frozen=True)
class _Epoch:
    """One epoch's line of blocks: its block i begins at `line_start[i]` and holds samples `sample_start[i]` …"""

    number: int
    line_start: Samples
    sample_start: Samples


class _Windows:
    """The windows that some slots are in: line positions `start` … `end` - 1, walked in the order of `rows`."""

    def __init__(self, key: tuple[int, int, int], num_slots: int, longest: int) -> None:
        self.key = key
        self.number = np.full(num_slots, -1, dtype=np.int64)
        self.start = np.zeros(num_slots, dtype=np.int64)
        self.end = np.zeros(num_slots, dtype=np.int64)
        self.rows = np.zeros((num_slots, longest), dtype=np.int64)


class Order:
    """The order in which one run meets one dataset.

    digest       -- the dataset's
    shard_sizes  -- samples in each of its shards
    seed         -- the run's, at least 0
    global_batch -- samples per global step, over all ranks
    sample_bytes -- mean bytes of a sample (`Dataset.sample_bytes`): blocks and windows are made of it
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
                f"set train.global_batch to {max(num_samples, 1)} or less, or pack more pictures"
            )
        self.num_samples = num_samples
        self.global_batch = global_batch
        self.seed = seed
        self.steps_per_epoch = num_samples // global_batch
        self.block = max(
            1,
            min(
                _BLOCK_BYTES // max(1, sample_bytes),
                _LARGEST_BLOCK,
                num_samples // _BLOCKS_AT_LEAST,
                self.steps_per_epoch // _BLOCKS_OF_A_SLOT_AT_LEAST,
            ),
        )
        window_bytes = max(_WINDOWS_BYTES // global_batch, _WINDOW_BYTES_AT_LEAST)
        self.window = int(np.clip(window_bytes // max(1, sample_bytes), self.block, _LARGEST_WINDOW))
        facts = {
            "order": ORDER_VERSION,
            "dataset": digest,
            "seed": seed,
            "global_batch": global_batch,
            "block": self.block,
            "window": self.window,
        }
        self.hash = hashlib.sha256(canonical_json(facts)).hexdigest()
        """Stands for every choice made here: equal hashes, equal batches."""
        self._key = np.frombuffer(bytes.fromhex(self.hash)[:16], dtype="<u8")
        self._block_start, self._block_size = _blocks(shard_sizes, self.block)
        self._epoch: _Epoch | None = None
        self._windows: _Windows | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_epoch": None, "_windows": None}

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
        line, windows, inside = self._stand(step, self.slots(rank=rank, world=world))
        return self._samples_at(line, windows.start + windows.rows[np.arange(len(inside)), inside])

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
        line, windows, inside = self._stand(step, slots)
        at = windows.start + windows.rows[np.arange(len(inside)), inside]
        block = np.searchsorted(line.line_start, at, side="right") - 1
        # From positions in the line to samples: within a block both advance by one.
        to_sample = line.sample_start[block] - line.line_start[block]
        first = np.maximum(windows.start, line.line_start[block])
        end = np.minimum(windows.end, line.line_start[block + 1])
        since = step - inside
        until = since + (windows.end - windows.start) - 1
        columns = (at + to_sample, first + to_sample, end + to_sample, since, until)
        return [Visit(*each) for each in zip(*(column.tolist() for column in columns), strict=True)]

    def met_before(self, step: int, slots: range) -> frozenset[int]:
        """What these slots met before a step in the windows that it lies in: whoever begins there needs none of it."""
        line, windows, inside = self._stand(step, slots)
        met = [windows.start[slot] + windows.rows[slot, : inside[slot]] for slot in range(len(inside))]
        return frozenset(self._samples_at(line, np.concatenate(met)).tolist())

    def substitute(self, step: int, slot: int, *, attempt: int) -> int:
        """The sample that takes a damaged one's place, at the given attempt (0, 1, …) to find a sound one."""
        epoch, within = self.position(step)
        raw = _philox(self._key, epoch, slot * self.steps_per_epoch + within, _SUBSTITUTES, skip=attempt // 4)
        # The bias of a remainder is below 1e-9 for any dataset that fits on Earth.
        return int(raw.random_raw(4)[attempt % 4] % self.num_samples)

    def _samples_at(self, line: _Epoch, at: Samples) -> Samples:
        """The samples at these positions of the line."""
        block = np.searchsorted(line.line_start, at, side="right") - 1
        return at + line.sample_start[block] - line.line_start[block]

    def _stand(self, step: int, slots: range) -> tuple[_Epoch, _Windows, Samples]:
        """The epoch's line, the windows that these slots are in, and how far inside them each is."""
        number, within = self.position(step)
        line = self._epoch_line(number)
        key = (number, slots.start, slots.stop)
        if self._windows is None or self._windows.key != key:
            self._windows = _Windows(key, len(slots), self.window + self.block)
        windows = self._windows
        at = np.arange(slots.start, slots.stop, dtype=np.int64) * self.steps_per_epoch + within
        if ((at < windows.start) | (at >= windows.end)).any():
            self._enter(windows, line, within, slots)
        return line, windows, at - windows.start

    def _enter(self, windows: _Windows, line: _Epoch, within: int, slots: range) -> None:
        """Bring every slot into the window that it is in at step `within` of the epoch."""
        slot = np.arange(slots.start, slots.stop, dtype=np.int64)
        # Multiples of the golden ratio: the windows of any run of neighbouring slots, a rank's, begin evenly spread.
        offset = (slot * 0x9E3779B1 % 2**32) * self.window >> 32
        number = np.where(within < offset, 0, (within - offset) // self.window + 1)
        # A window ends where the block begins that its last step would lie in: that may have been before this step.
        number += slot * self.steps_per_epoch + within >= self._bound(line, number + 1, slot, offset)
        windows.start = self._bound(line, number, slot, offset)
        windows.end = self._bound(line, number + 1, slot, offset)
        stride = windows.rows.shape[1] + 3 & ~3
        for row in np.flatnonzero(number != windows.number).tolist():
            # Philox makes four numbers per count: the counter is set to where the slot's numbers begin.
            skip = int(slot[row]) * stride // 4
            raw = _philox(self._key, windows.key[0], int(number[row]), _WINDOWS, skip=skip)
            size = int(windows.end[row] - windows.start[row])
            windows.rows[row, :size] = np.argsort(raw.random_raw(size), kind="stable")
        windows.number = number

    def _bound(self, line: _Epoch, number: Samples, slot: Samples, offset: Samples) -> Samples:
        """The line position where each slot's window of that number begins."""
        begins = slot * self.steps_per_epoch
        nominal = np.where(number <= 0, 0, np.minimum(offset + (number - 1) * self.window, self.steps_per_epoch))
        block = np.searchsorted(line.line_start, begins + nominal, side="right") - 1
        return np.where(
            nominal == self.steps_per_epoch,
            begins + self.steps_per_epoch,
            np.maximum(begins, line.line_start[block]),
        )

    def _epoch_line(self, number: int) -> _Epoch:
        if self._epoch is None or self._epoch.number != number:
            raw = _philox(self._key, number, 0, _BLOCKS).random_raw(len(self._block_start))
            permutation = np.argsort(raw, kind="stable")
            line_start = np.concatenate([[0], np.cumsum(self._block_size[permutation])])
            self._epoch = _Epoch(number, line_start, self._block_start[permutation])
        return self._epoch


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
