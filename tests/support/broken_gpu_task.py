"""A tiny task that fails as with a broken GPU on one node: that of rank 0 in the third step of the first attempt."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from tiny_task import TinyConfig, TinyTask


class BrokenGpuConfig(TinyConfig):
    """The file that names the broken node, once it is broken."""

    task: str = "broken_gpu_task:BrokenGpuTask"
    broken: str


class BrokenGpuTask(TinyTask):
    """Raises what torch raises when memory of a GPU is damaged."""

    Config = BrokenGpuConfig

    def step(self, micro_batches, *, global_batch, reduce):
        import ray

        node, file = ray.get_runtime_context().get_node_id(), Path(self.config.broken)
        if self.num_steps == 2 and torch.distributed.get_rank() == 0 and not file.exists():
            # Whole or not at all, as another rank reads it.
            file.with_suffix(".new").write_text(node)
            os.replace(file.with_suffix(".new"), file)
        if file.exists() and file.read_text() == node:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be …")
        return super().step(micro_batches, global_batch=global_batch, reduce=reduce)
