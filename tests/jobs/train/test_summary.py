"""What people read at the end of a run."""

from jobs.train.summary import summary
from trainplane.train.spec import Outcome

SECONDS = {"wall": 100.0, "step": 50.0, "step/generator": 30.0, "step/reduce": 0.1, "validate": 40.0, "record": 0.2}


def said(metrics, **changed):
    given = {"status": "finished", "step": 40, "checkpoint": "s3://b/run/step-00000040", "state_digest": "d" * 64}
    outcome = Outcome(**{**given, "metrics": metrics, "seconds": SECONDS, "pictures_per_s": 12.34, **changed})
    return summary("r1", outcome).splitlines()


def test_metrics_stand_in_a_table_by_hole_ratio_and_others_by_name():
    lines = said({"val/psnr": 21.456, "val/ssim": 0.77, "val/psnr_10-20": 24.0, "val/error": 0.5})
    assert lines[0] == "finished at step 40; run r1"
    assert lines[1].split() == ["held-out", "pictures", "PSNR", "dB", "SSIM", "L1", "%"]
    assert lines[2].split() == ["all", "21.46", "0.7700", "–"]
    assert lines[3].split() == ["holes", "of", "10-20", "%", "24.00", "–", "–"]
    assert lines[4].split() == ["val/error", "0.5000"]


def test_a_task_with_other_metrics_has_no_table():
    lines = said({"val/error": 0.5})
    assert not any("held-out" in line for line in lines)
    assert lines[1].split() == ["val/error", "0.5000"]


def test_where_the_time_went_is_told_with_the_largest_first_and_nothing_that_is_nothing():
    lines = said({})
    at = next(i for i, line in enumerate(lines) if "12.3 pictures/s; the 2 min went to" in line)
    assert [line.split() for line in lines[at + 1 : at + 4]] == [
        ["step", "50", "%", "of", "it", "generator", "30", "%"],
        ["validate", "40", "%"],
        ["rest", "10", "%"],
    ]
    assert "validate less often" in lines[at + 4]
    assert not any("record" in line or "reduce" in line for line in lines)


def test_a_run_that_only_measured_tells_of_no_time():
    assert not any("pictures/s" in line for line in said({}, pictures_per_s=0.0, seconds={}))


def test_what_waits_and_what_was_damaged_is_said():
    text = "\n".join(said({}, unsent=3, damage=["a", "b"]))
    assert "3 records still on this machine, not in MLflow; to send: isnet runs sync" in text
    assert "2 damaged samples replaced" in text
