"""webdataset on our shards, fetched by boto3 as documented.

`"decoder": "ours"` takes our decoder and crop instead.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import torch
import webdataset
from torch.utils.data import DataLoader

from jobs.bench.readers.serving import Open, PillowCrop, Spec, crop_of_bytes, main


def s3_body(url: str, mode: str = "rb", bufsize: int = 8192, **options: Any) -> Any:
    """Stream of a shard; webdataset has no handler for S3."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"]


def opened(spec: Spec) -> Open:
    """Streams of webdataset."""
    webdataset.gopen_schemes["s3"] = s3_body
    crop = PillowCrop(spec["size"], spec["resize"])

    def cropped(sample: dict[str, Any]) -> tuple[torch.Tensor]:
        return (crop(sample["jpg"]),)

    def raw() -> Any:
        return webdataset.WebDataset(spec["shards"], shardshuffle=100, nodesplitter=None)

    def pipeline() -> Any:
        samples = raw().shuffle(1000)
        if spec.get("decoder") == "ours":
            our_crop = crop_of_bytes(spec)
            return samples.map(lambda sample: (our_crop(sample["jpg"]),)).batched(spec["batch"])
        return samples.decode("pil", only=["jpg"]).map(cropped).batched(spec["batch"])

    @contextmanager
    def stream(*, workers: int, start: int) -> Iterator[Iterator[int]]:
        if start:
            # It cannot resume: to reach the middle of an epoch, all before it is read and dropped.
            for _ in itertools.islice(raw(), start):
                pass
        # webdataset makes the batches, so the loader must not.
        loader = DataLoader(pipeline(), batch_size=None, num_workers=workers)
        batches = iter(loader)
        try:
            yield (len(images) for (images,) in batches)
        finally:
            batches._shutdown_workers()  # type: ignore[attr-defined]

    return stream


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(opened, version=webdataset.__version__)
