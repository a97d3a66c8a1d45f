"""A preset simulated on many GPUs: its own bytes and arithmetic, and a measured step where there is one."""

import json

import pytest

from jobs.cli.main import main


def simulated(capfd, *words):
    status = main(["plan", "simulate", *words, "--json"])
    return status, json.loads(capfd.readouterr().out)


def test_a_measured_step_takes_the_place_of_the_assumed_one(tmp_path, capfd):
    file = tmp_path / "bench-gpu.json"
    ways = {"reference": {"tflops": 500.0}, "bf16": {"tflops": 50.0}, "fp32": {"tflops": 20.0}}
    file.write_text(json.dumps({"sections": {"steps": {"ways": ways}}}))
    status, report = simulated(capfd, "places2", "--gpus", "16", "--bench", str(file), "--pictures", "100000")
    assert status == 0
    assert report["step_time_from"].endswith("50 TFLOP/s, measured")
    # 0.59 TFLOP a picture.
    assert report["parts"]["picture_s"] == pytest.approx(0.0118, rel=0.02)
    assert report["parts"]["gradient_bytes"] == 4 * (24_774_307 + 2_763_776)
    assert [run["ranks"] for run in report["runs"]] == [8, 16, 64, 1024]
    assert all(run["total_s"] > run["start_s"] for run in report["runs"])


def test_mistakes_are_a_sentence_each(tmp_path, capfd):
    assert main(["plan", "simulate", "places2", "--gpus", "4", "--nodes", "8"]) == 2
    assert "a node needs a GPU; give at most 4 nodes" in capfd.readouterr().err
    assert main(["plan", "simulate", "places2", "--link", "-1"]) == 2
    assert "-1 is no number above 0" in capfd.readouterr().err
    file = tmp_path / "other.json"
    file.write_text("[]")
    assert main(["plan", "simulate", "places2", "--bench", str(file)]) == 2
    assert "give the bench-gpu.json of `isnet bench gpu`" in capfd.readouterr().err
