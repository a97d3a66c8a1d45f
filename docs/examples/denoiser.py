"""A model of your own on trainplane: a small network that removes noise from photos."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_model
from torch import nn

from trainplane.task import Exported, Task, Validation

SIDE, NOISE = 32, 0.1


def crop(sample, rng):
    """Decodes a photo and takes a random crop of it."""
    data = next(sample[kind] for kind in ("jpg", "png", "webp") if kind in sample)
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32) / 255
    top, left = (rng.integers(side - SIDE + 1) for side in pixels.shape[:2])
    return {"clean": torch.from_numpy(pixels[top : top + SIDE, left : left + SIDE]).permute(2, 0, 1)}


class Denoiser(Task):
    """Two convolutions that predict the noise."""

    def __init__(self, config, device):
        super().__init__(config, device)
        layers = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1)
        self.network = nn.Sequential(*layers).to(device)
        self.adam = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def modules(self):  # noqa: D102
        return {"network": self.network}

    def optimizers(self):  # noqa: D102
        return {"adam": self.adam}

    @classmethod
    def transform_of(cls, config):  # noqa: D102
        return crop

    def errors(self, clean, generator=None):
        """Squared error of each picture, after noise was added and removed."""
        noise = NOISE * torch.randn(clean.shape, generator=generator).to(clean)
        return (noise - self.network(clean + noise)).square().mean(dim=(1, 2, 3))

    def step(self, micro_batches, *, global_batch, reduce):
        """Adds up the gradients of all ranks, then updates once."""
        self.adam.zero_grad()
        losses = [self.errors(batch["clean"]).sum() / global_batch for batch in micro_batches]
        sum(losses).backward()
        reduce.sum_([weight.grad for weight in self.network.parameters()])
        self.adam.step()
        return {"loss": sum(losses).detach()}

    def validate(self, samples, *, reduce, gallery):
        """Measures held-out photos, each with the same crop and noise every time."""
        sums = torch.zeros(2, dtype=torch.float64)
        for index, sample in samples:
            clean = crop(sample, np.random.default_rng(index))["clean"][None].to(self.device)
            error = self.errors(clean, torch.Generator().manual_seed(index)).detach().double().cpu()
            sums += torch.cat([error, torch.ones(1, dtype=torch.float64)])
        reduce.sum_([sums])
        return Validation({"psnr": float(-10 * torch.log10(sums[0] / sums[1]))})

    def export(self, folder):
        """Writes the weights; to be served, this module would need `_load_pyfunc`, MLflow's loader."""
        save_model(self.network, str(folder / "denoiser.safetensors"))
        return Exported(loader_module="denoiser", code_paths=[Path(__file__)], requirements=["torch"])
