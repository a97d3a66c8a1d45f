"""The mean colour of training pictures: measured, recorded, the same again, refused where it cannot be had."""

import pytest
from PIL import Image

from jobs.config import load_isnet_config
from jobs.data import mean_color
from jobs.data.mean_color import with_mean_color
from trainplane.cluster.context import local
from trainplane.errors import RunFailed, UserError
from trainplane.train.checkpoint import store as checkpoints

WORDS = ("data.train=mine", "data.val=null")


@pytest.fixture
def context(home):
    return local(home)


def coloured(folder, *colors):
    """Writes a plain photo of each colour, of different sizes."""
    folder.mkdir()
    for number, color in enumerate(colors):
        Image.new("RGB", (70 + 40 * number, 90), color).save(folder / f"p{number}.png")
    return folder


def color_of(context, *words):
    return with_mean_color(load_isnet_config("glcic+laptop", [*WORDS, *words]), context).method.mean_color


def test_every_picture_counts_the_same_and_the_value_is_recorded(isnet, context, tmp_path, monkeypatch):
    assert isnet("data", "pack", coloured(tmp_path / "a", (0, 51, 255), (102, 51, 0)), "mine").status == 0
    assert color_of(context) == (0.2, 0.2, 0.5)
    # A colour that was given stays, and other methods have none.
    assert color_of(context, "method.mean_color=[0.1,0.2,0.3]") == (0.1, 0.2, 0.3)
    config = load_isnet_config("pconv+laptop", [*WORDS])
    assert with_mean_color(config, context) is config
    # A sample of many lies evenly in the dataset.
    monkeypatch.setattr(mean_color, "PICTURES", 1)
    mean_color._mean_color.cache_clear()
    assert color_of(context) == (0.0, 0.2, 1.0)


def test_datasets_of_a_mixture_count_by_their_shares(isnet, context, tmp_path):
    assert isnet("data", "pack", coloured(tmp_path / "a", (255, 0, 0)), "mine").status == 0
    assert isnet("data", "pack", coloured(tmp_path / "b", (0, 255, 0)), "other").status == 0
    assert color_of(context, "data.mix={other: 0.25}") == (0.75, 0.25, 0.0)


def test_what_cannot_be_measured_is_refused_in_a_sentence(isnet, context, tmp_path):
    with pytest.raises(UserError, match="mine"):
        color_of(context)
    with pytest.raises(UserError, match="give that of its"):
        color_of(context, "data.grown_from=mine@1")
    assert isnet("data", "pack", coloured(tmp_path / "a", (255, 0, 0), (0, 0, 255)), "mine").status == 0
    [shard] = (tmp_path / "home" / "datasets" / "mine").glob("*.tar")
    data = bytearray(shard.read_bytes())
    data[data.index(b"IDAT") + 8] ^= 255
    shard.write_bytes(data)
    with pytest.raises(RunFailed, match="is damaged"):
        color_of(context)
    # The run would replace it, so the other picture alone counts.
    assert sorted(color_of(context, "data.on_damage=quarantine")) in ([0, 0, 1.0],)


def test_a_run_has_it_recorded_and_is_found_again(isnet, home, photos):
    assert isnet("data", "pack", photos, "mine").status == 0
    words = ["train", "glcic+laptop", *WORDS, "method.phases=[1,1]", "model.width=4", "model.discriminator_width=4"]
    words += ["train.global_batch=2", "train.steps=2", "train.checkpoint_every=2"]
    planned = isnet("plan", *words, "--json")
    assert planned.status == 0, planned.err
    first, again = isnet(*words, "--json"), isnet(*words, "--json")
    assert first.status == 0, first.err
    assert first.json()["run_id"] == again.json()["run_id"]
    # The checkpoint and the run's record have the value, so nothing measures it again for them.
    store, checkpoint = checkpoints.open_address(first.json()["checkpoint"])
    recorded = checkpoints.read_meta(store, checkpoint)["config"]["method"]["mean_color"]
    assert tuple(recorded) == color_of(local(home))
    assert 0 < min(recorded) < max(recorded) < 1
