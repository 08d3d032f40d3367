"""Progress is a bar in a terminal, a line now and then elsewhere, and nothing for what is quickly done."""

import io
import re

import pytest

from gantry.core import progress as module
from gantry.core.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_go_to_what_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0)
    with progress("images", 200, "image", done=100, delay=0) as bar:
        bar.advance(50)
        bar.reach(200)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(", ")[0] for line in lines] == [
        "images:  75%| 150/200 image",
        "images: 100%| 200/200 image",
        "images: 100%| 200/200 image",
    ]
    assert all(re.search(r", [\d.e+]+ image/s$", line) for line in lines)


def test_lines_are_few(capsys):
    with progress("images", 100, "image", delay=0) as bar:
        for _ in range(100):
            bar.advance(1)
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("options", [{"delay": 60}, {"delay": 0, "lines": False}])
def test_quick_work_and_work_that_is_to_be_quiet_write_nothing(capsys, options):
    with progress("images", 2, "image", **options) as bar:
        bar.advance(2)
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress("classifiers", None, "step", delay=0) as bar:
        bar.reach(1, 4)
        bar.reach(4)
    shown = terminal.getvalue()
    assert all(part in shown for part in ("classifiers", "100%", "4/4", "step/s"))
