"""A report replaces files of earlier reports and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.evaluation.report_folder import report_folder, write_files
from trainplane.errors import UserError

FILES = {"report.html": b"page", "figure.png": b"png", "scores-0.csv": b"1"}


def test_a_report_may_replace_an_earlier_one(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    for turn in (b"1", b"2"):
        assert report_folder(str(folder)) == folder
        write_files(folder, {name: data + turn for name, data in FILES.items()})
    assert (folder / "report.html").read_bytes() == b"page2"
    # Files of the user that no report has stay and are no obstacle.
    (folder / "notes.txt").write_text("mine")
    (folder / "scores-0.csv").unlink()
    report_folder(str(folder))
    # What an interrupted report left is ours: the list is written first, and each file at once.
    (folder / "figure.png").write_bytes(b"png1")
    report_folder(str(folder))


@pytest.mark.parametrize(
    "name", ["report.html", "report.json", "worst.png", "scores-12.csv", "files.json", "pairs.json"]
)
@pytest.mark.parametrize("after_a_report", [False, True])
def test_a_file_of_the_user_is_not_replaced(tmp_path: Path, name: str, after_a_report: bool) -> None:
    if after_a_report:
        write_files(tmp_path, FILES)
    (tmp_path / name).write_text('{"kind": "mine", "sha256": []}')
    with pytest.raises(UserError, match=f"holds {'figure.png' if after_a_report and name == 'files.json' else name}"):
        report_folder(str(tmp_path))
    assert (tmp_path / name).read_text() == '{"kind": "mine", "sha256": []}'


def test_a_link_or_a_folder_of_that_name_is_the_users(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"page")
    for number, make in enumerate((lambda path: path.symlink_to(target), lambda path: path.mkdir())):
        folder = tmp_path / str(number)
        write_files(folder, FILES)
        (folder / "report.html").unlink()
        make(folder / "report.html")
        with pytest.raises(UserError, match=r"holds report\.html"):
            report_folder(str(folder))


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"kind": "isnet report"}), "[" * 100_000])
def test_a_damaged_list_makes_nothing_ours(tmp_path: Path, text: str) -> None:
    write_files(tmp_path, FILES)
    (tmp_path / "files.json").write_text(text)
    with pytest.raises(UserError, match="give an empty or a new folder with -o"):
        report_folder(str(tmp_path))
