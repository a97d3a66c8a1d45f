"""litdata on its own chunks, decoded by Pillow.

Its image type uses torchvision's decoder, which is not everywhere. `"decoder": "ours"` takes ours instead.
`python -m jobs.bench.readers.chunks pack SPEC` packs; pictures come as files of a folder.
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

import litdata  # noqa: E402 - it may import torchvision
from litdata.streaming.downloader import _OBSTORE_CLIENT_OPTIONS  # noqa: E402


def pack(spec: Spec) -> None:
    """Packs the files of `spec["pictures"]` in a cycle."""
    files = [str(file) for file in sorted(Path(spec["pictures"]).iterdir())]
    litdata.optimize(
        fn=read_file,
        inputs=[files[number % len(files)] for number in range(spec["samples"])],
        output_dir=spec["local"],
        chunk_bytes=spec["shard_bytes"],
        num_workers=1,
        reorder_files=False,
        verbose=False,
    )


def read_file(file: str) -> bytes:
    """Sample of one file."""
    return Path(file).read_bytes()


class LitdataPictures(litdata.StreamingDataset):  # type: ignore[misc]
    """Pictures cropped from the bytes of a JPEG."""

    def __init__(self, crop: Callable[[bytes | memoryview], torch.Tensor], **options: Any) -> None:
        super().__init__(**options)
        self._crop = crop

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._crop(super().__getitem__(index))


def opened(spec: Spec) -> Open:
    """Streams of litdata."""
    # Its S3 client refuses a server without TLS otherwise.
    _OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    crop = crop_of_bytes(spec)

    @contextmanager
    def stream(*, workers: int, start: int) -> Iterator[Iterator[int]]:
        local = tempfile.mkdtemp(prefix="bench-litdata-")
        try:
            dataset = LitdataPictures(
                crop,
                input_dir=spec["chunks"],
                cache_dir=local,
                shuffle=True,
                storage_options={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]},
            )
            loader = litdata.StreamingDataLoader(dataset, batch_size=spec["batch"], num_workers=workers)
            if start:
                # It resumes by the number of samples it has given.
                state = loader.state_dict()
                state["dataset"]["num_samples_yielded"] = start
                loader.load_state_dict(state)
            batches = iter(loader)
            yield (len(batch) for batch in batches)
            batches.close()
        finally:
            shutil.rmtree(local, ignore_errors=True)

    return stream


if __name__ == "__main__":
    main(opened, version=litdata.__version__, pack=pack)
