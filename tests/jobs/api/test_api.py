"""The commands as functions: the same code, outcomes as objects, mistakes as sentences."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_run import SMALL

from isnet.errors import InputError
from jobs import api
from jobs.api.reference import reference
from jobs.api.settings import words_of
from trainplane.errors import RunFailed, UserError

ROOT = Path(__file__).resolve().parents[3]


def test_the_reference_on_the_page_is_that_of_the_docstrings():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert page == reference(), "run `python -m jobs.api.reference > docs/api.md`"


def test_settings_are_the_words_of_a_command():
    assert words_of({"train.steps": 9, "data.val": None, "train.betas": [0.0, 0.9], "a": True, "name": "true"}) == (
        "train.steps=9",
        "data.val=null",
        "train.betas=[0.0, 0.9]",
        "a=true",
        'name="true"',
    )
    assert words_of(["train.steps=9"]) == words_of("train.steps=9") == ("train.steps=9",)


def test_from_data_to_a_version_that_fills_with_the_runs_of_the_commands(project, photos):
    from jobs.config import load_run_config
    from trainplane.config.overrides import apply_overrides

    settings = apply_overrides({}, SMALL)
    flat = {f"{section}.{name}": value for section, part in settings.items() for name, value in part.items()}
    # The command has trained this run: the function finds it, and says the same.
    run = api.train("demo", flat)
    same = ("run_id", "step", "state_digest", "checkpoint", "metrics")
    assert {name: run.to_json()[name] for name in same} == {name: project.run[name] for name in same}
    assert api.train(load_run_config("demo", SMALL)).run_id == run.run_id
    version = api.register(run.run_id, name="by-api")
    assert version.address == "by-api/1"
    assert "by-api" in [model.name for model in api.models()]
    with pytest.raises((UserError, RunFailed), match="@production"):
        api.promote(version.address, dataset="held", expect="7")
    picture = np.full((40, 48, 3), 90, np.uint8)
    mask = np.zeros((40, 48), np.uint8)
    mask[10:20, 12:30] = 255
    filled = api.fill(picture, mask, version.address)
    assert np.array_equal(filled.image[mask == 0], picture[mask == 0])


def test_packing_gives_the_dataset_and_leaves_no_variable_behind(home, photos, tmp_path, monkeypatch):
    import os

    (tmp_path / "isnet.toml").write_text('[context.lab]\nstore = "./lab"\ns3_region = "here-1"\n')
    before = dict(os.environ)
    dataset = api.pack(photos, "mine", context="lab")
    assert (dataset.num_samples, dataset.name) == (8, "mine")
    assert (tmp_path / "lab" / "datasets" / "mine" / "manifest.json").exists()
    left = {name for name in os.environ if os.environ[name] != before.get(name)}
    assert not {name for name in left if name.startswith(("AWS_DEFAULT", "TRAINPLANE"))}


def test_mistakes_are_sentences(home, tmp_path):
    for call, sentence in (
        (lambda: api.train("demoo"), "did you mean 'demo'?"),
        (lambda: api.train("demo", {"train.stepz": 3}), "did you mean"),
        (lambda: api.pack("", "mine"), "SRC is empty"),
        (lambda: api.fill("no.png", "no.png", "nobody@production"), "is not a model"),
        (lambda: api.models(context="nowhere"), "context 'nowhere' is not known"),
    ):
        with pytest.raises((UserError, InputError), match=sentence.replace("?", r"\?")):
            call()


def test_importing_the_api_loads_nothing_heavy_until_a_function_is_named():
    code = (
        "import sys\nfrom jobs import api\nassert 'train' in dir(api)\n"
        "print(sorted({'torch', 'ray', 'mlflow'} & set(sys.modules)))\napi.models\n"
        "print(sorted({'torch', 'ray', 'mlflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n[]\n"
