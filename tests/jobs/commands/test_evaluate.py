"""`isnet evaluate`: fixed pairs, several models in one report, the mask-loading study, and mistakes in a sentence."""

import csv
import html.parser
import io
import json
import statistics

import numpy as np
import pytest
from PIL import Image

from isnet.inference.open_filler import open_filler
from isnet.mask_files import LOADINGS, resize_like_loader
from jobs.evaluation.evaluation import make_protocol
from jobs.evaluation.mlflow_record import run_result
from jobs.evaluation.pairs import pair_up
from jobs.evaluation.paper_tables import PAPER_BINS, TABLE_3, differences, paper_tables, side_by_side
from jobs.evaluation.report import Report, markdown
from jobs.evaluation.scores import Score, from_csv, psnr_of, to_csv
from trainplane.cluster import context
from trainplane.data.manifest import Dataset


@pytest.fixture
def masks(tmp_path):
    """Twelve masks of 120 px, two of each ratio bin, whose edges lie on no even pixel."""
    folder = tmp_path / "mask-files"
    folder.mkdir()
    for number in range(12):
        hole = np.zeros((120, 120), np.uint8)
        rows = round(120 * (number // 2 * 0.1 + 0.05))
        hole[7 : 7 + rows] = 255
        hole[:, :: 40 + number] = 0
        Image.fromarray(hole).save(folder / f"m{number}.png")
    return folder


@pytest.fixture
def sets(isnet, photos, masks):
    assert isnet("data", "pack", photos, "held").status == 0
    assert isnet("data", "pack", masks, "holes", "--kind", "masks").status == 0
    return isnet


def test_many_models_make_one_report_in_every_form(sets, home, tmp_path):
    words = ["evaluate", "ours=classical:telea", "classical:mean", "classical:ns", "held", "--masks", "holes"]
    found = sets(*words, "--size", "48", "-o", tmp_path / "report", "--json")
    assert found.status == 0, found.err
    report = found.json()
    assert report["model"] == "classical:telea"
    assert [model["label"] for model in report["models"]] == ["ours", "classical:mean", "classical:ns"]
    assert {model["masks_digest"] for model in report["models"]} == {report["masks_digest"]}
    assert report["bins"]["all"]["n"] == 8
    folder = tmp_path / "report"
    assert json.loads((folder / "report.json").read_text())["bins"] == report["bins"]
    rows = list(csv.DictReader(io.StringIO((folder / "report.csv").read_text())))
    [psnr] = [r for r in rows if (r["model"], r["bin"], r["metric"]) == ("classical:mean", "all", "psnr")]
    assert float(psnr["mean"]) == report["models"][1]["bins"]["all"]["psnr"]
    text = (folder / "report.md").read_text()
    assert "## PSNR dB by hole ratio" in text
    assert text.count("p is the two-sided chance") == text.count("not on one scale with the others") == 1
    assert report["ranking"][0] in report["headline"]
    odd = markdown(Report({"author:<b>|`x`": report["models"][0]}, facts={"model": "<i>", "masks": "`m`"}))
    assert "# Evaluation of author:&lt;b>\\|\\`x\\`\n\nauthor:&lt;b>\\|\\`x\\` reaches" in odd
    assert "\n- model: &lt;i>\n- masks: \\`m\\`\n" in odd
    assert "| author:&lt;b>\\|\\`x\\` |" in odd
    for number, model in enumerate(report["models"]):
        scores = from_csv((folder / f"scores-{number}.csv").read_text())
        assert statistics.fmean(one.psnr for one in scores) == pytest.approx(model["bins"]["all"]["psnr"])
    for name in ("figure.png", "worst.png"):
        with Image.open(folder / name) as picture:
            assert picture.width > 5 * 48


def test_a_difference_is_that_of_the_means_and_better_means_better(sets):
    report = sets("evaluate", "classical:telea", "classical:mean", "held", "--size", "48", "--json").json()
    telea, mean = report["models"]
    for name, metrics in report["comparisons"]["classical:mean"].items():
        for metric, found in metrics.items():
            assert found["difference"] == pytest.approx(telea["bins"][name][metric] - mean["bins"][name][metric])
            low, high = found["interval"]
            assert low <= found["difference"] <= high
    overall = report["comparisons"]["classical:mean"]["all"]
    # Waves are continued by Telea and not by a mean: 8 pictures, so no chance is below 1/256.
    assert overall["psnr"]["p_better"] == overall["l1_hole"]["p_better"] == 1 / 256
    assert overall["psnr"]["num_groups"] == 8


class Page(html.parser.HTMLParser):
    """What a page would load, run and show."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.tags, self.words = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_whole_in_itself_and_runs_nothing(sets, tmp_path):
    found = sets("evaluate", "<b>x=classical:mean", "held", "--size", "32")
    assert found.status == 2
    name = "a <script>alert(1)</script>"
    done = sets("evaluate", "evil=classical:mean", "held", "--size", "32", "-o", tmp_path / name, "--json")
    page = Page((tmp_path / name / "report.html").read_text())
    assert "script" not in page.tags
    assert page.loads
    assert all(load.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for load in page.loads)
    # Damaged, filled and truth: of one whole photo, of a pair of each of the paper's bins, of the worst pairs.
    assert len(page.loads) == 3 * (1 + 4 + len(done.json()["worst"]))
    assert done.json()["masks_digest"] in " ".join(page.words)


def test_all_of_it_is_in_mlflow_once(sets, home):
    from trainplane.tracking.client import TrackingServer

    words = ["evaluate", "classical:telea", "held", "--size", "48", "--json"]
    first, second = sets(*words).json(), sets(*words).json()
    assert first["run_id"] == second["run_id"]
    client = TrackingServer(f"sqlite:///{home / 'mlflow.db'}").client
    run = client.get_run(first["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["classical_telea/psnr"] == first["bins"]["all"]["psnr"]
    assert run.data.metrics["classical_telea/ssim_10-20"] == first["bins"]["10-20"]["ssim"]
    names = {entry.path for entry in client.list_artifacts(first["run_id"])}
    assert {"report.html", "report.md", "report.csv", "report.json", "pairs.json", "figure.png", "worst.png"} <= names
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["held"]


def test_models_whose_names_look_alike_to_mlflow_keep_their_own_figures(sets, tmp_path):
    [found] = sets("evaluate", "classical:mean", "held", "--size", "32", "--json").json()["models"]
    deep = "/runs/" + "d" * 110
    labels = [f"{deep}/step-00000100", f"{deep}/step-00000200", "./a/b.pth", "./a_b.pth", "plain"]
    rows = {
        label: {**found, "bins": {"all": {**found["bins"]["all"], "psnr": float(number)}}}
        for number, label in enumerate(labels)
    }
    metrics = run_result("run", Report(rows), tmp_path, []).metrics
    told = {name: value for name, value in metrics.items() if name.endswith("/psnr")}
    assert sorted(told.values()) == [0, 1, 2, 3, 4]
    assert told["plain/psnr"] == 4
    assert all(len(name) <= 105 for name in told)


def test_pairs_are_fixed_one_to_one_and_kept_by_digest(sets, home):
    dataset, masks = Dataset.open(str(home / "datasets/held")), Dataset.open(str(home / "datasets/holes"))
    pairing = pair_up(dataset, masks="holes", mask_set=masks, size=48, seed=3)
    assert [picture for picture, _ in pairing.pairs] == list(range(8))
    assert len({hole for _, hole in pairing.pairs}) == 8
    assert pair_up(dataset, masks="holes", mask_set=masks, size=48, seed=3) == pairing
    assert pair_up(dataset, masks="holes", mask_set=masks, size=48, seed=4).digest != pairing.digest
    report = sets("evaluate", "classical:mean", "held", "--masks", "holes", "--size", "48", "--seed", "3", "--json")
    assert report.json()["masks_digest"] == pairing.digest
    assert (home / "artifacts" / "pairings" / f"{pairing.digest}.json").read_bytes() == pairing.to_json()
    few = sets("evaluate", "classical:mean", "held", "--pictures", "3", "--size", "48", "--json").json()
    assert (few["pictures"], few["bins"]["all"]["n"]) == (3, 18)


def test_no_mask_is_used_once_more_than_another(sets, home, isnet, masks, tmp_path):
    for path in sorted(masks.iterdir())[3:]:
        path.unlink()
    assert isnet("data", "pack", masks, "three", "--kind", "masks").status == 0
    dataset, three = Dataset.open(str(home / "datasets/held")), Dataset.open(str(home / "datasets/three"))
    used = [hole for _, hole in pair_up(dataset, masks="three", mask_set=three, size=48, seed=0).pairs]
    assert sorted(used.count(number) for number in range(3)) == [2, 3, 3]


def test_holes_shrink_as_the_authors_loader_has_them():
    hole = np.zeros((512, 512), bool)
    hole[100:300, 150:400] = True
    ratios = [resize_like_loader(hole, 256, 256, loader=way).mean() for way in LOADINGS]
    assert ratios[0] == pytest.approx(hole.mean(), abs=1e-3)
    assert ratios[0] > ratios[1] > 0
    rng = np.random.default_rng(0)
    ragged = hole & (rng.random(hole.shape) > 0.002)
    assert (
        resize_like_loader(ragged, 256, 256, loader="legacy-jpeg").mean()
        < resize_like_loader(ragged, 256, 256, loader="legacy-png").mean()
    )
    for way in LOADINGS:
        assert resize_like_loader(np.ones((64, 64), bool), 32, 32, loader=way).all()
        assert not resize_like_loader(np.zeros((64, 64), bool), 32, 32, loader=way).any()


def test_the_study_says_what_loading_is_worth(sets):
    words = ["evaluate", "classical:mean", "held", "--masks", "holes", "--size", "60"]
    study = sets(*words, "--mask-study", "--json").json()["mask_study"]
    assert sum(row["n"] for row in study) == 8
    for row in study:
        assert row["ratio"]["nearest"] > row["ratio"]["legacy-png"]
        gain = row["psnr"]["legacy-png"] - row["psnr"]["nearest"]
        assert row["gain"]["legacy-png"]["difference"] == pytest.approx(gain)
    alone = sets(*words, "--mask-loading", "legacy-png", "--json").json()
    everything = sum(row["psnr"]["legacy-png"] * row["n"] for row in study) / 8
    assert alone["bins"]["all"]["psnr"] == pytest.approx(everything)


def test_networks_know_what_they_cost_and_stand_beside_the_paper(sets):
    words = ["evaluate", "untrained:ablation_isnet_1+laptop", "classical:mean", "held", "--size", "64", "--json"]
    report = sets(*words).json()
    cost = report["cost"]
    assert cost["memory_bytes"] > 4 * cost["parameters"]
    assert cost["latency_ms"] > 0
    assert report["models"][1]["cost"]["parameters"] is None
    first, second, third, _ = report["paper"]
    assert [row[0] for row in first["rows"]] == ["BaseModel", "BaseModel+FF", "ISNet", "UNet-like"]
    below = second["rows"].index(["ISNet, 1 block", "paper", "18.99", "28.02", "2.05", "0.8816"]) + 1
    assert second["rows"][below][1] == "here: untrained:ablation_isnet_1+laptop"
    assert any("trained for 0 steps" in note for note in second["notes"])
    assert third["rows"][0][2:7] == ["24.36", "23.49", "28.02", "27.95", "31.41"]


def test_every_figure_of_the_papers_tables_is_marked_with_what_differs():
    evaluation = {
        "dataset": "places2-val", "pictures": 328_500, "size": 256, "definition": "isnet", "loading": "legacy-jpeg",
        "architecture": {"name": "isnet", "blocks": 4, "width": 32, "in_channels": 3}, "steps": 500_000,
        "bins": {"10-20": {"psnr": 31.0, "ssim": 0.9, "l1_percent": 1.0, "l1_hole": 0.1, "n": 5}},
        "cost": {"parameters": 24_774_307},
    }  # fmt: skip
    assert differences(evaluation, "places2") == []
    assert len(differences({**evaluation, "loading": "nearest", "size": 128, "dataset": "mine"}, "places2")) == 3
    table = paper_tables({"m": evaluation})[2]
    assert len(table["rows"]) == 12
    assert [len(values) for values in TABLE_3.values()] == [4] * 5


def test_the_papers_table_stands_beside_ours_by_the_definition_of_each_row(sets, tmp_path):
    words = ["evaluate", "classical:mean", "net=untrained:glcic+laptop", "held", "--pictures", "1", "--size", "64"]
    found = sets(*words, "--paper", "places2", "-o", tmp_path / "r", "--json").json()
    alone = sets(*words, "--definition", "edge_connect", "--json").json()
    assert {row["definition"] for row in (found, *found["models"])} == {"isnet"}
    psnr = found["paper"][0]
    assert psnr["title"] == "Table 3 with ours, PSNR dB"
    by_name = {(row, whose, definition): cells for row, whose, definition, *cells in psnr["rows"]}
    assert list(by_name) == [
        ("CA", "paper", "edge_connect"), ("GLCIC", "paper", "edge_connect"), ("", "here: net", "edge_connect"),
        ("PConv", "paper", "edge_connect"), ("EdgeConnect", "paper", "edge_connect"), ("ISNet", "paper", "isnet"),
        ("not in the paper", "here: classical:mean", "isnet"),
    ]  # fmt: skip
    assert by_name["GLCIC", "paper", "edge_connect"] == ["23.49", "20.45", "18.50", "17.17"]
    # The copied rows have EdgeConnect's definition, and so do ours below them: as measured by that alone.
    bins = alone["models"][1]["bins"]
    assert found["models"][1]["also"]["edge_connect"]["bins"] == bins
    expected = [f"{bins[name]['psnr']:.2f}" for name in PAPER_BINS]
    assert by_name["", "here: net", "edge_connect"] == expected
    assert expected != [f"{found['models'][1]['bins'][name]['psnr']:.2f}" for name in PAPER_BINS]
    fields = [table for table in found["paper"] if table["title"].startswith("As papers of today")]
    assert {row[1] for table in fields for row in table["rows"]} == {"skimage"}
    page = Page((tmp_path / "r" / "report.html").read_text())
    assert "Table 3 with ours, SSIM" in page.words
    text = sets(*words, "--paper", "celeba").out
    assert "Table 4 with ours, PSNR dB" in text
    # What differs: network, pictures, holes, loading.
    assert "- net: width 8, its authors' 64" in text
    assert "not on CelebA's" in text
    assert "ours below them are measured so, too" in text
    assert "not on one scale" not in text
    assert "holes drawn by `irregular`" in text


def test_rows_of_the_paper_are_those_of_its_methods():
    def of(name, **changes):
        bins = {"bins": {"10-20": {"psnr": 20.0, "ssim": 0.5, "l1_percent": 1.0}}}
        return {**bins, "definition": "isnet", "also": {"edge_connect": bins, "skimage": bins},
                "architecture": {"name": name, "width": 8}, **changes}  # fmt: skip

    names = ("isnet", "ca", "glcic", "pconv", "edgeconnect", "lama", "aot_gan", "unet_like")
    places2, celeba = (side_by_side({name: of(name) for name in names}, paper)[2] for paper in ("places2", "celeba"))
    assert [row[:2] for row in places2["rows"] if row[0] not in ("CA", "GLCIC", "PConv", "EdgeConnect", "ISNet")] == [
        *(["", f"here: {name}"] for name in ("ca", "glcic", "pconv", "edgeconnect", "isnet")),
        *(["not in the paper", f"here: {name}"] for name in ("lama", "aot_gan", "unet_like")),
    ]
    # Table 4 has no row for PConv.
    assert ["not in the paper", "here: pconv"] in [row[:2] for row in celeba["rows"]]
    assert places2["rows"][1][3:] == ["1.00", None, None, None]


def test_scores_of_keys_that_others_chose_come_back_from_their_file():
    keys = ["a,b", "n\nl", 'q"', "plain"]
    scores = [Score(n, n, key, 0.5, 7, 0.25, 20.0, 0.5, 3.0, 0.1) for n, key in enumerate(keys)]
    assert from_csv(to_csv(scores)) == scores


def test_scores_come_back_from_their_file(sets, home, tmp_path):
    sets("evaluate", "classical:mean", "held", "--size", "32", "-o", tmp_path / "r")
    text = (tmp_path / "r" / "scores-0.csv").read_text()
    assert to_csv(from_csv(text)) == text
    with pytest.raises(ValueError, match="columns"):
        from_csv("a,b\n1,2\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["classical:mean"], "alone is not enough"),
        (["classical:mean", "holes"], "holds masks, not pictures"),
        (["classical:mean", "held", "--masks", "held"], "holds pictures, not masks"),
        (["classical:mean", "classical:mean", "held"], "two models are called"),
        (["a=classical:mean", "a=classical:ns", "held"], "two models are called 'a'"),
        (["classical:mean", "held", "--mask-study"], "packed mask dataset"),
        (["classical:mean", "held", "--seed", "-1"], "seed -1 is negative"),
        (["classical:mean", "held", "--size", "8"], "size 8 is too small"),
        (["classical:mean", "held", "--size", "32", "--definition", "edge_connect"], "window of 51"),
        (["classical:mean", "held", "--paper", "celeba", "--definition", "skimage"], "measures by all definitions"),
        (["untrained:nothing", "held"], "nothing"),
        (["classical:mean", "held", "-o", "photos/photo-0.png"], "cannot be the report's folder"),
        (["classical:mean", "held", "-o", "theirs"], "holds report.html, which no evaluation wrote there"),
    ],
)
def test_mistakes_are_answered_in_a_sentence_and_no_run_stays_open(sets, home, tmp_path, words, sentence):
    from trainplane.tracking.client import TrackingServer

    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "report.html").write_text("mine")
    ran = sets("evaluate", *words)
    assert ran.status == 2
    assert sentence in ran.err
    assert "Traceback" not in ran.err
    assert (tmp_path / "theirs" / "report.html").read_text() == "mine"
    client = TrackingServer(f"sqlite:///{home / 'mlflow.db'}").client
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert {run.info.status for run in client.search_runs(experiments)} <= {"FAILED"}


@pytest.mark.nightly
def test_tasks_of_a_cluster_find_the_same_scores(sets, tmp_path):
    words = ["evaluate", "untrained:ablation_isnet_1+laptop", "classical:telea", "held", "--size", "48", "--json"]
    here = sets(*words, "-o", tmp_path / "here").json()
    there = sets(*words, "-o", tmp_path / "there", "--parallel", "2")
    assert there.status == 0, there.err
    there = there.json()
    for one, other in zip(here["models"], there["models"], strict=True):
        assert one["masks_digest"] == other["masks_digest"]
        for name, row in one["bins"].items():
            assert other["bins"][name] == pytest.approx(row, rel=1e-5)


def test_the_same_model_by_any_address_measures_the_same(isnet_there, project):
    isnet, run = isnet_there, project.run
    version = isnet("models", "register", f"runs:/{run['run_id']}", "--name", "n", "--json").json()["version"]
    addresses = [f"models:/n/{version}", f"runs:/{run['run_id']}", run["checkpoint"]]
    found = [isnet("evaluate", address, "held", "--json").json() for address in addresses]
    for other in found[1:]:
        assert other["masks_digest"] == found[0]["masks_digest"]
        for name, row in other["bins"].items():
            assert row == pytest.approx(found[0]["bins"][name], rel=1e-6)
    assert set(found[0]["bins"]) == {"all", "0-10", "10-20", "20-30", "30-40", "40-50", "50-60"}


def test_networks_are_measured_as_they_fill_photos(sets, tmp_path):
    """`--refine auto` gives what `isnet inpaint` writes; classical methods have one way of filling."""
    words = ["evaluate", "starter", "classical:telea", "held", "--size", "160", "--pictures", "2", "--json"]
    off, auto = (sets(*words, *more).json() for more in ([], ["--refine", "auto", "-o", tmp_path / "report"]))
    assert off["run_id"] != auto["run_id"]
    assert (off.get("refine"), auto["refine"]) == (None, "auto")
    assert off["models"][1]["bins"] == auto["models"][1]["bins"]
    scores = from_csv((tmp_path / "report" / "scores-0.csv").read_text())
    assert "fill coarse to fine (refine auto)" in (tmp_path / "report" / "report.md").read_text()
    # The same by hand, of one pair; files are rounded to 8 bits.
    protocol = make_protocol(context.resolve(), "held", masks="irregular", size=160, pictures=2)
    [view] = protocol.eval_set.views([3])
    filled = open_filler("starter")(view.pixels, view.hole)
    assert psnr_of(filled, view, "isnet") == pytest.approx(scores[3].psnr, abs=0.1)
    assert auto["bins"]["all"]["psnr"] != off["bins"]["all"]["psnr"]


def test_classical_methods_are_models_too(isnet, photos, tmp_path):
    isnet("data", "pack", photos, "held")
    mean = isnet("evaluate", "classical:mean", "held", "--size", "48", "--json").json()
    telea = isnet("evaluate", "classical:telea", "held", "--size", "48", "--json").json()
    assert mean["masks_digest"] == telea["masks_digest"]
    assert telea["bins"]["all"]["psnr"] > mean["bins"]["all"]["psnr"]
