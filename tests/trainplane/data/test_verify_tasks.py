"""Ray tasks find the same damage as one process, in the same order."""

import pytest
import small_datasets as small

from trainplane.cluster.ray_session import ray_session
from trainplane.data.manifest import Dataset
from trainplane.data.verify import verify
from trainplane.data.verify_tasks import checks_by_tasks


@pytest.mark.nightly
def test_any_number_of_tasks_finds_the_damage_that_one_process_finds(tmp_path):
    dataset = small.make(tmp_path / "set", 60)
    names = [shard.name for shard in dataset.shards]
    assert len(names) > 4
    (tmp_path / "set" / names[0]).unlink()
    for name in (names[1], names[-1]):
        path = tmp_path / "set" / name
        data = bytearray(path.read_bytes())
        data[700] ^= 1
        path.write_bytes(data)
    expected = verify(dataset)
    assert [damage.shard for damage in expected] == [names[0], names[1], names[-1]]
    with ray_session(num_cpus=2) as ray:
        for count in (1, 2, 3):
            seen = []
            damage = verify(Dataset.open(dataset.store), progress=seen.append, checks=checks_by_tasks(ray, count))
            assert damage == expected
            assert seen == list(dataset.shards)
        # Without an index the shards are named, not their samples.
        (tmp_path / "set" / "samples.parquet").unlink()
        damaged = Dataset.open(dataset.store)
        assert verify(damaged, checks=checks_by_tasks(ray, 2)) == verify(damaged)
