"""`isnet`: a mistake of the user is answered in one sentence with status 2."""

import subprocess
import sys

import pytest
from mlflow.exceptions import MlflowException

from jobs.train.summary import saved_line


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "dmeo"], "did you mean 'demo'"),
        (["train", "demo", "train.stpes=3"], "did you mean train.steps=3?"),
        (["train", "search_demo"], "isnet tune search_demo"),
        (["train", "demo", "train.workers=3"], "does not divide"),
        (["train", "demo", "data.train=nowhere"], "nowhere"),
        (["train", "demo", "loss.perceptual_weights=null", "data.train=mine", "data.val=null"], "perceptual_weights"),
        (["train", "demo", "--context", "lab"], "context 'lab' is not known"),
        (["tune", "demo"], "is no search"),
        (["tune", "search_demo", "search.objective.mode=best"], "need max or min"),
        (["evaluate", "something", "mine"], "is not a model"),
        (["evaluate", "models:/none@production", "mine"], "no registered model 'none'"),
        (["evaluate", "classical:magic", "mine"], "magic"),
        (["inpaint", "no.png", "no.png", "-o", "x.png", "--model", "classical:mean"], "no.png"),
        (["inpaint", "no.png", "no.png", "-o", "x.ppm", "--model", "models:/none@production"], "written as '.ppm'"),
        (["inpaint", "photos", "photos", "-o", "photos", "--model", "classical:mean"], "input folder"),
        (["data", "pack", "nowhere", "x"], "nowhere"),
        (["data", "show", "nowhere"], "nowhere"),
        (["models", "show", "none"], "no registered model 'none'"),
        (["runs", "show", "abc"], "no run 'abc'"),
        (["submit", "train", "demo"], "names no cluster"),
        (["submit"], "nothing to submit"),
        (["submit", "demo"], "runs on your machine"),
        (["jobs", "list"], "names no cluster"),
        (["demo", "--photos", "nowhere"], "nowhere"),
        (["data", "verify", "mien"], "there is no dataset (no manifest.json); did you mean 'mine'?"),
        (["evaluate", "classical:mean", "quite-another"], "; known: mine; `isnet data list` describes them"),
        (
            ["models", "register", "notarun", "--name", "m"],
            "'notarun' is no run's id and no checkpoint's address",
        ),
    ],
)
def test_a_mistake_is_answered_in_one_sentence_with_status_2(isnet, photos, words, sentence):
    isnet("data", "pack", photos, "mine")
    ran = isnet(*words)
    assert ran.status == 2, ran.err
    assert sentence in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_a_failed_request_to_mlflow_names_its_reason_with_status_1(isnet, monkeypatch):
    def fail(args, context):
        raise MlflowException("database is locked")

    monkeypatch.setattr("jobs.commands.runs.list_runs", fail)
    ran = isnet("runs", "list")
    assert ran.status == 1
    assert "The MLflow request failed (database is locked); fix the server and rerun the command" in ran.err


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ("", "isnet: interrupted before the first step; run the same command again\n"),
        (saved_line(57, 400), "isnet: interrupted (step 57 of 400 is saved); run the same command again to go on from"),
        (saved_line(0, 400), "isnet: interrupted (no step is saved yet); run the same command again to begin anew\n"),
        (saved_line(None, 400), "isnet: interrupted; run the same command again to go on from there\n"),
    ],
)
def test_an_interrupted_run_says_which_step_is_saved(isnet, monkeypatch, saved, said):
    def interrupt(args, context):
        raise KeyboardInterrupt(*[saved] if saved else [])

    monkeypatch.setattr("jobs.commands.train.train", interrupt)
    ran = isnet("train", "demo")
    assert ran.status == 130
    assert said in ran.err


def test_commands_that_list_import_nothing_that_takes_seconds():
    modules = ", ".join(f"jobs.commands.{name}" for name in ("runs", "models", "tune", "data", "cluster.jobs"))
    code = f"import sys, {modules}; print(sorted({{'torch', 'mlflow', 'ray', 'sqlalchemy'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("words", [["ui", "--port", "70000"], ["data", "pack", "x", "y", "--shard-bytes", "inf"]])
def test_numbers_out_of_range_are_refused_by_the_parser(isnet, words):
    ran = isnet(*words)
    assert ran.status == 2
    assert "Traceback" not in ran.err
