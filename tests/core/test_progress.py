"""Progress is a bar in a terminal, a line now and then elsewhere, and nothing for what is quickly done."""

import io
import itertools
import logging
import re
import sys

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


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """A terminal like most, whatever the tests run in."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    module._console.cache_clear()


def test_a_terminal_shows_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress("classifiers", None, "step", delay=0) as bar:
        bar.reach(1, 4)
        bar.reach(4)
    shown = terminal.getvalue()
    assert all(part in shown for part in ("classifiers", "100%", "4/4", "step/s"))


def test_a_line_has_the_time_left_and_the_note(capsys, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0)
    now = itertools.count()
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    with progress("toy", 100, "step", delay=0) as bar:
        bar.note = "fid=1.50"
        bar.reach(50)
    assert re.match(r"toy:  50%\| 50/100 step, 0:00:\d\d left, fid=1.50, [\d.]+ step/s\n", capsys.readouterr().err)


def test_lines_on_a_terminal_go_above_the_bars(monkeypatch):
    """Written by print or by a handler that was made before; the terminal is as it was in the end."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("sys.stdout", terminal)
    handler = logging.StreamHandler(terminal)
    monkeypatch.setattr(logging.root, "handlers", [handler])
    with progress("outer [red]", 4, "step", delay=0) as outer:
        outer.reach(1)
        with progress("inner", 4, "image", delay=0) as inner:
            inner.reach(2)
            print("printed [red]")
            logging.getLogger("gantry").warning("logged")
            inner.reach(4)
    assert sys.stderr is sys.stdout is handler.stream is terminal
    shown = [re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", terminal.getvalue())]
    at = [shown.index("printed [red]"), shown.index("logged")]
    for place in at:
        assert shown[place + 1].startswith("outer [red]")
        assert shown[place + 2].startswith("inner")


def test_a_failure_wipes_the_bar_off_the_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)

    def interrupted():
        with progress("images", 4, "image", delay=0) as bar:
            bar.reach(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert terminal.getvalue().rpartition("images")[2].endswith("\x1b[?25h\r\x1b[1A\x1b[2K")
    assert sys.stderr is terminal


def test_a_terminal_that_is_gone_ends_no_work(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(module, "REDRAWN", 0)
    monkeypatch.setattr("sys.stderr", terminal)
    with progress("images", 4, "image", delay=0) as bar:
        bar.reach(1)
        monkeypatch.setattr(terminal, "write", lambda text: (_ for _ in ()).throw(OSError("gone")))
        bar.reach(2)
        bar.reach(3)
    assert bar.done == 3
    assert sys.stderr is terminal


def test_what_goes_to_a_file_stays_out_of_the_terminal(monkeypatch):
    terminal, file = Terminal(), io.StringIO()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("sys.stdout", file)
    with progress("images", 4, "image", delay=0) as bar:
        bar.reach(1)
        print("a result")
    assert file.getvalue() == "a result\n"
    assert "a result" not in terminal.getvalue()
