"""The page opens with a sentence and a photo, holds any number of models of any name, and loads nothing."""

from __future__ import annotations

import html.parser
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from jobs.evaluation.figures import Panel, PanelRow, titled_strips
from jobs.evaluation.headline import headline, ranking
from jobs.evaluation.report import Report, leaderboard, paper_notes, terminal_text
from jobs.evaluation.report_charts import chart, legend
from jobs.evaluation.report_html import page

BINS = ("all", "0-10", "10-20", "20-30", "30-40", "40-50", "50-60")
METRICS = {"psnr": 20.0, "ssim": 0.8, "l1_percent": 3.0, "l1_hole": 0.1}


def evaluation(quality: float = 0.0, *, pictures: int = 500, **changes):
    means = {name: value + quality for name, value in METRICS.items()} | {"ratio": 0.3, "n": pictures}
    ends = {name: [value + quality - 0.1, value + quality + 0.1] for name, value in METRICS.items()}
    intervals = ends if pictures >= 6 else dict.fromkeys(METRICS)
    return {
        "model": "classical:mean", "dataset": "held", "pictures": pictures, "size": 64, "definition": "isnet",
        "bins": dict.fromkeys(BINS, means), "intervals": dict.fromkeys(BINS, intervals),
        "cost": {"parameters": None, "memory_bytes": None, "latency_ms": 3.0, "package_bytes": None},
        "steps": None, "architecture": None, **changes,
    }  # fmt: skip


def lead(difference=1.0, *, p=0.01, interval=(0.5, 1.5), groups=500):
    return {"difference": difference, "p_value": p, "interval": interval and list(interval), "num_groups": groups}


def row(labels) -> PanelRow:
    pixels = np.zeros((8, 12, 3), np.uint8)
    return PanelRow("a photo", tuple(Panel(label, pixels, "1 dB") for label in ("damaged", *labels, "truth")))


class Parsed(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.loads = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "xlink:href", "style", "onload")]

    def handle_data(self, data):
        self.words.append(data)


ODD = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "фото & 猫",
    "x" * 300,
    "`a`|b\n",
    "\u202egpj.exe",
]


@pytest.mark.parametrize("labels", [["one"], ["a", "b"], ODD, [f"model {n}" for n in range(20)]])
@pytest.mark.parametrize("pictures", [1, 4, 500])
def test_a_page_of_any_models_is_whole_and_runs_nothing(labels, pictures):
    evaluations = {label: evaluation(-number, pictures=pictures) for number, label in enumerate(labels)}
    found = lead(interval=None, p=0.5, groups=pictures) if pictures < 6 else lead()
    report = Report(evaluations, lead=found if len(labels) > 1 else None, facts={"masks": "<b>irregular"})
    parsed = Parsed(page(report, photo=row(labels), examples=[row(labels)] * 4, worst=[row(labels)] * 2))
    assert "script" not in parsed.tags
    assert parsed.tags.count("img") == 7 * (len(labels) + 2)
    assert all(load.startswith(("data:image/", "--columns:")) for load in parsed.loads)
    # The sentence first, then a picture, then charts, then tables.
    assert [parsed.tags.index(tag) for tag in ("h1", "img", "svg", "table")] == sorted(
        parsed.tags.index(tag) for tag in ("h1", "img", "svg", "table")
    )
    everything = " ".join(parsed.words)
    assert all(label.replace("`", "").replace("\u202e", "") in everything for label in labels)
    assert everything.count("p is the two-sided chance") == 1


def test_charts_are_wellformed_and_have_a_mark_for_each_bin_of_each_model():
    evaluations = {"a<b>&": evaluation(), "b": evaluation(1, bins={"all": {}, "10-20": {"psnr": float("nan")}})}
    drawn = ET.fromstring(chart(evaluations, "psnr"))
    assert len([e for e in drawn.iter() if e.get("class", "").startswith("mark")]) == 6
    assert len([e for e in drawn.iter() if e.get("class", "").startswith("bar")]) == 6
    assert chart({"a": evaluation(bins={"all": {}})}, "psnr") == ""
    flat = chart({"a": evaluation(intervals=dict.fromkeys(BINS))}, "ssim")
    assert not re.search(r"nan|inf", flat.lower().replace("polyline", ""))


def test_series_of_a_chart_are_told_apart():
    labels = [f"model {number}" for number in range(16)]
    marks = re.findall(r"<(circle|polygon) class=\"(mark [^\"]*)\"(?: points=\"(.*?)\")?", legend(labels))
    assert len(marks) == len(set(marks)) == 16


def test_a_sheet_of_many_models_has_its_whole_photo_smaller():
    photo = PanelRow("a photo", tuple(Panel(f"m{number}", np.zeros((400, 600, 3), np.uint8)) for number in range(11)))
    [(_, sheet)] = titled_strips([photo])
    assert 2000 < sheet.shape[1] < 2600
    few = PanelRow("a photo", photo.panels[:3])
    [(_, sheet)] = titled_strips([few])
    assert sheet.shape[1] > 1800


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (lead(), "good is the best with 21.00 dB PSNR, 1.00 dB above bad (95 % interval 0.50 to 1.50, p = 0.01)"),
        (lead(p=1e-5), "p < 0.001"),
        (lead(p=0.2, interval=(-0.2, 2)), "which may be chance (95 % interval -0.20 to 2.00, p = 0.2)"),
        (lead(0.0, p=1.0), "are equal"),
        (lead(p=0.125, interval=None, groups=4), "too few to tell from chance (p = 0.12; "),
    ],
)
def test_the_sentence_says_how_sure_it_is(found, sentence):
    evaluations = {"bad": evaluation(), "good": evaluation(1.0)}
    assert ranking(evaluations) == ["good", "bad"]
    assert sentence in headline(evaluations, found)


def test_one_model_and_few_pictures_have_a_sentence_of_their_own():
    assert headline({"m": evaluation()}, None) == (
        "m reaches 20.00 dB PSNR (95 % interval 19.90 to 20.10) on 500 pictures with 500 holes."
    )
    few = headline({"m": evaluation(pictures=1)}, None)
    assert "on 1 picture with 1 hole; fewer than 6 pictures have no 95 % interval" in few


def test_the_leaderboard_is_ranked_and_shows_what_more_was_measured():
    evaluations = {"bad": evaluation(), "good": evaluation(1.0)}
    for number, one in enumerate(evaluations.values()):
        one["bins"] = {**one["bins"], "all": {**one["bins"]["all"], "lpips": 0.25 + number}}
    table = leaderboard(Report(evaluations))
    assert table["columns"] == ["", "model", "PSNR dB", "SSIM", "L1 %", "LPIPS"]
    assert [cells[:2] for cells in table["rows"]] == [["1", "good"], ["2", "bad"]]
    assert table["rows"][0][2:] == ["21.00 [20.90, 21.10]", "1.8000 [1.7000, 1.9000]", "4.00 [3.90, 4.10]", "1.2500"]
    lines = terminal_text(Report(evaluations, lead=lead())).splitlines()
    assert lines[0].startswith("good is the best")
    assert lines[3].split()[:3] == ["1", "good", "21.00"]
    assert "cannot say less than p = 0.12" in terminal_text(Report({"m": evaluation(pictures=4)}))


def test_what_differs_from_the_paper_is_said_once_for_all_models():
    notes = paper_notes(Report({name: evaluation() for name in "abc"}))
    assert len(notes) == len(set(notes))
    assert "pictures of 64 pixels, the paper's have 256" in notes
    assert any(note.startswith("b: ") for note in paper_notes(Report({"a": evaluation(), "b": evaluation(size=32)})))


def test_captions_of_a_strip_are_shown_in_full():
    [(_, sheet)] = titled_strips([row(["classical:telea", "a very long name of a model, really very long indeed"])])
    panels = 4
    assert sheet.shape[1] // panels > 6 * len("a very long name of..very long indeed 1 dB")
