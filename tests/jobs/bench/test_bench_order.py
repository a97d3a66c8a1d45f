"""What `isnet bench order` tells: figures that follow from the order alone, and costs of fresh processes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jobs.bench import order as bench
from jobs.cli.main import main


def test_all_ranks_together_ask_for_an_epochs_bytes_once() -> None:
    for world in (1, 4, 64):
        assert 0.97 < bench.bytes_read(world, samples=4096) <= 1.0


def test_shuffling_is_told_beside_a_full_shuffle_of_the_same_classes() -> None:
    row = bench.shuffling_of(32, samples=2**14)
    assert row["classes_in_a_batch"]["ours"] == pytest.approx(row["classes_in_a_batch"]["full_shuffle"], rel=0.02)
    assert row["classes_in_64_steps"]["ours"] < row["classes_in_64_steps"]["full_shuffle"] < 365
    assert row["displacement"]["ours"] == pytest.approx(1 / 3, abs=0.02)
    # Chance alone: its deviation over seeds is 0.033, one over the root of the 1,024 blocks that are permuted.
    assert row["rank_correlation"]["ours"] < 4 / 1024**0.5


def test_the_memory_of_a_plan_is_not_that_of_the_process_that_asks_for_it() -> None:
    held = np.ones(2**27, np.uint8)
    assert bench._in_a_fresh_process("plan", "10000", "4")["mib"] < held.nbytes / 2**20 / 2


def test_a_host_among_others_finds_again_what_chance_has_brought_to_it_before() -> None:
    shares = bench.found_again(8, epochs=4, samples=2**13)
    assert shares == pytest.approx([1 - (7 / 8) ** epoch for epoch in range(4)], abs=0.02)
    assert bench.found_again(1, epochs=2, samples=2**13) == pytest.approx([0, 1], abs=0.01)


@pytest.mark.nightly
def test_the_command_prints_every_figure_with_its_target(capfd: pytest.CaptureFixture[str]) -> None:
    small = ["--samples", "200000", "--ranks", "8", "--index-samples", "10000"]
    assert main(["bench", "order", "--json", *small]) == 0
    report = json.loads(capfd.readouterr().out)
    aimed = [figure for figure in report["figures"] if figure["target"] is not None]
    assert [figure["unit"] for figure in aimed] == ["s", "MiB", "s", "bytes a sample", "s", "MiB", "ratio"]
    assert all(figure["met"] == (figure["value"] <= figure["target"]) for figure in aimed)
    # Time is the machine's affair; memory and bytes are not.
    assert all(figure["met"] for figure in aimed if figure["unit"] != "s")
    assert report["plan"]["cpu_s"] > 0
