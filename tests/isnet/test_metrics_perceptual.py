"""LPIPS, FID, P-IDS and U-IDS: loading weights, agreement with references, refusals."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.linalg import sqrtm

from isnet.errors import InputError
from isnet.metrics_perceptual import (
    INCEPTION_URL,
    InceptionFeatures,
    Lpips,
    distances,
    frechet_distance,
    inception_scores,
)
from isnet.torchvision_shim import ensure_torchvision

ensure_torchvision()
import torchvision  # noqa: E402


def features(count, width=12, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((width, width))
    return rng.standard_normal((count, width)) @ mixing + shift


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """A file with weights of AlexNet's shapes; random ones, since the real ones have to be downloaded."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    state = torchvision.models.alexnet(weights=None).features.state_dict()
    torch.save({f"features.{name}": tensor for name, tensor in state.items()}, path)
    return path


@pytest.mark.parametrize(("count", "width"), [(400, 12), (30, 64)])
def test_frechet_distance_is_the_formula(count, width):
    real, filled = features(count, width), features(count, width, shift=0.3, seed=1)
    covariances = [np.cov(table, rowvar=False) for table in (real, filled)]
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    expected = ((real.mean(0) - filled.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(real, filled) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_agrees_with_torchmetrics():
    from torchmetrics.image.fid import _compute_fid

    real, filled = (torch.from_numpy(features(300, seed=seed)) for seed in (0, 1))
    expected = _compute_fid(real.mean(0), torch.cov(real.T), filled.mean(0), torch.cov(filled.T))
    assert frechet_distance(real.numpy(), filled.numpy()) == pytest.approx(expected.item(), rel=1e-6)


def test_equal_features_have_distance_zero_and_a_shift_counts_squared():
    real = features(200)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(real, real + 0.5) == pytest.approx(12 * 0.25)


def test_the_svm_cannot_tell_equal_distributions_and_tells_shifted_ones():
    real = features(600)
    p_ids, u_ids = inception_scores(real, features(600, seed=1))
    assert p_ids == pytest.approx(0.5, abs=0.1)
    assert u_ids == pytest.approx(0.5, abs=0.1)
    assert inception_scores(real, features(600, shift=30.0, seed=1)) == (0, 0)


def test_few_pictures_are_refused_unless_told():
    real, filled = features(999), features(999, seed=1)
    with pytest.raises(InputError, match="999 pictures; FID, P-IDS and U-IDS need 1000 or more"):
        distances(real, filled)
    found = distances(real, filled, allow_few=True)
    assert set(found) == {"fid", "p_ids", "u_ids"}
    assert all(np.isfinite(value) for value in found.values())
    assert distances(features(1000), features(1000, seed=1))["fid"] > 0
    with pytest.raises(InputError, match=r"features \(999, 12\) and \(5, 12\)"):
        distances(real, filled[:5], allow_few=True)


def test_lpips_loads_its_backbone_from_a_file_and_its_heads_from_the_package(alexnet):
    metric = Lpips("alex", weights=alexnet)
    loaded = torch.load(alexnet, weights_only=True)
    assert torch.equal(metric.net.net.state_dict()["slice1.0.weight"], loaded["features.0.weight"])
    assert (metric.net.lin0.model[-1].weight > 0).any()
    truth = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    noisy = (truth + 0.2 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    slightly = truth * 0.9 + noisy * 0.1
    assert metric(truth, truth).tolist() == [0, 0, 0]
    assert metric(noisy, truth).shape == (3,)
    assert (metric(noisy, truth) > metric(slightly, truth)).all()
    assert metric(noisy[:1], truth[:1]).tolist() == pytest.approx(metric(noisy, truth)[:1].tolist(), rel=1e-4)


def test_weights_may_be_safetensors(alexnet, tmp_path):
    save_file(torch.load(alexnet, weights_only=True), tmp_path / "alexnet.safetensors")
    first, second = Lpips(weights=alexnet), Lpips(weights=tmp_path / "alexnet.safetensors")
    assert len(list(first.parameters())) >= 10
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


class Trap:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_weights_that_do_not_fit_are_named(alexnet, tmp_path, capsys):
    with pytest.raises(InputError, match="do not fit the vgg backbone of LPIPS"):
        Lpips("vgg", weights=alexnet)
    with pytest.raises(InputError, match=r"none.pth are no file; fetch https://download.pytorch.org"):
        Lpips(weights=tmp_path / "none.pth")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"junk.pth cannot be read"):
        Lpips(weights=tmp_path / "junk.pth")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"junk.safetensors cannot be read"):
        Lpips(weights=tmp_path / "junk.safetensors")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(InputError, match="are no table of tensors"):
        Lpips(weights=tmp_path / "list.pth")
    torch.save({"features.0.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(InputError, match=r"trap.pth cannot be read"):
        Lpips(weights=tmp_path / "trap.pth")
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="backbone 'resnet' is unknown; need one of alex, vgg"):
        Lpips("resnet")
    with pytest.raises(InputError, match="LPIPS needs 64 a side"):
        Lpips(weights=alexnet)(torch.zeros(1, 3, 32, 64), torch.zeros(1, 3, 32, 64))


def test_weights_that_cannot_be_downloaded_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no route to host")))
    with pytest.raises(
        InputError, match=r"alexnet.*cannot be downloaded \(no route to host\); fetch it by other means"
    ):
        Lpips()


def test_inception_features_come_from_a_file(tmp_path):
    inception = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="FID needs the extra perceptual-metrics"
    )
    torch.manual_seed(0)
    path = tmp_path / INCEPTION_URL.rpartition("/")[2]
    with pytest.MonkeyPatch.context() as patch:
        # only its shapes are wanted here, not the download
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        shapes = inception.FeatureExtractorInceptionV3("x", ["2048"]).state_dict()
    torch.save(shapes, path)
    extractor = InceptionFeatures(weights=path)
    found = extractor(torch.rand(18, 3, 40, 50, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (18, 2048)
    assert found.dtype == np.float64
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "wrong.pth")
    with pytest.raises(InputError, match="do not fit FID's Inception"):
        InceptionFeatures(weights=tmp_path / "wrong.pth")


def test_without_the_extra_fid_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(InputError, match=r'pip install "isnet-platform\[perceptual-metrics\]"'):
        InceptionFeatures(weights="unused")
