"""Measures a run's speed on this machine, for `plan --measure`.

As many processes as the run has ranks train a few steps together and validate once, on the cores and GPUs that are
here. A run of one rank is measured in this process, as it is trained. Of more ranks than this machine has room for,
those that fit are measured and the others are taken for as fast.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch

from jobs.cli.format import quantity
from jobs.config import ISNetConfig
from jobs.train.measure_rank import MeasuredSteps, measure_steps
from jobs.train.resources import RanksHere
from jobs.train.throughput import Rate
from trainplane.cluster.ray_session import in_ray_job
from trainplane.cluster.stack.moto_server import die_with_parent
from trainplane.data.manifest import Dataset
from trainplane.data.mixture import TrainingData, epoch_size, places_of
from trainplane.data.training_data import MixedAddress, addresses_of
from trainplane.errors import RunFailed, UserError
from trainplane.train.config import Cadence, TrainConfig
from trainplane.train.world import World


@dataclass(frozen=True)
class RunData:
    """Datasets of a run to measure; None: not there."""

    train: str | None
    val: str | None
    samples: int = 1  # of an epoch
    mix: tuple[MixedAddress, ...] = ()  # further training datasets

    @classmethod
    def of(cls, train: TrainingData | None, val: Dataset | None) -> RunData:
        """Returns the addresses of datasets."""
        val_address = val.address if val is not None else None
        if train is None:
            return cls(None, val_address)
        address, _, mix = addresses_of(train)
        return cls(address, val_address, epoch_size(train)[0], tuple(mix))

    def mix_of(self, config: ISNetConfig, *, batch: int) -> list[MixedAddress]:
        """Further datasets that have a place in a smaller batch.

        Args:
            config: Whose batch the places are of.
            batch: The smaller one.
        """
        whole = config.train.global_batch
        first, *places = places_of([number / whole for *_, number in self.mix], batch)
        if not first:
            return []
        return [
            (address, digest, number) for (address, digest, _), number in zip(self.mix, places, strict=True) if number
        ]


def measured_rate(config: ISNetConfig, ranks: RanksHere, data: RunData, *, done: int = 0, groups: int = 1) -> Rate:
    """Measures the speed of a run's remaining steps.

    Args:
        config: Configuration of the run.
        ranks: Ranks of the run, and the machine that they run on.
        data: Datasets of the run.
        done: Steps that the run has done already.
        groups: Groups of so many ranks that train side by side, as trials of a search do.
    """
    if ranks.gpu and not torch.cuda.is_available():
        raise UserError("--measure times steps on the machine where it is typed, and this one has no GPU; leave it out")
    here = ranks_that_fit(config.train, ranks)
    part = part_of(config, here=here, ranks=ranks.most)
    data = replace(data, mix=tuple(data.mix_of(config, batch=part.train.global_batch)))
    measured = _measure(part, here, data, gpu=ranks.gpu, groups=groups)
    train = config.train
    seconds = fmean(
        training_seconds(train, group, done=done, steps_per_epoch=max(1, data.samples // train.global_batch))
        for group in measured
    )
    pictures = max(1, train.steps - done) * train.global_batch
    return Rate(pictures / seconds, _description(measured, ranks=ranks.most, here=here))


def ranks_that_fit(train: TrainConfig, ranks: RanksHere) -> int:
    """Number of the run's ranks that this machine can hold."""
    if ranks.where == "this machine":
        return ranks.most
    room = torch.cuda.device_count() if ranks.gpu else int((os.cpu_count() or 1) // train.cpus_per_worker)
    return max(1, min(room, ranks.most))


def part_of(config: ISNetConfig, *, here: int, ranks: int) -> ISNetConfig:
    """Configuration of `here` of so many ranks, with unchanged shares."""
    # A rank does as much at every step and validation as in the whole group, so these take as long.
    share = config.train.global_batch // ranks
    train = config.train.model_copy(update={"workers": here, "global_batch": share * here})
    data = config.data.model_copy(update={"val_samples": math.ceil(config.data.val_samples * here / ranks)})
    return config.model_copy(update={"train": train, "data": data})


def training_seconds(train: TrainConfig, measured: MeasuredSteps, *, done: int, steps_per_epoch: int) -> float:
    """Seconds of the remaining steps and their validations."""
    # A finished run is taken for one step.
    steps = max(1, train.steps - done)
    cadence = Cadence.of(train.validate_every)
    every = cadence.steps(steps_per_epoch)
    training_s = steps * measured.step_s
    if every is None:
        # By the clock, and after the last step.
        return training_s * (1 + measured.validation_s / cadence.amount) + measured.validation_s
    validations = train.steps // every - done // every + (train.steps % every > 0)
    return training_s + validations * measured.validation_s


def _description(measured: Sequence[MeasuredSteps], *, ranks: int, here: int) -> str:
    words = f"{quantity(here, 'rank')} timed here"
    if len(measured) > 1:
        words += f", {len(measured)} trials at once"
    words += f": {quantity(measured[0].steps, 'step')} of {fmean(group.step_s for group in measured):.2g} s"
    words += ", data included" if measured[0].with_data else ", without reading data, as it is not there yet"
    if validation_s := fmean(group.validation_s for group in measured):
        words += f"; a validation takes {validation_s:.2g} s"
    if ranks > here:
        words += f"; the other {ranks - here} of {ranks} ranks, on other nodes, are taken for as fast"
    return words


def _measure(config: ISNetConfig, ranks: int, data: RunData, *, gpu: bool, groups: int) -> list[MeasuredSteps]:
    """Measures each group; all of them run at once."""
    # A single rank trains in the process of the command, with its number of threads.
    if ranks == groups == 1 and not in_ray_job():
        threads = torch.get_num_threads()
        try:
            return [measure_steps(config, World(), train_data=data.train, val_data=data.val, mix=data.mix)]
        finally:
            torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="isnet-measure-") as folder:
        group_ranks = [(group, rank) for group in range(groups) for rank in range(ranks)]
        processes = []
        try:
            for number, (group, rank) in enumerate(group_ranks):
                environment = rank_environment(config.train, number=number, gpu=gpu)
                files = [Path(folder, f"{group}-{rank}.{name}") for name in ("json", "out", "err")]
                work = {
                    "config": config.model_dump(mode="json"),
                    "rank": rank,
                    "ranks": ranks,
                    "rendezvous": f"file://{folder}/{group}.rendezvous",
                    "train_data": data.train,
                    "val_data": data.val,
                    "mix": data.mix,
                }
                files[0].write_text(json.dumps(work))
                with files[0].open() as stdin, files[1].open("w") as stdout, files[2].open("w") as stderr:
                    processes.append(
                        subprocess.Popen(
                            [sys.executable, "-m", "jobs.train.measure_rank"],
                            env=environment,
                            stdin=stdin,
                            stdout=stdout,
                            stderr=stderr,
                            preexec_fn=die_with_parent,
                        )
                    )
            _wait(processes, [Path(folder, f"{group}-{rank}.err") for group, rank in group_ranks])
        finally:
            for process in processes:
                process.kill()
                process.wait()
        reports = [Path(folder, f"{group}-0.out").read_text().splitlines()[-1] for group in range(groups)]
    return [MeasuredSteps(**json.loads(report)) for report in reports]


def rank_environment(train: TrainConfig, *, number: int, gpu: bool) -> dict[str, str]:
    """Environment of a rank, as Ray would set it."""
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, math.floor(train.cpus_per_worker))))
    if gpu:
        visible = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
        environment["CUDA_VISIBLE_DEVICES"] = visible[number % len(visible)] if visible else str(number)
    return environment


def _wait(processes: Sequence[subprocess.Popen[bytes]], errors: Sequence[Path]) -> None:
    """Waits for all ranks; raises the first error."""
    while any(process.poll() is None for process in processes) and not any(process.poll() for process in processes):
        time.sleep(0.1)
    for process, error in zip(processes, errors, strict=True):
        if process.poll():
            lines = error.read_text(errors="replace").strip().splitlines() or [f"status {process.returncode}"]
            raise RunFailed(f"--measure could not time the steps: a rank failed ({lines[-1]}); leave it out to plan")
