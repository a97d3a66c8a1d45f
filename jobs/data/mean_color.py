"""Measures the mean colour that GLCIC fills holes with.

    config = with_mean_color(config, context)       # method.mean_color is set, unless it was

The colour becomes a setting of the run, so it is recorded, and a run that goes on has the same bits.
"""

from __future__ import annotations

from functools import cache
from typing import TypeVar

import numpy as np

from isnet.images.decode import decode_rgb
from jobs.config import ISNetConfig
from jobs.data.samples import picture_bytes
from trainplane.cluster.context import Context
from trainplane.data.damage import DamageError
from trainplane.data.manifest import Dataset
from trainplane.data.named import open_dataset
from trainplane.data.read.fetch import read_samples
from trainplane.errors import UserError
from trainplane.train.run_config import RunConfig

ConfigT = TypeVar("ConfigT", bound=RunConfig)
Color = tuple[float, float, float]

# Pictures that are looked at; of 256 photos the mean is within some hundredths of that of all.
PICTURES = 256
# They are decoded no larger than needed for a mean: shorter side, pixels.
_SHORTEST = 64
# Digits that are kept, a quarter of a level of 8 bits: another decoder's last bits make no other run.
_DIGITS = 3


def with_mean_color(config: ConfigT, context: Context) -> ConfigT:
    """Sets `method.mean_color` from the training pictures, if it is needed.

    The first call reads up to `PICTURES` pictures of each training dataset. The colour depends on the datasets alone.

    Raises:
        UserError: The colour cannot be had from the dataset, or must be that of an earlier run.
        DamageError: A picture is damaged.
    """
    if not isinstance(config, ISNetConfig) or config.model.name != "glcic" or config.method.mean_color is not None:
        return config
    if config.data.grown_from is not None:
        raise UserError(
            f"data.grown_from={config.data.grown_from} goes on with a run that filled holes with the mean colour of "
            "the earlier pictures; give that of its `config.json`, such as method.mean_color=[0.5,0.45,0.4]"
        )
    # Each dataset counts by its share of a batch.
    mix = config.data.mix
    shares = {config.data.train: 1 - sum(mix.values()), **mix}
    datasets = [open_dataset(name, context) for name in shares]
    skip_damaged = config.data.on_damage == "quarantine"
    colors = [_mean_color(dataset.address, dataset.digest, skip_damaged=skip_damaged) for dataset in datasets]
    red, green, blue = np.average(colors, axis=0, weights=list(shares.values())).round(_DIGITS).tolist()
    color = red, green, blue
    return config.model_copy(update={"method": config.method.model_copy(update={"mean_color": color})})


# A search asks once for each trial.
@cache
def _mean_color(address: str, digest: str, *, skip_damaged: bool) -> Color:
    """Averages evenly spaced pictures, each as much as another."""
    dataset = Dataset.open(address, expected_digest=digest)
    count = min(PICTURES, dataset.num_samples)
    means = []
    for number in range(count):
        index = number * dataset.num_samples // count
        try:
            [sample] = read_samples(dataset, [index])
            with dataset.decoding(index):
                rgb = decode_rgb(picture_bytes(sample), shortest=_SHORTEST)
        except DamageError:
            # The run replaces such samples by its own rule.
            if skip_damaged:
                continue
            raise
        means.append(rgb.mean((0, 1)) / 255)
    if not means:
        raise UserError(
            f"{address} has no picture whose colour could be measured, and model.name=glcic fills holes with the mean "
            "colour; give R, G, B from 0 to 1, such as method.mean_color=[0.5,0.45,0.4]"
        )
    red, green, blue = np.mean(means, axis=0).tolist()
    return red, green, blue
