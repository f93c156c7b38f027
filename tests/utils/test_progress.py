"""Progress on a terminal and off it."""

import io
import re
import sys

import pytest

from tests.fake_terminal import Terminal, set_clock
from vitdeblur_jax.utils import progress
from vitdeblur_jax.utils.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    return set_clock(monkeypatch, progress)


def test_quick_work_off_a_terminal_says_nothing(capsys, clock):
    with Progress(3, "windows") as bar:
        for _ in range(3):
            clock.now += 9
            bar.advance()
    assert capsys.readouterr() == ("", "")


def test_long_work_off_a_terminal_says_a_line_now_and_then(capsys, clock):
    with Progress(10, "windows") as bar:
        for _ in range(5):
            clock.now += 20
            bar.advance(2)
    assert capsys.readouterr().err.splitlines() == [
        "4 of 10 windows, 0.1 a second, 60 s left",
        "8 of 10 windows, 0.1 a second, 20 s left",
    ]


def test_a_terminal_shows_a_bar(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(3, "windows") as bar:
        for _ in range(3):
            clock.now += 40
            bar.advance()
    shown = sys.stderr.getvalue()
    assert "3/3" in shown
    assert "windows/s" in shown
    assert "a second" not in shown
    assert shown.endswith("\n")  # what follows begins on a line of its own


def test_a_bar_inside_another_is_removed(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(3, "steps"):
        with Progress(2, "validation images"):
            pass
        *_, inner, erased = sys.stderr.getvalue().split("\r")
    assert "0/2" in inner
    assert erased.strip(" \x1b[A") == ""


@pytest.mark.parametrize("stderr", [io.StringIO, Terminal])
def test_a_process_that_is_not_the_first_shows_nothing(monkeypatch, clock, stderr):
    monkeypatch.setattr(sys, "stderr", stderr())
    with Progress(3, "images", shown=False) as bar:
        clock.now += 40
        bar.advance()
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize("stderr", [io.StringIO, Terminal])
def test_say_prints_a_whole_line(monkeypatch, stderr):
    monkeypatch.setattr(sys, "stderr", stderr())
    with Progress(3, "steps") as bar:
        bar.advance()
        bar.say("loss 0.5")
    assert "loss 0.5" in re.split("[\r\n]", sys.stderr.getvalue())


def test_an_error_ends_the_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyboardInterrupt), Progress(3, "steps"):
        raise KeyboardInterrupt
    assert sys.stderr.getvalue().endswith("\n")


def test_rate_and_time_left_leave_out_what_was_done_before(capsys, clock):
    with Progress(10, "steps", done=6) as bar:
        clock.now += 40
        bar.advance(2)
    assert capsys.readouterr().err == "8 of 10 steps, 0.05 a second, 40 s left\n"


def test_a_bar_begins_at_what_was_done_before(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(10, "steps", done=6) as bar:
        bar.advance()
    shown = sys.stderr.getvalue()
    assert "6/10" in shown
    assert "7/10" in shown


def test_a_report_is_a_note_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(3, "steps", periodic_lines=False) as bar:
        bar.advance()
        bar.report("loss 0.5", "step 1 of 3: loss 0.5")
    shown = sys.stderr.getvalue()
    assert "loss 0.5" in shown
    assert "step 1 of 3" not in shown


def test_a_report_is_the_only_line_off_a_terminal(capsys, clock):
    with Progress(3, "steps", periodic_lines=False) as bar:
        clock.now += 100
        bar.advance()
        bar.report("loss 0.5", "step 1 of 3: loss 0.5")
    assert capsys.readouterr().err == "step 1 of 3: loss 0.5\n"
