"""LPIPS, FID, P-IDS and U-IDS of fillings, behind an extra.

    pip install "isnet-platform[perceptual-metrics]"

* LPIPS: Zhang et al. 2018, version 0.1, on AlexNet or VGG16 (name it: the two are not on one scale).
* FID: Heusel et al. 2017, on torch-fidelity's Inception, 2048 features, its TensorFlow-like resize.
* P-IDS, U-IDS: Zhao et al. 2021, a linear SVM on the same features; 0.5 and 0.5 is indistinguishable, 0 and 0 worst.

Weights come from a file or are downloaded once and checked against the digest in their name. No pickled code is run.
The last three compare distributions: below a thousand pictures they are noise, and refused unless `allow_few` is set.

Not here: PSNR, SSIM, L1 (`isnet.metrics`).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from isnet.errors import InputError
from isnet.formats.tensor_files import check_tensors, read_tensor_file
from isnet.torchvision_shim import ensure_torchvision

Backbone = Literal["alex", "vgg"]
Features = NDArray[np.float64]

MIN_PICTURES = 1000
# Smaller pictures vanish in the pools of LPIPS' backbones.
MIN_LPIPS_SIDE = 64
NUM_FEATURES = 2048
# Pictures that go through Inception together.
_BATCH = 16

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


class Lpips(nn.Module):
    """LPIPS distance of pairs of pictures, 0 for equal ones.

    `weights` is a file with torchvision's ImageNet weights of AlexNet or VGG16 (a state dict); None downloads it.
    """

    def __init__(self, backbone: Backbone = "alex", *, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        if backbone not in get_args(Backbone):
            raise InputError(f"LPIPS backbone {backbone!r} is unknown; need one of {', '.join(get_args(Backbone))}")
        ensure_torchvision()
        import torchvision

        models = torchvision.models
        origin = {"alex": models.AlexNet_Weights, "vgg": models.VGG16_Weights}[backbone]
        state = _state_dict(weights, origin.DEFAULT.url)
        self._build(backbone)
        _load_backbone(self.net.net, state, backbone)

    def _build(self, backbone: Backbone) -> None:
        ensure_torchvision()
        # The public class downloads the backbone and unpickles it; this one, behind it, lets us load it ourselves.
        from torchmetrics.functional.image.lpips import _LPIPS

        self.backbone = backbone
        self.net = _LPIPS(net=backbone, pnet_rand=True)
        self.requires_grad_(False).eval()

    def __reduce__(self) -> tuple[Any, ...]:
        # Tensors travel, not torchvision's classes: a process that has imported nothing could not read those.
        return _restored_lpips, (self.backbone, self.net.state_dict())

    @torch.no_grad()
    def forward(self, filled_B3HW: Tensor, truth_B3HW: Tensor) -> Tensor:
        """Returns (B,) float32 for RGB in [0, 1]."""
        if min(truth_B3HW.shape[-2:]) < MIN_LPIPS_SIDE:
            raise InputError(
                f"pictures of {tuple(truth_B3HW.shape[-2:])} pixels; LPIPS needs {MIN_LPIPS_SIDE} a side or more"
            )
        distances_B111: Tensor = self.net(filled_B3HW.float(), truth_B3HW.float(), normalize=True)
        return distances_B111.flatten()


def _restored_lpips(backbone: Backbone, state: dict[str, Tensor]) -> Lpips:
    lpips = Lpips.__new__(Lpips)
    nn.Module.__init__(lpips)
    lpips._build(backbone)
    lpips.net.load_state_dict(state)
    return lpips


def _load_backbone(net: nn.Module, state: dict[str, Tensor], backbone: str) -> None:
    """Loads torchvision's `features.N.*` as LPIPS' `sliceK.N.*`."""
    targets = net.state_dict()
    sources = {name: state.get("features." + name.split(".", 1)[1]) for name in targets}
    wrong = [name for name, tensor in sources.items() if tensor is None or tensor.shape != targets[name].shape]
    if wrong:
        raise InputError(
            f"the weights do not fit the {backbone} backbone of LPIPS: {len(wrong)} of {len(targets)} tensors "
            f"({wrong[0]} first) are missing or of another shape; need torchvision's ImageNet weights of that network"
        )
    net.load_state_dict({name: tensor for name, tensor in sources.items() if tensor is not None})


class InceptionFeatures(nn.Module):
    """FID's 2048 features, for RGB pictures of any size.

    `weights` is torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`; None downloads it.
    """

    def __init__(self, *, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        # What is to be installed is told before weights are asked for.
        _extractor()
        self._build(_state_dict(weights, INCEPTION_URL))

    def _build(self, state: dict[str, Tensor]) -> None:
        # torch-fidelity unpickles the file at its path: it gets one written here, of checked tensors.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "inception.pth")
            torch.save(state, path)
            try:
                self.net = _extractor()(
                    "inception-v3-compat", [str(NUM_FEATURES)], feature_extractor_weights_path=str(path)
                )
            except RuntimeError as error:
                raise InputError(
                    "the weights do not fit FID's Inception; need torch-fidelity's file "
                    f"{INCEPTION_URL.rpartition('/')[2]} ({str(error).splitlines()[0]})"
                ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        # As `Lpips`: tensors travel.
        return _restored_inception, (self.net.state_dict(),)

    @torch.no_grad()
    def forward(self, image_B3HW: Tensor) -> Features:
        """Returns float64 (B, 2048) of RGB rounded to 8 bits."""
        eight_bit = (image_B3HW.clamp(0, 1) * 255).round().to(torch.uint8)
        starts = range(0, len(eight_bit), _BATCH)
        parts = [self.net(eight_bit[start : start + _BATCH])[0].double().cpu().numpy() for start in starts]
        return np.concatenate(parts)


def _extractor() -> Any:
    """Class of FID's network, from torch-fidelity."""
    try:
        ensure_torchvision()
        from torch_fidelity.feature_extractor_inceptionv3 import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            FeatureExtractorInceptionV3,
        )
    except ImportError as error:
        raise InputError(
            f"FID needs the package torch-fidelity ({error}); "
            'install the extra: pip install "isnet-platform[perceptual-metrics]"'
        ) from error
    return FeatureExtractorInceptionV3


def _restored_inception(state: dict[str, Tensor]) -> InceptionFeatures:
    features = InceptionFeatures.__new__(InceptionFeatures)
    nn.Module.__init__(features)
    features._build(state)
    return features


def _state_dict(weights: str | os.PathLike[str] | None, url: str) -> dict[str, Tensor]:
    """Reads tensors by name, from a file or a download."""
    path = Path(weights) if weights is not None else _downloaded(url)
    if not path.is_file():
        raise InputError(f"weights {path} are no file; fetch {url} and give its path")
    state = read_tensor_file(path, advice=f"fetch {url} again")
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"weights {path} are no table of tensors; fetch {url} and give its path")
    check_tensors(state, path)
    return state


def _downloaded(url: str) -> Path:
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir(), "checkpoints", name)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Such names end in the first digits of the file's SHA-256.
    digest = Path(name).stem.rpartition("-")[2]
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{url} cannot be downloaded ({error}); fetch it by other means, and put it at {path}"
        ) from error
    return path


def distances(real_ND: Features, filled_ND: Features, *, allow_few: bool = False) -> dict[str, float]:
    """Computes `fid`, `p_ids` and `u_ids` from features.

    Both tables have the same picture in the same row. Raises InputError below 1,000 pictures unless `allow_few`: such
    figures are noise, comparable to nothing.
    """
    if real_ND.shape != filled_ND.shape or real_ND.ndim != 2:
        raise InputError(f"features {real_ND.shape} and {filled_ND.shape}; need two tables (N, D) of one shape")
    if len(real_ND) < 2 or (len(real_ND) < MIN_PICTURES and not allow_few):
        raise InputError(
            f"{len(real_ND)} pictures; FID, P-IDS and U-IDS need {MIN_PICTURES} or more; "
            "take more, or ask for them with allow_few and call them noise"
        )
    p_ids, u_ids = inception_scores(real_ND, filled_ND)
    return {"fid": frechet_distance(real_ND, filled_ND), "p_ids": p_ids, "u_ids": u_ids}


def frechet_distance(real_ND: Features, filled_ND: Features) -> float:
    """Fréchet distance of two tables of features, at least 0."""
    # Heusel et al.: |μ₁−μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½).
    centred = [table - table.mean(axis=0) for table in (real_ND, filled_ND)]
    mean_term = float(((real_ND.mean(axis=0) - filled_ND.mean(axis=0)) ** 2).sum())
    scatters = [float((table**2).sum()) for table in centred]
    # With A the centred tables, Σ = AᵀA/(N−1), and the eigenvalues of Σ₁Σ₂ are the squared singular values of A₁A₂ᵀ:
    # their sum needs no root of a matrix that rounding may have made indefinite.
    first, second = (_compressed(table) for table in centred)
    cross = float(np.linalg.svd(first @ second.T, compute_uv=False).sum())
    return max(0.0, mean_term + (sum(scatters) - 2 * cross) / (len(real_ND) - 1))


def _compressed(table_ND: Features) -> Features:
    # A table with the same scatter TᵀT and no more rows than columns: R of its QR decomposition.
    if len(table_ND) <= table_ND.shape[1]:
        return table_ND
    return np.asarray(np.linalg.qr(table_ND, mode="r"), np.float64)


def inception_scores(real_ND: Features, filled_ND: Features) -> tuple[float, float]:
    """Computes (P-IDS, U-IDS) with a linear SVM."""
    # P-IDS: how often it takes the filling for more real than its original. U-IDS: how often it errs.
    from sklearn.svm import LinearSVC

    labels = np.repeat([1, 0], len(real_ND))
    features = np.concatenate([real_ND, filled_ND])
    svm: Any = LinearSVC(dual=False, random_state=0).fit(features, labels)
    p_ids = float(np.mean(svm.decision_function(filled_ND) > svm.decision_function(real_ND)))
    return p_ids, float(1 - svm.score(features, labels))
