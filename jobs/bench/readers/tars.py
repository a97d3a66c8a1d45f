"""webdataset on our own shards, fetched by boto3, as its documentation shows it.

`"decoder": "ours"` gives it our decoder and crop in the place of its own, which tells the loader from the decoder.
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

from jobs.bench.readers.serving import Open, Spec, serve
from jobs.bench.readers.view import View


def s3_body(url: str, mode: str = "rb", bufsize: int = 8192, **other: Any) -> Any:
    """A shard's bytes as they come; webdataset has no handler for S3 of its own."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"]


def opened(spec: Spec) -> Open:
    webdataset.gopen_schemes["s3"] = s3_body
    view = View(spec["size"], spec["resize"])

    def seen(sample: dict[str, Any]) -> tuple[torch.Tensor]:
        return (view(sample["jpg"]),)

    def pipeline() -> Any:
        read = webdataset.WebDataset(spec["shards"], shardshuffle=100, nodesplitter=None).shuffle(1000)
        if spec.get("decoder") == "ours":
            return read.map(_our_view(spec)).batched(spec["batch"])
        return read.decode("pil", only=["jpg"]).map(seen).batched(spec["batch"])

    def raw() -> Any:
        return webdataset.WebDataset(spec["shards"], shardshuffle=100, nodesplitter=None)

    @contextmanager
    def stream(*, workers: int, start: int) -> Iterator[Iterator[int]]:
        if start:
            # It cannot resume: whoever wants the middle of an epoch reads and drops what came before.
            for _ in itertools.islice(raw(), start):
                pass
        loader = DataLoader(pipeline(), batch_size=None, num_workers=workers)
        batches = iter(loader)
        try:
            yield (len(images) for (images,) in batches)
        finally:
            batches._shutdown_workers()  # type: ignore[attr-defined]

    return stream


def _our_view(spec: Spec) -> Any:
    import numpy as np

    from jobs.bench.readers.ours import Crop

    crop = Crop(spec["size"], spec["resize"])
    rng = np.random.default_rng()
    return lambda sample: (crop(sample, rng)["image"],)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    serve(opened, facts=lambda: {"version": webdataset.__version__})
