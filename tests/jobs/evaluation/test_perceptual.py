"""LPIPS and FID in an evaluation. Weights are random, of the real layouts: the real ones have to be downloaded."""

import csv
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from isnet.metrics_perceptual import INCEPTION_URL, distances
from isnet.torchvision_shim import ensure_torchvision
from jobs.evaluation.perceptual import Networks, distances_by_bin, open_networks
from jobs.evaluation.scores import from_csv


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Torch's folder of checkpoints, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def alexnet(checkpoints):
    ensure_torchvision()
    import torchvision

    torch.manual_seed(0)
    state = torchvision.models.alexnet(weights=None).features.state_dict()
    path = checkpoints / "alexnet-owt-7be5be79.pth"
    torch.save({f"features.{name}": tensor for name, tensor in state.items()}, path)
    return path


@pytest.fixture
def held(isnet, photos):
    assert isnet("data", "pack", photos, "held").status == 0
    return isnet


def test_lpips_stands_in_the_report_in_every_form(held, alexnet, tmp_path):
    words = ["evaluate", "telea=classical:telea", "mean=classical:mean", "held", "--size", "64", "--lpips", "alex"]
    found = held(*words, "-o", tmp_path / "report", "--json")
    assert found.status == 0, found.err
    report = found.json()
    assert report["perceptual"] == ["lpips-alex"]
    telea, mean = report["models"]
    # A continued picture is nearer to the truth than a gray hole, for random features, too.
    assert 0 < telea["bins"]["all"]["lpips"] < mean["bins"]["all"]["lpips"]
    low, high = telea["intervals"]["all"]["lpips"]
    assert low < telea["bins"]["all"]["lpips"] < high
    compared = report["comparisons"]["mean"]["all"]["lpips"]
    assert compared["difference"] == pytest.approx(telea["bins"]["all"]["lpips"] - mean["bins"]["all"]["lpips"])
    assert compared["p_better"] < 0.05
    folder = tmp_path / "report"
    text = (folder / "report.md").read_text()
    assert "## LPIPS by hole ratio" in text
    # No cell of its table is empty, the one over the paper's bins neither.
    table = text.partition("## LPIPS by hole ratio")[2].partition("##")[0]
    assert "|  |" not in table
    assert "LPIPS 0.1 on alex, lower is better" in text
    assert "LPIPS" in (folder / "report.html").read_text()
    scores = from_csv((folder / "scores-0.csv").read_text())
    assert np.mean([one.lpips for one in scores]) == pytest.approx(telea["bins"]["all"]["lpips"])
    rows = list(csv.DictReader(io.StringIO((folder / "report.csv").read_text())))
    [row] = [r for r in rows if (r["model"], r["bin"], r["metric"]) == ("telea", "all", "lpips")]
    assert (float(row["mean"]), row["better"]) == (telea["bins"]["all"]["lpips"], "lower")


def test_an_evaluation_with_lpips_is_a_run_of_its_own(held, alexnet):
    words = ["evaluate", "classical:mean", "held", "--size", "64", "--pictures", "2", "--json"]
    plain, with_lpips, again = (held(*words, *more).json() for more in ([], ["--lpips", "alex"], []))
    assert plain["run_id"] == again["run_id"] != with_lpips["run_id"]
    assert "lpips" not in plain["bins"]["all"]
    assert {name: value for name, value in with_lpips["bins"]["all"].items() if name != "lpips"} == plain["bins"]["all"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--size", "48", "--lpips", "alex"], "LPIPS needs squares of 64 pixels, and got 48; give --size 64"),
        (["--fid"], "FID needs 1,000 pictures or more, and got 8; with fewer it is noise: leave --fid out"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(held, alexnet, home, words, sentence):
    found = held("evaluate", "classical:mean", "held", *words)
    assert found.status == 2
    assert sentence in found.err
    assert not (home / "evaluations").exists()


def test_weights_that_cannot_be_had_say_where_to_put_them(held, checkpoints, monkeypatch):
    def refuse(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    found = held("evaluate", "classical:mean", "held", "--size", "64", "--lpips", "alex")
    assert found.status == 2
    assert "cannot be downloaded (no route to host)" in found.err
    assert f"put it at {checkpoints / 'alexnet-owt-7be5be79.pth'}" in found.err


def test_fid_is_that_of_the_bins_that_have_enough_pairs():
    rng = np.random.default_rng(0)
    features = list(rng.standard_normal((1600, 2, 4)))
    bins = ["10-20"] * 1000 + ["20-30"] * 600
    found = distances_by_bin(bins, features, groups=["all", "10-20", "20-30"])
    assert set(found) == {"all", "10-20"}
    table = np.stack(features)
    assert found["all"] == distances(table[:, 1], table[:, 0])
    assert found["10-20"] == distances(table[:1000, 1], table[:1000, 0])


def test_networks_reach_a_process_that_has_imported_nothing(alexnet, tmp_path):
    networks = open_networks("alex", fid=False)
    (tmp_path / "networks.pickle").write_bytes(pickle.dumps(networks))
    code = (
        "import pickle, sys, pathlib; networks = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()); import torch; "
        "print(networks.names, networks.distance(torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)))"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "networks.pickle")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = networks.distance(torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64))
    assert done.stdout.startswith("('lpips-alex',)")
    assert float(done.stdout.split()[-1]) == pytest.approx(expected, rel=1e-5)


class _Colors(nn.Module):
    """Stands for Inception: the mean of each quarter's colours."""

    def forward(self, image_B3HW):
        return nn.functional.adaptive_avg_pool2d(image_B3HW, 2).flatten(1).double().numpy()


def test_features_of_an_evaluation_are_those_of_composite_and_truth():
    truth = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    composite = truth.clone()
    composite[..., :4, :4] = 0
    table = Networks(None, None, _Colors()).features(composite, truth)
    assert table.shape == (2, 12)
    assert (table[0][[0, 4, 8]] == 0).all()
    assert np.array_equal(table[0][1:4], table[1][1:4])


def test_fid_with_the_real_network(held, checkpoints, monkeypatch):
    inception = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="FID needs the extra perceptual-metrics"
    )
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        # Its shapes alone are wanted here, not the download.
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        state = inception.FeatureExtractorInceptionV3("x", ["2048"]).state_dict()
    torch.save(state, checkpoints / INCEPTION_URL.rpartition("/")[2])
    # Eight pictures with six holes each show that all of it fits together.
    monkeypatch.setattr("isnet.metrics_perceptual.MIN_PICTURES", 8)
    found = held("evaluate", "classical:mean", "held", "--size", "64", "--fid", "--json")
    assert found.status == 0, found.err
    report = found.json()
    assert report["perceptual"] == ["fid"]
    assert report["bins"]["all"]["fid"] > 0
    assert {"p_ids", "u_ids"} <= set(report["bins"]["all"])
    # And it reaches tasks of other hosts.
    networks = open_networks(None, fid=True)
    pair = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(pickle.loads(pickle.dumps(networks)).features(*pair), networks.features(*pair))
