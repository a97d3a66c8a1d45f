"""Every method trains, resumes to the bit in any phase, is exported and reckoned; what it cannot take is refused."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from isnet.inference.predictor import Predictor
from isnet.methods import NAMES
from isnet.spectral_norm import weight_leaves
from isnet.training.memory import inference_bytes, state_bytes, step_footprint
from isnet.weights import load_model
from jobs.config import load_isnet_config
from jobs.data.samples import TrainTransform, synthetic_batch
from jobs.isnet_task import ISNetTask
from jobs.method_rules import RULES, TERMS
from jobs.train.networks import build_players, generator_options
from trainplane.errors import UserError
from trainplane.train.checkpoint.state import capture, restore
from trainplane.train.world import World

BATCH = 4
# Small in every direction; the laptop's losses, without networks behind them.
TINY = [
    "model.width=4",
    "model.discriminator_width=4",
    f"train.global_batch={BATCH}",
    "loss.perceptual=0",
    "loss.style=0",
]
OF_METHOD = {
    "edgeconnect": ["data.size=32", "model.blocks=1", "method.phases=[1,2]"],
    "pconv": ["data.size=32", "method.phases=[2]"],
    "glcic": ["data.size=64", "method.phases=[1,1]", "model.width=8"],
    "ca": ["data.size=32", "method.critic_steps=2"],
    "lama": ["data.size=32", "model.blocks=1"],
    "aot_gan": ["data.size=40", "model.blocks=1"],
}
# Trainable parameters of the presets' generators.
PARAMETERS = {
    "edgeconnect": 10_761_089 + 10_774_595,
    "pconv": 25_779_796,
    "glcic": 6_072_131,
    "ca": 3_601_542,
    "lama": 27_048_835,
    "aot_gan": 15_200_835,
}


def config_of(name, *more):
    return load_isnet_config(f"{name}+laptop", [*TINY, *OF_METHOD[name], *more])


def task_of(name, *more):
    torch.manual_seed(0)
    return ISNetTask(config_of(name, *more), torch.device("cpu"))


def batch_of(config, seed=0):
    torch.manual_seed(seed)
    batch = synthetic_batch(BATCH, config.data.size, RULES[config.model.name].extra)
    # One box a sample, as every method takes it.
    batch["mask"][:] = True
    batch["mask"][..., 9:20, 6:18] = False
    return batch


def train(task, steps):
    for number in range(*steps):
        metrics = task.step([batch_of(task.config, number)], global_batch=BATCH, reduce=World())
        assert all(torch.isfinite(value) for value in metrics.values()), metrics


def test_all_methods_have_rules_and_presets():
    assert set(NAMES) == set(RULES) == set(OF_METHOD) == set(PARAMETERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_ends_as_the_undisturbed_one(name):
    whole = task_of(name)
    train(whole, (0, 4))
    ended = capture(whole, step=4)
    for killed_after in (1, 3):
        first = task_of(name)
        train(first, (0, killed_after))
        again = task_of(name, "train.seed=7")
        restore(again, capture(first, step=killed_after), source="a checkpoint")
        train(again, (killed_after, 4))
        assert capture(again, step=4).digest() == ended.digest()
    # Every network has moved at some step, and the state says where it is.
    fresh = capture(task_of(name), step=0)
    for part in {key.split("/")[1] for key in ended.tensors if key.startswith("module/")}:
        keys = [key for key in ended.tensors if key.startswith(f"module/{part}/")]
        assert any(not torch.equal(ended.tensors[key], fresh.tensors[key]) for key in keys), part
    assert ended.scalars["counters"] == {"steps": 4, "phase": RULES[name].phases}


@pytest.mark.parametrize("name", NAMES)
def test_frozen_parts_stay_and_others_take_their_own_rate(name):
    part = task_of(name).players._parts["generator"]
    first, *_, last = (path for path, _ in part.named_parameters(prefix="generator"))
    task = task_of(name, f"train.freeze=[{first}]", f"train.rate_factors={{{last}: 0.5}}")
    before = {path: value.clone() for path, value in task.players._parts["generator"].named_parameters()}
    train(task, (0, 4))
    after = dict(task.players._parts["generator"].named_parameters())
    moved = {f"generator.{path}" for path, value in after.items() if not torch.equal(value, before[path])}
    assert first not in moved
    assert last in moved
    rates = {group["lr"] for group in task.optimizers()["generator"].param_groups}
    assert len(rates) == 2
    assert min(rates) == pytest.approx(max(rates) / 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_exported_loaded_and_fills_any_picture(name, tmp_path):
    task = task_of(name)
    train(task, (0, 2))
    exported = task.export(tmp_path)
    assert exported.loader_module == "isnet.served"
    network = load_model(tmp_path)
    rng = np.random.default_rng(0)
    image, hole = rng.integers(0, 256, (51, 70, 3), dtype=np.uint8), np.zeros((51, 70), bool)
    hole[11:30, 20:45] = True
    trained, loaded = (Predictor(net)(image, hole).astype(int) for net in (task.players.eval_generator(), network))
    assert np.abs(trained - loaded).max() <= 1
    assert np.array_equal(loaded[~hole], image[~hole])
    # The hole's content does not matter.
    image[hole] = 0
    assert np.array_equal(Predictor(network)(image, hole), loaded)
    assert inference_bytes(network.architecture, size=128) > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_memory_of_a_method_is_known_before_its_first_step(name):
    config = config_of(name)
    with torch.device("meta"):
        players = build_players(config, torch.device("meta"))
    footprint = step_footprint(players, size=config.data.size, micro_batch=BATCH)
    task = task_of(name)
    train(task, (0, 4))
    assert footprint.state == state_bytes(task.modules(), task.optimizers())
    assert footprint.peak > footprint.state


@pytest.mark.parametrize("name", [name for name in NAMES if not RULES[name].batch_norm])
def test_dividing_the_batch_changes_nothing(name):
    whole, parts = task_of(name), task_of(name)
    for number in range(3):
        batch = batch_of(whole.config, number)
        halves = [{key: value[at : at + 2] for key, value in batch.items()} for at in (0, 2)]
        one = whole.step([batch], global_batch=BATCH, reduce=World())
        two = parts.step(halves, global_batch=BATCH, reduce=World())
        assert one.keys() == two.keys()
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=2e-3, atol=2e-4, msg=f"{key} at step {number}")


@pytest.mark.parametrize("name", [name for name in NAMES if RULES[name].batch_norm])
def test_a_divided_batch_is_refused_where_batch_norm_joins_its_samples(name):
    task = task_of(name)
    halves = [{key: value[at : at + 2] for key, value in batch_of(task.config).items()} for at in (0, 2)]
    with pytest.raises(ValueError, match="BatchNorm needs all samples of a rank at once"):
        task.step(halves, global_batch=BATCH, reduce=World())


class TwoRanks:
    """Ranks in two threads: each waits for the other, then takes the sum."""

    def __init__(self):
        self.barrier, self.shares, self.local = threading.Barrier(2, timeout=60), [[], []], threading.local()

    def sum_(self, tensors):
        self.shares[self.local.rank] = [tensor.clone() for tensor in tensors]
        self.barrier.wait()
        for tensor, *parts in zip(tensors, *self.shares, strict=True):
            tensor.copy_(torch.stack(parts).sum(0))
        self.barrier.wait()

    def run(self, tasks, batches):
        def step(rank):
            self.local.rank = rank
            return tasks[rank].step([batches[rank]], global_batch=BATCH, reduce=self)

        with ThreadPoolExecutor(2) as pool:
            one, two = pool.map(step, range(2))
        return {key: value + two[key] for key, value in one.items()}


@pytest.mark.parametrize("name", NAMES)
def test_ranks_learn_what_one_process_learns(name):
    whole, ranks = task_of(name), [task_of(name), task_of(name)]
    for number in range(4):
        batch = batch_of(whole.config, number)
        halves = [{key: value[at : at + 2] for key, value in batch.items()} for at in (0, 2)]
        one = whole.step([batch], global_batch=BATCH, reduce=World())
        both = TwoRanks().run(ranks, halves)
        assert one.keys() == both.keys()
        for key, value in one.items():
            torch.testing.assert_close(both[key], value, rtol=5e-3, atol=1e-3, msg=f"{key} at step {number}")
    # Weights and statistics are the same on both ranks, to the bit.
    assert capture(ranks[0], step=4).digest() == capture(ranks[1], step=4).digest()


@pytest.mark.parametrize("name", ["aot_gan", "lama"])
def test_gradients_of_the_generators_loss_stay_out_of_the_discriminator(name):
    """D's gradient is the same whatever G's adversarial loss weighs."""
    found = []
    for weight in (1, 100):
        task = task_of(name, f"loss.adversarial={weight}")
        train(task, (0, 1))
        found.append([leaf.grad for leaf in weight_leaves(task.players.modules()["discriminator"])])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_has_the_published_number_of_parameters(name):
    config = load_isnet_config(name, [])
    with torch.device("meta"):
        import isnet

        network = isnet.build(name, **generator_options(config))
    assert network.num_parameters() == PARAMETERS[name]
    assert network.minimum_size <= config.data.size
    assert config.data.size % network.size_multiple == 0


def test_edges_of_known_pixels_do_not_look_into_the_hole(tmp_path):
    import io

    from PIL import Image

    square = np.zeros((64, 64, 3), np.uint8)
    square[16:48, 16:48] = 255
    with io.BytesIO() as buffer:
        Image.fromarray(square).save(buffer, "PNG")
        sample = {"__key__": b"a", "png": buffer.getvalue()}
    transform = TrainTransform(64, None, False, "half", extra="edges")
    batch = transform(sample, np.random.default_rng(0))
    assert list(batch) == ["image", "mask", "edges", "known_edges"]
    assert batch["edges"].sum() > batch["known_edges"].sum() > 0
    assert not (batch["known_edges"] & ~batch["mask"]).any()


@pytest.mark.parametrize(
    ("preset", "words", "said"),
    [
        ("pconv", ["data.size=192"], "no multiple of 128"),
        ("glcic", ["data.size=150", "data.resize=150"], "no multiple of 32"),
        ("glcic", ["data.size=288", "data.resize=288"], "no multiple of 64"),
        ("ca", ["data.masks=irregular"], "one box a picture"),
        ("ca", ["train.precision=bf16"], "set train.precision=fp32"),
        ("lama", ["train.precision=bf16"], "set train.precision=fp32"),
        ("pconv", ["train.micro_batch=4"], "set train.micro_batch=null"),
        ("glcic", ["train.micro_batch=auto"], "set train.micro_batch=null"),
        ("aot_gan", ["train.compile=true"], "set train.compile=false"),
        ("aot_gan", ["data.size=32", "data.resize=32"], "needs at least 36"),
        ("aot_gan", ["loss.feature_matching=1"], "set loss.feature_matching=0"),
        ("aot_gan", ["model.mask_input=true"], "leave it out"),
        ("aot_gan", ["loss.l1_mode=plain"], "loss.l1_mode=plain is not for model.name=aot_gan"),
        ("lama", ["loss.gan=lsgan"], "loss.gan=lsgan is not for model.name=lama"),
        ("pconv", ["loss.d_sees=composite"], "loss.d_sees=composite"),
        ("edgeconnect", ["loss.style_hole_only=true"], "loss.style_hole_only=True"),
        ("edgeconnect", ["method.phases=[5]"], "2 numbers"),
        ("pconv", ["method.phase_rates=[1,2,3]"], "2 phases"),
        ("demo", ["loss.valid=1"], "model.name=isnet has no term valid"),
        ("demo", ["method.released=true"], "is for other methods"),
        ("demo", ["model.blocks=5"], "takes 1 to 4"),
        ("demo", ["model.name=lama"], "isnet train lama"),
    ],
)
def test_what_a_method_cannot_take_is_refused_in_a_sentence(preset, words, said):
    with pytest.raises(UserError) as refusal:
        load_isnet_config(preset, words)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_every_term_is_one_of_the_configuration():
    assert set(type(load_isnet_config("demo", []).loss).model_fields) >= TERMS
    assert all(rules.terms <= TERMS for rules in RULES.values())
