"""ISNet as a task of trainplane."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

import isnet
from isnet.gan import GAN
from isnet.generator import Generator
from isnet.masks import RATIO_BINS
from isnet.metrics import MetricSums, composite, measure
from isnet.served import TRAINED
from isnet.spectral_norm import fold_spectral_norm
from isnet.weights import save_model
from jobs.config import ISNetConfig
from jobs.data.mask_datasets import pin_mask_sets
from jobs.data.samples import TrainTransform, float_batch, validation_pair
from jobs.method_rules import RULES
from jobs.train import compile_check
from jobs.train.networks import build_players
from trainplane.cluster.context import Context
from trainplane.data.types import Batch, Sample
from trainplane.task import Exported, GalleryImage, Reducer, Task, Validation
from trainplane.tracking.images import strip
from trainplane.tracking.tracker import gallery_key
from trainplane.train.guard.policy import Balance
from trainplane.train.run_config import RunConfig
from trainplane.train.start.weights import StartReport, StartSource, StartWeights

# Bounds on D's loss (half of Eq. 3): a hundredth of the chance level, and a third above it. At the chance level D's
# logits are 0, and the loss is 1 for the hinge, log 2 for cross entropy, 1/4 for squares of sigmoids.
D_LOSS_BOUNDS = {"hinge": (0.01, 1.33), "nsgan": (0.007, 0.92), "lsgan": (0.0025, 0.33)}
# Metrics over all held-out pictures, and metrics by hole ratio.
OVERALL = ("psnr", "ssim", "l1_percent", "l1_hole")
BINNED = ("psnr", "ssim", "l1_percent")
# Packages that a served model needs, pinned to the installed versions.
REQUIREMENTS = ("torch", "numpy", "pillow", "safetensors", "simplejpeg", "opencv-python-headless")
# And those of one method.
MORE_REQUIREMENTS = {"edgeconnect": ("scikit-image",)}


class ISNetTask(Task):
    """G, D, their optimisers and the losses of one configuration."""

    Config: ClassVar[type[RunConfig]] = ISNetConfig

    def __init__(self, config: Any, device: torch.device) -> None:
        """Builds the networks; weights come from torch's global generator."""
        super().__init__(config, device)
        # Mask datasets must have the digests of the configuration.
        pin_mask_sets(config)
        self.players = build_players(config, device)

    def modules(self) -> dict[str, nn.Module]:
        """Returns G, D and the moving average of G."""
        return self.players.modules()

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns the optimisers of G and D."""
        return self.players.optimizers()

    def counters(self) -> dict[str, float | int | str]:
        """Returns steps and phase, of methods that have phases."""
        return self.players.counters()

    def load_counters(self, counters: Mapping[str, float | int | str]) -> None:
        """Restores them."""
        self.players.load_counters(counters)

    @classmethod
    def transform_of(cls, config: Any) -> TrainTransform:
        """Returns the transform of training samples."""
        pin_mask_sets(config)
        data, method, rules = config.data, config.method, RULES.get(config.model.name)
        return TrainTransform(
            data.size,
            data.resize,
            data.flip,
            data.masks,
            extra=rules.extra if rules is not None else None,
            sigma=method.sigma,
            up_to=data.resize_up_to,
            known_edges=not method.released,
        )

    def self_check(self, micro_batch: Batch, *, reduce: Reducer) -> str | None:
        """Compares compiled networks with eager ones."""
        if not isinstance(self.players, GAN) or not self.config.train.compile:
            return None
        image, mask = float_batch(micro_batch)
        return compile_check.check(self.players, image, mask, reduce=reduce)

    def step(self, micro_batches: Sequence[Batch], *, global_batch: int, reduce: Reducer) -> dict[str, Tensor]:
        """Runs one global step of both networks."""
        batches = [float_batch(batch) for batch in micro_batches]
        return self.players.step(batches, global_batch=global_batch, reduce=reduce)

    def balance(self) -> dict[str, Balance]:
        """Returns bounds on D's loss."""
        # Bounds are known for ISNet's losses alone.
        if not isinstance(self.players, GAN) or not self.players.settings.loss.needs_discriminator:
            return {}
        # Near 0, D overpowers G; above the chance level, D has collapsed.
        low, high = D_LOSS_BOUNDS[self.players.settings.gan]
        bounds = Balance(
            low,
            high,
            below="D overpowers G, and G learns nothing from it",
            above="D has collapsed: its loss is above the chance level",
            slows_below="discriminator",
            slows_above="generator",
        )
        return {"discriminator": bounds}

    def timings(self) -> dict[str, float]:
        """Returns seconds by part of the step."""
        return self.players.timer.seconds()

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuses patterns of parameters that fit nothing."""
        if config.train.freeze or config.train.rate_factors:
            from jobs.train.memory import on_meta_device

            on_meta_device(config)

    @classmethod
    def find_start(cls, typed: str, context: Context) -> StartSource:
        """Finds registered models, runs, checkpoints and the author's files."""
        from jobs.train import start

        return start.find(typed, context)

    @classmethod
    def read_start(cls, config: Any, context: Context) -> StartWeights:
        """Reads the networks that a run begins with."""
        from jobs.train import start

        return start.read(config, context)

    @classmethod
    def plan_start(cls, config: Any, weights: StartWeights) -> StartReport:
        """Compares architectures, then tensors."""
        from jobs.train import start

        return start.plan(cls, config, weights)

    def begin_at(self, weights: StartWeights) -> None:
        """Loads weights so that the first prediction is the parent's."""
        from jobs.train import start

        start.begin(self, weights)

    @torch.no_grad()
    def validate(self, samples: Sequence[tuple[int, Sample]], *, reduce: Reducer, gallery: Sequence[int]) -> Validation:
        """Measures definition `isnet` on composites, overall and by hole ratio."""
        # Spectral norm is folded into the weights once, not once a picture.
        network = fold_spectral_norm(self.players.eval_generator()).eval()
        tally, pictures = MetricSums.empty(), []
        for index, sample in samples:
            pair = validation_pair(index, sample, self.config.data.evaluation_size, self.config.data.evaluation_masks)
            image, mask = (tensor[None].to(self.device) for tensor in pair)
            raw = network(image, mask)
            tally = tally.plus(measure(raw, image, mask), mask)
            if index in gallery:
                pictures.append(GalleryImage(gallery_key(index), gallery_strip(image, mask, raw)))
        # Ranks measure different pictures; sums and counts add up to the means over all.
        sums = torch.from_numpy(tally.sums).to(self.device)
        reduce.sum_([sums])
        return Validation(flat_metrics(MetricSums(sums.cpu().numpy())), pictures)

    @classmethod
    def measured(cls, config: Any) -> list[str]:
        """Returns the names of all metrics of `validate`."""
        return [*OVERALL, *(f"{name}_{bin}" for bin in RATIO_BINS for name in BINNED)]

    @classmethod
    def headlines(cls, config: Any) -> list[str]:
        """Names quality on held-out pictures, then the players' losses."""
        names = ["val/psnr", "val/ssim", "train/generator", "train/discriminator", "train/l1"]
        # Of another method the losses that it has.
        missing = {"train/l1", *(["train/discriminator"] if config.model.name == "pconv" else [])}
        return [name for name in names if config.model.name not in RULES or name not in missing]

    def export(self, folder: Path) -> Exported:
        """Writes the generator, or its moving average, for `isnet.served`."""
        # The exported weights have spectral norm folded in, and no optimiser.
        save_model(cast("Generator", self.players.eval_generator()), folder)
        trained = {"evaluation_size": self.config.data.evaluation_size, "masks": self.config.data.evaluation_masks}
        (folder / TRAINED).write_text(json.dumps(trained, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        names = (*REQUIREMENTS, *MORE_REQUIREMENTS.get(self.config.model.name, ()))
        pins = [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]
        return Exported("isnet.served", [Path(str(isnet.__file__)).parent], pins)

    def describe(self) -> dict[str, str | int | float]:
        """Returns G's size and the perceptual loss's origin."""
        generator = self.players.modules()["generator"]
        features = ", ".join(str(network.source) for network in self.players.frozen())
        return {
            "parameters": sum(parameter.numel() for parameter in generator.parameters()),
            **({"features": features} if features else {}),
        }


def gallery_strip(image: Tensor, mask: Tensor, raw: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Draws one picture as damaged, repaired, prediction and truth.

    Args:
        image: truth, float (1, 3, H, W) in [0, 1].
        mask: float (1, 1, H, W), 1 on valid pixels.
        raw: prediction of the network, like `image`.
    """
    panels = {
        "damaged": image * mask,
        "repaired": composite(raw, image, mask),
        "prediction": raw,
        "truth": image,
    }
    # MLflow's pages show pictures in squares; as large as such a square is, and what matters in its upper half.
    return strip([(caption, to_pixels(panel[0])) for caption, panel in panels.items()], columns=2, least_height=192)


def to_pixels(picture: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Rounds (3, H, W) in [0, 1] to uint8 pixels."""
    return picture.detach().float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()


def flat_metrics(tally: MetricSums) -> dict[str, float]:
    """Names means over all pictures `psnr`, by bin `psnr_10-20`."""
    overall = tally.overall()
    metrics = {name: overall[name] for name in OVERALL if name in overall}
    return metrics | {f"{name}_{bin}": row[name] for bin, row in tally.table().items() for name in BINNED}
