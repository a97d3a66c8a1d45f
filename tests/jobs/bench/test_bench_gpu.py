"""The bench of GPUs: sections in processes of their own, on a processor in small; a refusal without a GPU."""

import json

import pytest
import torch

from jobs.bench.gpu import run_section
from jobs.bench.on_gpu.cards import peak_tflops
from jobs.bench.on_gpu.page import page
from jobs.bench.on_gpu.section import SECTIONS
from jobs.cli.main import main


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_is_needed(capfd):
    assert main(["bench", "gpu"]) == 2
    said = capfd.readouterr().err
    assert "needs an NVIDIA GPU, its driver and torch's CUDA build" in said
    assert "isnet bench gpu --device cpu" in said
    assert main(["bench", "gpu", "--device", "cpu", "--only", "steps,stpes"]) == 2
    assert "there is no section 'stpes'" in capfd.readouterr().err


def test_a_section_holds_and_the_page_says_so(tmp_path, capfd):
    words = ["bench", "gpu", "--device", "cpu", "--only", "adam", "--out", str(tmp_path), "--minutes", "5", "--json"]
    assert main(words) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["sections"]["adam"]["fused"] is report["sections"]["adam"]["next_moves"] is True
    assert report == json.loads((tmp_path / "bench-gpu.json").read_text())
    assert "| adam | ok |" in (tmp_path / "bench-gpu.md").read_text()


def test_a_section_that_breaks_or_takes_too_long_is_told_and_stops_no_other():
    assert "not done after" in run_section("steps", "cpu", limit_s=0.1)["failed"]
    broken = run_section("no-such-section", "cpu", limit_s=60)
    assert broken["ok"] is False
    assert "KeyError" in broken["failed"]
    report = {"machine": {"gpu": "X", "torch": "2"}, "device": "cpu", "seconds": 1.0, "sections": {"steps": broken}}
    assert "failed: KeyError" in page(report)


def test_the_longest_name_of_a_card_counts():
    assert peak_tflops("NVIDIA H100 PCIe") == 756.0
    assert peak_tflops("NVIDIA H200") == 989.0
    assert peak_tflops("some other card") is None


@pytest.mark.nightly
@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_holds_on_a_processor(name):
    result = run_section(name, "cpu", limit_s=600)
    assert result["ok"], result
