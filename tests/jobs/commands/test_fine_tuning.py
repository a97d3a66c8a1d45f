"""What fine-tuning needs, in one run: frozen parts, rates by part, clipping, several held-out sets, mixed holes."""

import pytest
import yaml
from safetensors.torch import load_file
from small_run import SMALL

FINE = (
    *SMALL,
    "train.lr_warmup=2",
    "train.freeze=[generator.stem, discriminator.convs.0]",
    "train.rate_factors={generator.head: 0.1}",
    "train.clip_norm=0.5",
    "train.best_metric=val/again/psnr",
    "train.keep_best=1",
    "train.patience=9",
    "train.max_hours=2",
    "data.val_sets={again: mine}",
    "data.mix={held: 0.25}",
    "data.masks={irregular: 0.7, box: 0.3}",
)


def tensors(checkpoint):
    return load_file(f"{checkpoint}/tensors.safetensors")


def test_a_run_is_fine_tuned_and_run_again_from_its_record(isnet_there, project, tmp_path):
    ran = isnet_there("train", "demo", *FINE, f"train.start_from={project.run['run_id']}", "--json")
    assert ran.status == 0, ran.err
    made = ran.json()
    assert {"val/psnr", "val/again/psnr"} <= set(made["metrics"])
    before, after = (tensors(run["checkpoint"]) for run in (project.run, made))
    # The start is the parent's average. Frozen parts stay as they were in it, others move.
    frozen = [name for name in after if name.startswith("module/generator/stem.")]
    assert frozen
    for name in frozen:
        assert after[name].equal(before[name.replace("generator", "ema", 1)]), name
    assert not after["module/generator/fusion.conv.weight"].equal(before["module/ema/fusion.conv.weight"])
    assert after["module/discriminator/convs.0.weight"].equal(before["module/discriminator/convs.0.weight"])
    recipe = isnet_there("runs", "reproduce", made["run_id"], "-o", tmp_path / "again", "--json").json()
    assert [line for line in recipe["missing"] if not line.startswith("code:")] == []
    config = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    assert config["data"]["val_sets"]["again"].endswith("/datasets/mine")
    assert [(place.rpartition("/")[2], share) for place, share in config["data"]["mix"].items()] == [("held", 0.25)]
    again = isnet_there("train", str(tmp_path / "again" / "config.yaml"), "--fresh", "--json")
    assert again.status == 0, again.err
    assert again.json()["state_digest"] == made["state_digest"]


MISTAKES = {
    ("train.freeze=[generator.stm]",): "train.freeze='generator.stm' fits no parameter; need a path",
    ("train.freeze=[generator]",): "leaves nothing of generator to train; freeze parts of it",
    ("train.rate_factors={generator.nothere: 0.1}",): "train.rate_factors='generator.nothere' fits no parameter",
    ("train.rate_factors={generator.stem: 0}",): "train.rate_factors",
    ("train.patience=3",): "train.patience=3 and train.best_metric is not set",
    ("train.patience=3", "train.best_metric=val/again/psnr"): "train.best_metric='val/again/psnr' is not measured",
    ("data.val_sets={again: nothere}",): "nothere: there is no dataset",
    ("data.mix={nothere: 0.5}",): "nothere: there is no dataset",
    ("data.mix={held: 0.1}",): "data.mix gives held 0.1 of each batch, less than one of 4 samples",
    ("data.masks={irregular: 0}",): "has no weight above 0, so there is nothing to draw",
    ("data.masks={irregular: 1, nothere: 1}",): "masks 'nothere' are neither a generator",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_patterns_weights_and_metrics_that_fit_nothing_are_refused(isnet_there, project, words):
    folders = sorted((project.folder / "home" / "checkpoints").iterdir())
    ran = isnet_there("train", "demo", *SMALL, *words)
    assert (ran.status, MISTAKES[words] in ran.err) == (2, True), ran.err
    assert sorted((project.folder / "home" / "checkpoints").iterdir()) == folders
