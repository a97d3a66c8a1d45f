"""Name, parameters and description of a run on MLflow's pages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from trainplane.command_line import command_line
from trainplane.config.canonical import flatten
from trainplane.data.manifest import Dataset
from trainplane.data.mixture import Mixture, TrainingData
from trainplane.markdown import code_span
from trainplane.tracking.pages import artifact_link
from trainplane.tracking.tracker import newest_image
from trainplane.train.run_config import RunConfig, is_identity_setting
from trainplane.train.start.weights import StartReport

# MLflow's pages do not wrap a name, and a gallery's picture is as wide as the name above it.
_NAME_CHARACTERS = 50
# They are no part of a run's identity, and a run is known by them.
_TOLD = ("data.train", "data.mix", "data.val", "train.steps", "train.start_from")
# The parameter, and tag, with what was typed.
TYPED = "typed"
_LEGEND = """| curves | |
|---|---|
| `dashboard/` | how it goes: at once, each step as it was first computed |
| `val/`, `train/` | the held-out samples and the recorded steps, once a checkpoint is behind them |
| `gallery/` | held-out samples; the slider begins at the newest, then goes through the validations |
| `time/`, `system/` | time by phase, and load of the machine |
| `without checkpoint/` | steps that no checkpoint holds, of attempts that were cut off |
"""


@dataclass(frozen=True)
class Typed:
    """Words that were typed to start a run."""

    preset: str  # Name or file, with layers; of a branch, the run
    overrides: tuple[str, ...] = ()  # `section.name=value`
    # True where the preset's name says all of its settings, so that they need not be parameters.
    is_shipped: bool = False
    command: tuple[str, ...] = ("train",)  # Words before the preset
    options: tuple[str, ...] = ()  # Words behind it that are no settings
    title: str = ""  # Beginning of the run's name; empty: the preset

    def __str__(self) -> str:
        before = () if self.command == ("train",) else self.command
        return " ".join((*before, self.preset, *self.options, *self.overrides))

    @property
    def line(self) -> str:
        """The whole command line."""
        return command_line(*self.command, self.preset, *self.options, *self.overrides)


def run_name(typed: Typed, now: datetime | None = None) -> str:
    """Name of a new run: preset, differences, date (UTC)."""
    # Of files and folders the last part says which one it is.
    settings = (override.partition("=") for override in _telling(typed.overrides))
    preset, words = (
        typed.title or _last_part(typed.preset),
        [f"{name}={_last_part(value)}" for name, _, value in settings],
    )
    text = " ".join([preset, *words])
    # Runs that are compared differ in what was typed last, so that stays.
    while len(text) > _NAME_CHARACTERS and len(words) > 1:
        words = words[1:]
        text = " ".join([preset, "…", *words])
    if len(text) > _NAME_CHARACTERS:
        text = text[: _NAME_CHARACTERS - 1] + "…"
    return f"{text}, {(now or datetime.now(UTC)):%Y-%m-%d}"


def _telling(overrides: Iterable[str]) -> list[str]:
    """Leaves out settings that only say where and how often."""
    names = ((o, o.partition("=")[0]) for o in overrides)
    return [o for o, name in names if name.startswith("data.mix.") or name in _TOLD or is_identity_setting(name)]


def _last_part(text: str) -> str:
    return PurePosixPath(text).name or text


def parameters(config: RunConfig, typed: Typed | None, explored: Collection[str]) -> dict[str, Any]:
    """Settings that become MLflow's parameters.

    What was typed, what a search explores, and the steps; of a file of the user's all settings that differ from the
    defaults. MLflow prints every parameter above each image of a gallery, so all of them would hide the images.
    """
    everything = flatten(config.model_dump(mode="json"))
    # Digests that were filled in when the run started: they say which data it saw.
    digests = {name for name, value in everything.items() if name.endswith("_digest") and value}
    names = {*explored, *digests, "train.steps"}
    if typed is not None and typed.is_shipped:
        names |= {override.partition("=")[0] for override in _telling(typed.overrides)}
    elif not explored:
        names |= set(flatten(config.special()))
    settings = {name: value for name, value in everything.items() if name in names}
    return settings if typed is None else {TYPED: str(typed), **settings}


def description(
    config: RunConfig,
    train: TrainingData,
    val: Dataset | None,
    typed: Typed | None,
    *,
    start: StartReport | None = None,
) -> str:
    """Markdown at the top of a run's page."""
    beginning = f" It {code_span(str(start))}." if start is not None else ""
    held_out = f", measured on {val.num_samples} of {code_span(val.name)}" if val else ""
    command = f"{code_span(typed.line)}\n\n" if typed else ""
    return (
        f"{command}**{config.train.steps} steps of {config.train.global_batch} samples**{_sources(train)}"
        f"{held_out}.{beginning} `config.json` has all settings, `lineage.json` names "
        f"code and machine, `{command_line('runs', 'reproduce', 'RUN')}` prints the commands to run it again."
        f"\n\n{_LEGEND}"
    )


def _sources(train: TrainingData) -> str:
    if isinstance(train, Mixture):
        parts = [
            f"{each.places} of {code_span(each.dataset.name)} ({each.dataset.num_samples} samples)"
            for each in train.sets
        ]
        return f", {', '.join(parts[:-1])} and {parts[-1]}"
    return f" of {code_span(train.name)} ({train.num_samples} samples)"


def result(metrics: Mapping[str, float], headlines: Collection[str], *, step: int, run_id: str, image: str) -> str:
    """Markdown that a finished run's description begins with.

    Args:
        metrics: of the last validation.
        headlines: names of metrics to tell.
        step: of that validation.
        run_id: MLflow's id.
        image: name of a gallery image; empty: none.
    """
    values = ", ".join(f"{name} {metrics[name]:.4g}" for name in headlines if name in metrics)
    picture = f"![held-out sample]({artifact_link(run_id, newest_image(image))})\n\n" if image else ""
    return f"**{values}** after {step:,} steps\n\n{picture}" if values else picture
