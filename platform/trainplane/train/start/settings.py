"""Settings of section `train` about a run's first weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainplane.config.section import Section, about
from trainplane.errors import CLI


class StartConfig(Section):
    """Weights of another run or model to begin with."""

    start_from: str | None = Field(
        None,
        description="model whose weights a new run begins with: models:/NAME@ALIAS, models:/NAME/VERSION, NAME, "
        "runs:/ID, a checkpoint's address, author:PATH or starter; null: fresh weights",
        json_schema_extra=about(
            also=["pretrained", "init_from", "finetune_from", "load_from"],
            related=["resume_from", "resume"],
            later=True,
        ),
    )
    start_from_digest: str | None = Field(
        None, description="digest of that model; filled in when the run starts", json_schema_extra=about(later=True)
    )
    start_from_strict: bool = Field(
        True,
        description="refuse a start that does not fill the networks; false: take what fits, and say what did not",
        json_schema_extra=about(later=True),
    )
    start_state: Literal["weights", "all"] = Field(
        "weights",
        description=f"all: also optimisers, counters and step, as `{CLI} runs branch` sets it",
        json_schema_extra=about(later=True),
    )

    @model_validator(mode="after")
    def _check_start(self) -> StartConfig:
        if self.start_from is None and (
            self.start_from_digest or not self.start_from_strict or self.start_state != "weights"
        ):
            raise ValueError(
                "train.start_from_digest, start_from_strict and start_state say how to begin with a model, and "
                "train.start_from is not set; set it, or leave them out"
            )
        return self
