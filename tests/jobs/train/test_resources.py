"""Ranks that fit here."""

import subprocess
import sys

import pytest
import torch

from jobs.config import load_run_config
from jobs.train.resources import bf16_line, processor_line


def test_looking_for_room_does_not_import_ray(home):
    """A private cluster's token is set before Ray is imported; later it would be too late (`cluster.session`)."""
    code = (
        "import sys; import jobs.commands.train\n"
        "from jobs.config import load_run_config; from jobs.train.resources import ranks_here\n"
        "ranks_here(load_run_config('demo', [])); assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("preset", "settings", "said"),
    [
        ("places2", ["train.workers=1"], True),
        ("places2", ["train.workers=1", "train.use_gpu=false"], False),
        ("demo", ["train.workers=1"], False),
    ],
)
def test_a_run_of_the_papers_size_says_that_it_uses_processors(home, preset, settings, said):
    line = processor_line(load_run_config(preset, [*settings, "data.train=a", "data.val=null"]))
    assert (line is not None and "no GPU" in line) == said


@pytest.mark.parametrize("preset", ["finetune", "demo", "demo+laptop"])
def test_what_a_newcomer_trains_needs_no_bf16(preset):
    assert load_run_config(preset, []).train.precision == "fp32"


@pytest.mark.parametrize("has_bf16", [True, False])
def test_bf16_on_a_processor_without_it_is_said(monkeypatch, has_bf16):
    monkeypatch.setattr("jobs.train.resources.computes_bf16", lambda: has_bf16)
    line = bf16_line(load_run_config("starter", []))
    assert (line is not None and "train.precision=fp32" in line) == (not has_bf16)
    assert bf16_line(load_run_config("starter", ["train.precision=fp32"])) is None
