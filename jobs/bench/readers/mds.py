"""mosaicml-streaming on its own shards (MDS), with its JPEG decoder.

It needs an older numpy than we do, so it runs in an environment of its own: `isnet bench loader --mds-python PATH`.
`"decoder": "ours"` takes our decoder, where that environment has simplejpeg.
`python -m jobs.bench.readers.mds pack SPEC` packs; pictures come as files of a folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from isnet.torchvision_shim import ensure_torchvision
from jobs.bench.readers.serving import Open, Spec, crop_of_bytes, main

ensure_torchvision()

import streaming  # noqa: E402 - it imports torchvision
from streaming.base.util import clean_stale_shared_memory  # noqa: E402


def pack(spec: Spec) -> None:
    """Packs the files of `spec["pictures"]` in a cycle."""
    files = sorted(Path(spec["pictures"]).iterdir())
    columns = {"image": "bytes"}
    with streaming.MDSWriter(out=spec["local"], columns=columns, size_limit=spec["shard_bytes"]) as writer:
        for number in range(spec["samples"]):
            writer.write({"image": files[number % len(files)].read_bytes()})


class StreamingPictures(streaming.StreamingDataset):  # type: ignore[misc]
    """Pictures cropped from the bytes of a JPEG."""

    def __init__(self, crop: Callable[[bytes | memoryview], torch.Tensor], **options: Any) -> None:
        super().__init__(**options)
        self._crop = crop

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._crop(super().__getitem__(index)["image"])


def opened(spec: Spec) -> Open:
    """Streams of mosaicml-streaming."""
    os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
    crop = crop_of_bytes(spec)

    @contextmanager
    def stream(*, workers: int, start: int) -> Iterator[Iterator[int]]:
        # What an earlier stream of this process has left behind makes the next one fail.
        clean_stale_shared_memory()
        local = tempfile.mkdtemp(prefix="bench-mds-")
        try:
            dataset = StreamingPictures(crop, remote=spec["mds"], local=local, shuffle=True, batch_size=spec["batch"])
            loader = streaming.StreamingDataLoader(dataset, batch_size=spec["batch"], num_workers=workers)
            if start:
                # Its own format of where an epoch stands.
                state = {"epoch": 0, "sample_in_epoch": start, "num_canonical_nodes": 1, "shuffle_seed": 9176}
                loader.load_state_dict(state | {"initial_physical_nodes": 1})
            batches = iter(loader)
            yield (len(batch) for batch in batches)
            batches.close()
            loader._iterator and loader._iterator._shutdown_workers()  # type: ignore[union-attr]
        finally:
            shutil.rmtree(local, ignore_errors=True)

    return stream


if __name__ == "__main__":
    main(opened, version=streaming.__version__, pack=pack)
