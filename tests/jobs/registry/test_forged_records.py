"""Gates measure; what somebody wrote into MLflow opens none, and ends no command in a traceback."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from trainplane.registry.versions import ModelVersion
from trainplane.tracking.client import TrackingServer

DIGEST = "trainplane.evaluation_digest"


@pytest.fixture
def server(project):
    return TrackingServer(f"sqlite:///{project.folder / 'home' / 'mlflow.db'}")


@pytest.fixture
def forge(server):
    """Writes tags of a version as anybody with the right to edit it may."""

    def write(name: str, version: str, text: str, *, digest: str | None = None, key: str = "evaluation") -> None:
        server.client.set_model_version_tag(name, version, f"trainplane.{key}", text)
        if key == "evaluation":
            own = hashlib.sha256(text.encode()).hexdigest()
            for tag in ("evaluation_digest", "card_of"):
                server.client.set_model_version_tag(name, version, f"trainplane.{tag}", digest or own)

    return write


@pytest.fixture
def registered(isnet_there, project):
    def make(name: str) -> str:
        run = f"runs:/{project.run['run_id']}"
        return isnet_there("models", "register", run, "--name", name, "--json").json()["version"]

    return make


def rules(folder: Path, **settings) -> str:
    path = folder / "gates.yaml"
    path.write_text(json.dumps({"lineage": [], "requires": [], **settings}))
    return str(path)


def perfect(version: ModelVersion) -> dict:
    evaluation = json.loads(json.dumps(version.evaluation))
    for means in evaluation["bins"].values():
        means.update(psnr=99.0, ssim=0.9999, l1_percent=0.001, l1_hole=0.0001)
    return evaluation


def test_a_forged_evaluation_opens_no_gate_and_is_replaced(isnet_there, registered, server, forge, tmp_path):
    isnet, version = isnet_there, registered("forged")
    assert isnet("evaluate", f"models:/forged/{version}", "held").status == 0
    honest = ModelVersion(server, "forged", version).evaluation
    high = rules(tmp_path, floors=[{"metric": "psnr", "at_least": 90}])
    for words in ([], ["--dataset", "held"]):
        forge("forged", version, json.dumps(perfect(ModelVersion(server, "forged", version))))
        refused = isnet("models", "promote", "forged", version, "--gates", high, *words, "--json")
        assert refused.status == 1
        verdicts = {verdict["gate"]: verdict for verdict in refused.json()["verdicts"]}
        assert verdicts["floor psnr all"]["values"]["value"] == pytest.approx(honest["bins"]["all"]["psnr"])
        assert "the version's record had psnr 99.0 in all" in verdicts["measured"]["evidence"]
        assert ModelVersion(server, "forged", version).evaluation["bins"]["all"] == honest["bins"]["all"]
        assert refused.json()["audit"] is None


def test_a_forged_choice_of_pictures_does_not_count_where_the_promoter_names_them(
    isnet_there, registered, server, forge, tmp_path
):
    isnet, version = isnet_there, registered("chosen")
    assert isnet("evaluate", f"models:/chosen/{version}", "held", "--pictures", "1").status == 0
    done = isnet("models", "promote", "chosen", version, "--gates", rules(tmp_path), "--dataset", "held", "--json")
    assert done.status == 0, done.err
    verdicts = {verdict["gate"]: verdict for verdict in done.json()["verdicts"]}
    assert "48 pairs of 8 pictures of held" in verdicts["measured"]["evidence"]


def test_a_forged_record_of_production_does_not_make_another_version_better(
    isnet_there, registered, server, forge, project, tmp_path
):
    """Two versions of the same weights: neither beats the other, whatever the record of the one in production says."""
    isnet, first = isnet_there, registered("pair")
    assert isnet("models", "promote", "pair", first, "--gates", rules(tmp_path), "--dataset", "held").status == 0
    licence = tmp_path / "other-licence"
    licence.write_text("other terms\n")
    run = f"runs:/{project.run['run_id']}"
    made = isnet("models", "register", run, "--name", "pair", "--licence", licence, "--json")
    second = made.json()["version"]
    worse = json.loads(json.dumps(ModelVersion(server, "pair", first).evaluation))
    for means in worse["bins"].values():
        means["psnr"] = 1.0
    forge("pair", first, json.dumps(worse))
    beats = rules(tmp_path, beats=[{"baseline": "production", "metric": "psnr", "better": "higher"}])
    refused = isnet("models", "promote", "pair", second, "--gates", beats, "--dataset", "held")
    assert refused.status == 1
    assert "FAILED  beats production psnr all" in refused.out


@pytest.mark.parametrize(
    ("key", "text", "sentence"),
    [
        ("evaluation", "{", "tag trainplane.evaluation is no JSON"),
        ("evaluation", '{"bins": {"all": {"psnr": 1, "n": 3}}}', "tag trainplane.evaluation has another shape (model"),
        ("gates", '[{"gate": 1}]', "tag trainplane.gates has another shape (0.gate"),
    ],
)
def test_an_edited_tag_is_told_and_not_used(isnet_there, registered, forge, tmp_path, key, text, sentence):
    isnet, version = isnet_there, registered("edited")
    forge("edited", version, text, key=key)
    shown = isnet("models", "show", "edited")
    assert (shown.status, sentence in shown.out) == (0, True), shown.err
    assert isnet("models", "show", "edited", "--json").json()["versions"][0]["faults"]
    card = isnet("models", "card", "edited", version)
    assert (card.status, sentence in card.out) == (0, True), card.err
    promoted = isnet("models", "promote", "edited", version, "--gates", rules(tmp_path, approvals=1))
    assert "Traceback" not in promoted.err
    assert promoted.status in (1, 2)
    if key == "evaluation":
        # What it was measured on stands in that tag alone.
        assert (promoted.status, sentence in promoted.err) == (2, True)
