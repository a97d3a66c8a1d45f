"""litdata on its own chunks, decoded by Pillow: torchvision's decoder, which its image type uses, is not everywhere.

`python -m jobs.bench.readers.chunks pack SPEC` packs; pictures come as files of a folder.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from isnet.torchvision_shim import ensure_torchvision
from jobs.bench.readers.serving import Open, Spec, serve
from jobs.bench.readers.view import View

ensure_torchvision()

import litdata  # noqa: E402 - it may import torchvision
from litdata.streaming.downloader import _OBSTORE_CLIENT_OPTIONS  # noqa: E402


def pack(spec: Spec) -> None:
    """Write `spec["samples"]` samples, going round the files of `spec["pictures"]`."""
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
    return Path(file).read_bytes()


class Pictures(litdata.StreamingDataset):  # type: ignore[misc]
    """One picture as the bench's view."""

    def __init__(self, view: View, **options: Any) -> None:
        super().__init__(**options)
        self._view = view

    def __getitem__(self, at: Any) -> torch.Tensor:
        return self._view.of_bytes(super().__getitem__(at))


def opened(spec: Spec) -> Open:
    # Its S3 client refuses a server without TLS otherwise.
    _OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    view = View(spec["size"], spec["resize"])

    @contextmanager
    def stream(*, workers: int, start: int) -> Iterator[Iterator[int]]:
        local = tempfile.mkdtemp(prefix="bench-litdata-")
        try:
            dataset = Pictures(
                view,
                input_dir=spec["chunks"],
                cache_dir=local,
                shuffle=True,
                storage_options={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]},
            )
            loader = litdata.StreamingDataLoader(dataset, batch_size=spec["batch"], num_workers=workers)
            if start:
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
    torch.set_num_threads(1)
    if sys.argv[1] == "pack":
        pack(json.loads(sys.argv[2]))
    else:
        serve(opened, facts=lambda: {"version": litdata.__version__})
