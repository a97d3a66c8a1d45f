"""Several training datasets in one batch: places, epochs of each, the same on any ranks and resumed anywhere."""

import itertools

import numpy as np
import pytest
import small_datasets as small
from hypothesis import given, settings
from hypothesis import strategies as st

from trainplane.data.load.loader import Loader
from trainplane.data.mixed_order import spread
from trainplane.data.mixture import Mixture, epoch_size, places_of
from trainplane.data.order import sample_rng
from trainplane.data.training_data import addresses_of, check_fills_batch, reopen_training_data, training_data
from trainplane.errors import UserError

BATCH = 12


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """100, 40 and 30 samples; shards and keys have the same names in all."""
    folder = tmp_path_factory.mktemp("mixture")
    return [small.make(folder / str(seed), count, seed=seed) for seed, count in ((0, 100), (1, 40), (2, 30))]


def mixed(sets, *shares):
    further = {
        f"set{number}": (each, share) for number, (each, share) in enumerate(zip(sets[1:], shares, strict=False))
    }
    return Mixture.of(sets[0], further, global_batch=BATCH)


def load(data, start, stop, **options):
    loader = Loader(data, transform=small.number_and_chance, seed=10, global_batch=BATCH, **options)
    with loader:
        batches = [
            {name: tensor.tolist() for name, tensor in batch.items()}
            for _, batch in loader.batches(start=start, stop=stop)
        ]
    return batches, loader


def test_each_batch_has_the_places_and_each_sample_comes_once_in_an_epoch_of_its_set(sets):
    data = mixed(sets, 0.25, 1 / 6)
    places = {each.dataset.digest: each.places for each in data.sets}
    assert [places[each.digest] for each in sets] == [7, 3, 2]
    # A sample is known by its bytes; its number alone is one of each set.
    owner = {
        (number, sum(item.data)): which
        for which, count in enumerate((100, 40, 30))
        for number, item in enumerate(small.items(count, seed=which))
    }
    batches, loader = load(data, 0, 60)
    seen = [[], [], []]
    for batch in batches:
        which = [owner[sample] for sample in zip(batch["n"], batch["sum"], strict=True)]
        assert [which.count(number) for number in range(3)] == [7, 3, 2]
        # Half of a batch, such as a rank's, is mixed alike.
        assert all(abs(which[:6].count(number) - 6 * share / BATCH) <= 1 for number, share in enumerate((7, 3, 2)))
        for number, sample in zip(which, batch["n"], strict=True):
            seen[number].append(sample)
    placed = loader.samples_at(7)
    order = [sets.index(each.dataset) for each in data.sets]
    assert [index for _, index in placed] == batches[7]["n"]
    assert [order[number] for number, _ in placed] == [
        owner[sample] for sample in zip(batches[7]["n"], batches[7]["sum"], strict=True)
    ]
    for samples, of, count in zip(seen, (7, 3, 2), (100, 40, 30), strict=True):
        epoch = count // of * of
        for start in range(0, len(samples) - epoch + 1, epoch):
            assert len(set(samples[start : start + epoch])) == epoch
    assert loader.steps_per_epoch == 100 // 7
    assert epoch_size(data)[0] == 14 * BATCH


@given(start=st.integers(0, 30), count=st.integers(1, 8), world=st.sampled_from([2, 3, 4, 6, 12]))
@settings(max_examples=12, deadline=None)
def test_any_number_of_ranks_goes_on_from_any_step_with_the_same_batches(sets, start, count, world):
    data = mixed(sets, 0.25, 1 / 6)
    whole, _ = load(data, 0, start + count)
    shares = [load(data, start, start + count, rank=rank, world=world)[0] for rank in range(world)]
    for number, batch in enumerate(whole[start:]):
        for name, values in batch.items():
            assert list(itertools.chain.from_iterable(share[number][name] for share in shares)) == values


def test_worker_processes_change_nothing(sets):
    data = mixed(sets, 0.25)
    assert load(data, 3, 12, rank=1, world=2, workers=2)[0] == load(data, 3, 12, rank=1, world=2)[0]


def test_samples_of_one_number_in_two_sets_have_different_randomness(sets):
    chances = [tuple(chance) for batch in load(mixed(sets, 0.5), 0, 12)[0] for chance in batch["chance"]]
    assert len(set(chances)) == len(chances)
    # The first set's are those that it has alone.
    assert tuple(sample_rng(seed=10, epoch=0, sample=5).random(4)) in chances


def test_a_damaged_sample_is_replaced_from_its_own_set_and_named_with_it(sets, tmp_path):
    first, other = (small.make(tmp_path / name, 40, seed=seed) for name, seed in (("a", 0), ("b", 1)))
    where = [small.spoil_sample(dataset, 7) for dataset in (first, other)]
    assert where[0] == where[1]
    data = training_data(first, {"b": (other, 0.5)}, global_batch=BATCH)
    batches, loader = load(data, 0, 12, on_damage="quarantine")
    again = [load(data, 0, 12, on_damage="quarantine", rank=rank, world=2)[0] for rank in range(2)]
    assert [a["sum"] + b["sum"] for a, b in zip(*again, strict=True)] == [batch["sum"] for batch in batches]
    sums = [{sum(item.data) for item in small.items(40, seed=seed)} for seed in (0, 1)]
    for batch in batches:
        assert [sum(value in each for value in batch["sum"]) for each in sums] == [6, 6]
    # One name in two sets is two samples.
    assert sorted((each.shard, each.key) for each in loader.damage) == sorted(
        (f"{dataset.name}@{dataset.digest[:8]}/{where[0][0]}", where[0][1]) for dataset in (first, other)
    )


def test_the_digest_is_of_contents_and_places_not_of_names_and_shares(sets):
    data = mixed(sets, 0.25, 1 / 6)
    reverse = {"y": (sets[2], 0.17), "x": (sets[1], 0.24)}
    same = Mixture.of(sets[0], reverse, global_batch=BATCH)
    assert (same.digest, same.order(seed=1, global_batch=BATCH).hash) == (
        data.digest,
        data.order(seed=1, global_batch=BATCH).hash,
    )
    assert mixed(sets, 0.34, 1 / 6).digest != data.digest
    swapped = Mixture.of(sets[1], {"x": (sets[0], 7 / 12), "y": (sets[2], 1 / 6)}, global_batch=BATCH)
    assert swapped.digest != data.digest
    again = reopen_training_data(addresses_of(data), global_batch=BATCH)
    assert again.digest == data.digest
    assert training_data(sets[0], {}, global_batch=BATCH) is sets[0]


def test_what_cannot_be_mixed_is_refused_in_a_sentence(sets):
    with pytest.raises(UserError, match=r"gives x 0\.01 of each batch, less than one of 12 .* train\.global_batch=100"):
        training_data(sets[0], {"x": (sets[1], 0.01)}, global_batch=BATCH)
    with pytest.raises(UserError, match=r"leaves data\.train less than one of 12"):
        training_data(sets[0], {"x": (sets[1], 0.99)}, global_batch=BATCH)
    with pytest.raises(UserError, match="has the same content"):
        training_data(sets[0], {"again": (sets[0], 0.5)}, global_batch=BATCH)
    with pytest.raises(UserError, match="has 30 samples, fewer than its 40 of each batch of 80"):
        check_fills_batch(training_data(sets[0], {"x": (sets[2], 0.5)}, global_batch=80), global_batch=80)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_places_are_spread_evenly(places):
    owners = spread(places)
    whole = sum(places)
    for number, count in enumerate(places):
        at = np.cumsum(owners == number)
        assert at[-1] == count
        assert np.all(np.abs(at - count * np.arange(1, whole + 1) / whole) < len(places))


@given(st.lists(st.floats(0.001, 1), min_size=0, max_size=5), st.integers(1, 512))
def test_places_are_whole_and_within_one_of_the_shares(weights, batch):
    shares = [weight / (sum(weights) + 1) for weight in weights]
    places = places_of(shares, batch)
    assert sum(places) == batch
    assert all(abs(number - share * batch) < 1 + 1e-6 for number, share in zip(places[1:], shares, strict=True))
