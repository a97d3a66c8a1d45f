"""What people see of a run: a line every few seconds where there is no terminal, sentences as they come."""

import errno
import fcntl
import io
import os
import struct
import sys
import termios

import pytest

from jobs.cli import progress
from jobs.cli.progress import Bar, losses


class Hands:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def hands(monkeypatch):
    clock = Hands()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_plain_lines_come_every_few_seconds_with_the_pace_and_what_is_left(hands, capsys):
    bar = Bar()
    for step in range(1, 101):
        bar.update(step, 100, 12.34, {"train/generator": 3.21, "train/discriminator": 0.5, "val/psnr": 21.5})
        hands.now += 1.0
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[0] == "train: step 1/100, 12.3 pictures/s, val psnr 21.50 dB, G 3.21, D 0.5"
    assert lines[1] == "train: step 6/100, 12.3 pictures/s, val psnr 21.50 dB, G 3.21, D 0.5, 2 min left"
    assert lines[-1].startswith("train: step 100/100")
    assert "left" not in lines[-1]


def test_a_run_that_went_back_starts_its_estimate_anew(hands, capsys):
    bar = Bar()
    for step in (50, 60, 10, 20):
        bar.update(step, 100, 1.0, {})
        hands.now += 10.0
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].endswith("40 s left")
    assert "left" not in lines[2]
    assert lines[3].endswith("80 s left")


def test_sentences_are_lines_of_their_own(capsys):
    Bar().emit("went back to step 3")
    assert capsys.readouterr().err == "isnet: went back to step 3\n"


def test_metrics_of_a_task_without_players_are_shown_by_name():
    assert losses({"train/loss": 0.25, "train/other": 1.0, "train/third": 1.0}) == ["loss 0.25", "other 1"]


def test_training_goes_on_where_nobody_reads_any_more(hands, monkeypatch):
    """A closed terminal answers EIO, a pipe whose reader has gone EPIPE."""

    class Gone(io.StringIO):
        def __init__(self, tty):
            super().__init__()
            self.tty, self.writes = tty, 0

        def isatty(self):
            return self.tty

        def write(self, text):
            self.writes += 1
            raise OSError(errno.EIO, "Input/output error")

    for tty in (False, True):
        stream = Gone(tty)
        monkeypatch.setattr(progress.sys, "stderr", stream)
        bar = Bar()
        for step in range(1, 4):
            bar.update(step, 3, 1.0, {})
            bar.emit("something")
            hands.now += 10
        bar.close()
        assert stream.writes > 0


def test_a_bar_follows_a_window_that_is_made_narrower(hands, monkeypatch):
    """One that is wider than its window wraps, and leaves a line behind five times a second."""
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb", buffering=0) as seen:
        monkeypatch.setattr(sys, "stderr", terminal)
        bar, drawn = Bar(), []
        for step, columns in ((1, 100), (2, 40)):
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            hands.now += 10.0
            bar.update(step, 100, 12.34, {"train/generator": 3.21, "val/psnr": 21.5})
            print("END", file=terminal, flush=True)
            text = b""  # a terminal hands on what was written in pieces, and when it likes
            while b"END" not in text:
                text += seen.read(4096)
            drawn.append(text.decode().split("END")[0].split("\r")[-1].rstrip())
        bar.close()
    assert [len(line) <= columns for line, columns in zip(drawn, (100, 40), strict=True)] == [True, True], drawn
    assert "2/100" in drawn[1]
