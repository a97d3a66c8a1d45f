"""Section `data` of a run: crops and holes."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from jobs.data.mask_mixture import Masks, main_kind, shares
from trainplane.config.section import about
from trainplane.train.run_config import DataConfig

# Least side of a picture, as `isnet.generator` says too, whose import would take seconds.
MINIMUM_SIZE = 32


class ISNetDataConfig(DataConfig):
    """Crops of the photos, and their holes."""

    size: int = Field(
        256,
        ge=MINIMUM_SIZE,
        description="side of the training crop, a multiple of 16 (of 8 for base and unet_like)",
        json_schema_extra=about(unit="px", also=["image_size", "img_size", "crop", "crop_size", "resolution"]),
    )
    resize: int | None = Field(
        None,
        ge=16,
        description="shorter side before a random crop; null: the paper's centre square, resized",
        json_schema_extra=about(unit="px"),
    )
    resize_up_to: int | None = Field(
        None,
        ge=16,
        description="largest shorter side: each crop's is drawn between data.resize and this; null: all data.resize",
        json_schema_extra=about(unit="px", related=["random_scale", "zoom", "random_resized_crop"], later=True),
    )
    flip: bool = Field(True, description="mirror every other picture")
    masks: Masks = Field(
        "irregular",
        description="holes: a generator (irregular, thin, medium, thick, lama, box, large_box, half) or a packed "
        "dataset of masks; several in a list, or with weights, as in {irregular: 0.7, box: 0.3}",
    )
    masks_digest: str | dict[str, str] | None = Field(
        None, description="digest of that dataset, or of each by its address; filled in when the run starts"
    )
    val_masks: str | None = Field(
        None, description="holes of held-out pictures; default: as `masks`, of several those of the largest weight"
    )
    val_masks_digest: str | None = Field(None, description="of that dataset; filled in when the run starts")

    @field_validator("resize")
    @classmethod
    def _crop_fits(cls, resize: int | None, info: Any) -> int | None:
        size = info.data.get("size")
        if resize is not None and size is not None and resize < size:
            raise ValueError(
                f"data.resize={resize} is smaller than the crop data.size={size}; set it to at least {size}"
            )
        return resize

    @field_validator("masks")
    @classmethod
    def _masks_have_weight(cls, masks: Masks) -> Masks:
        shares(masks)
        return masks

    @field_validator("resize_up_to")
    @classmethod
    def _range_has_a_beginning(cls, largest: int | None, info: Any) -> int | None:
        smallest = info.data.get("resize")
        if largest is not None and (smallest is None or largest < smallest):
            raise ValueError(
                f"data.resize_up_to={largest} is the end of a range that begins at data.resize={smallest}; "
                f"set data.resize to at most {largest}, or leave data.resize_up_to out"
            )
        return largest

    @property
    def evaluation_masks(self) -> str:
        """Holes of held-out pictures."""
        return self.val_masks or main_kind(self.masks)

    @property
    def evaluation_size(self) -> int:
        """Side of the centre square of held-out pictures, pixels."""
        # As in training: at another size a network sees other proportions of border to picture (docs/LOG.md).
        return self.size
