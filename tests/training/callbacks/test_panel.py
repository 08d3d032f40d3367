"""A run on a terminal shows where it is, in any width and encoding; elsewhere it writes lines, and says how long."""

import io
import os
import re
import threading
from contextlib import suppress

import pytest
from rich.console import Console

from gantry.core import output
from gantry.core import progress as bars
from gantry.runs.folder import read_metrics
from gantry.training import run as training
from gantry.training.callbacks import forecast
from gantry.training.callbacks.forecast import Forecast, evaluations_left, words
from gantry.training.callbacks.panel import BLOCKS, State, compared, curve, lines

TAGS = {"variant": "dcgan", "dataset": "digits"}
NARROW = ["model.generator.width=4", "model.discriminator.width=4"]
SMALL = ["experiment=smoke", "model=dcgan", *NARROW, "steps=12", "metrics.every=4", "log_every=1"]
CODES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
VALUES = {
    "loss/discriminator": 0.8721,
    "loss/generator": 1.7549,
    "score/real": 0.7123,
    "score/fake": -0.9081,
    "images_per_second": 9815.4,
}


def plain(state, columns=100, encoding="utf-8"):
    return [text.plain for text in lines(state, columns, encoding)]


@pytest.fixture
def state(tmp_path):
    return State("fid", False, tmp_path, VALUES, {0: 96.0, 500: 3.874, 1000: 2.31}, 1000)


def test_the_panel_says_losses_scores_speed_the_metric_and_the_picture(state, tmp_path):
    assert plain(state, 200) == [
        "  loss: D 0.872, G 1.75   D's score: real 0.712, fake -0.908   9,815 images/s",
        "  fid: 2.31 at step 1000, better than 3.874 before (lower is better) █▂▁",
        f"  picture: {tmp_path}/samples/0001000.png",
    ]


def test_what_is_not_known_yet_is_left_out(tmp_path):
    assert plain(State("fid", False, tmp_path)) == []
    assert plain(State("fid", False, tmp_path, {"loss/generator": 1.0}, {0: 96.0})) == [
        "  loss: G 1",
        "  fid: 96 at step 0 (lower is better)",
    ]


def test_a_narrow_terminal_names_the_picture_by_its_end(state):
    assert plain(state, 40)[-1] == "  picture: samples/0001000.png"


def test_an_encoding_without_blocks_gets_no_curve(state):
    for encoding in ("ascii", "latin-1", "no-such-encoding"):
        assert plain(state, 200, encoding)[1].endswith("(lower is better)")


@pytest.mark.parametrize("width", [20, 200])
def test_names_are_shown_as_they_are(state, width):
    state.metric = "fid[red]:bug:"
    shown = io.StringIO()
    Console(file=shown, width=width, force_terminal=True, color_system=None).print(
        *lines(state, width, "utf-8"), sep="\n"
    )
    assert "fid[red]:bug:" in shown.getvalue()
    assert all(len(CODES.sub("", line)) <= width for line in shown.getvalue().splitlines())


@pytest.mark.parametrize(
    ("values", "higher", "said"),
    [
        ([], False, ""),
        ([3.0], False, ""),
        ([3.0, 2.0], False, "better"),
        ([3.0, 2.0], True, "worse"),
        ([2.0, 3.0], True, "better"),
        ([3.0, 3.0], True, "the same"),
        ([3.0, float("nan")], False, "not finite"),
        ([float("inf"), 3.0], False, ""),
    ],
)
def test_the_trend_knows_which_way_is_better(values, higher, said):
    assert compared(values, higher) == said


def test_a_curve_is_logarithmic_where_it_can_be():
    assert curve([1, 10, 100]) == BLOCKS[0] + BLOCKS[4] + BLOCKS[7]
    assert curve([-1, 0, 1]) == BLOCKS[0] + BLOCKS[4] + BLOCKS[7]
    assert curve([1.0, float("nan"), 2.0]) == f"{BLOCKS[0]} {BLOCKS[7]}"
    assert curve([1.0, 1.0]) == curve([]) == curve([float("nan")]) == ""


class Screen:
    """A pseudo-terminal for a run, of so many columns; what was written there, as text."""

    def __init__(self, encoding="utf-8", closed_at=None):
        self.main, side = os.openpty()
        self.stream = os.fdopen(side, "w", encoding=encoding, errors="replace", buffering=1)
        self.seen, self.closed_at = b"", closed_at
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        try:
            while part := os.read(self.main, 65536):
                self.seen += part
                if self.closed_at is not None and self.closed_at in self.seen:
                    break
        except OSError:  # the other end is closed
            pass
        os.close(self.main)

    def text(self):
        with suppress(OSError):
            self.stream.close()
        self.reader.join(10)
        return self.seen.decode(self.stream.encoding, errors="replace")


@pytest.fixture
def on_a_terminal(config, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()

    def train(columns=100, encoding="utf-8", closed_at=None, **variables):
        for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40", **variables}.items():
            monkeypatch.setenv(name, value)
        bars._console.cache_clear()
        monkeypatch.setattr(bars, "REDRAWN", 0)
        screen = Screen(encoding, closed_at)
        with monkeypatch.context() as streams:
            streams.setattr("sys.stdout", screen.stream)
            streams.setattr("sys.stderr", screen.stream)
            with output.shown():
                training.train(config(*SMALL), tmp_path / "run", TAGS)
        bars._console.cache_clear()
        steps = [record["step"] for record in read_metrics(tmp_path / "run") if "loss/generator" in record]
        assert steps == list(range(1, 13))
        return screen.text()

    return train


def test_a_run_on_a_terminal_has_a_panel(on_a_terminal, tmp_path):
    shown = CODES.sub("", on_a_terminal(columns=300))
    assert re.search(r"loss: D \S+, G \S+   D's score: real \S+, fake \S+   [\d,]+ images/s", shown)
    assert re.search(r"fid_classifier: \S+ at step 0 \(lower is better\)", shown)
    assert re.search(
        r"fid_classifier: \S+ at step 8, (better|worse) than \S+ before \(lower is better\) [▁-█]{3}", shown
    )
    assert f"picture: {tmp_path}/run/samples/0000008.png" in shown
    last = re.split(r"[\r\n]+", shown.rstrip())[-1]
    assert "12/12" in last  # the panel leaves the terminal, and the bar stays


def test_no_colour_is_asked_for_in_vain(on_a_terminal):
    coloured = re.compile(r"\x1b\[(?:\d+;)*(?:3|9)\d")
    assert not coloured.search(on_a_terminal(NO_COLOR="1"))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_narrow_terminal_is_never_written_beyond_its_width(on_a_terminal, encoding):
    shown = CODES.sub("", on_a_terminal(columns=60, encoding=encoding))
    panel = shown[shown.index("loss: D") :]
    assert max(len(line) for line in re.split(r"[\r\n]+", panel)) <= 60
    assert not re.search("[▁-█]", shown) or encoding == "utf-8"


def test_a_very_narrow_terminal_shows_the_name_and_the_count(on_a_terminal):
    lines = re.split(r"[\r\n]+", CODES.sub("", on_a_terminal(columns=20)))
    bars = [line.rstrip() for line in lines if re.search(r"\d+/12", line)]
    assert bars
    assert all(re.fullmatch(r"\S+ +\d+/12", line) and len(line) <= 20 for line in bars)
    assert not any("loss: D" in line for line in lines)


def test_a_terminal_that_closes_ends_no_run(on_a_terminal):
    assert "12/12" not in on_a_terminal(closed_at=b"loss: D")


def test_elsewhere_a_run_writes_lines_as_ever(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bars, "EVERY", 0)
    monkeypatch.setattr(forecast, "SECONDS", 0)
    (tmp_path / "run").mkdir()
    training.train(config(*SMALL), tmp_path / "run", TAGS)
    said = capsys.readouterr()
    assert re.search(r"(?m)^dcgan: +67%\| 8/12 step, 0:\d\d:\d\d left, fid_classifier=\d+\.\d\d, \S+ step/s$", said.err)
    assert "loss:" not in said.err
    assert said.out.splitlines()[1:4] == [
        "dcgan on digits: 12 generator steps, 192 real images, measured every 4",
        "time left: said once the first steps are done",
        f"output in {tmp_path}/run, its pictures in samples",
    ]
    assert (
        len(re.findall(r"(?m)^time left: about \d+ s, until \d\d:\d\d \(\d steps at \S+ a second.*\)$", said.out)) == 1
    )


def test_the_time_left_is_said_once_from_steps_that_were_timed():
    ahead = Forecast(steps=1000, every=300)
    seconds = [9.0, 9.1, 9.2, 10.2, 11.2, 12.1, 12.2, 13.2]  # the first step sets up what the others use
    said = [ahead.after(step, second, 7.0) for step, second in enumerate(seconds, 1)]
    assert [step for step, line in enumerate(said, 1) if line] == [7]
    assert re.fullmatch(
        r"time left: about 13 min, until \d\d:\d\d \(993 steps at 1.33 a second, and 4 x 7 s of measuring\)", said[6]
    )


def test_a_run_that_goes_on_times_its_own_steps():
    ahead = Forecast(steps=1000, every=300)
    assert [ahead.after(500 + step, 100 + 2.0 * step, 0.0) is None for step in range(1, 7)] == [True] * 5 + [False]


@pytest.mark.parametrize(
    ("step", "steps", "every", "left"), [(0, 10, 4, 3), (4, 10, 4, 2), (8, 10, 4, 1), (10, 10, 4, 0), (0, 8, 4, 2)]
)
def test_evaluations_that_are_left(step, steps, every, left):
    assert evaluations_left(step, steps, every) == left


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (7.4, "7 s"),
        (43, "45 s"),
        (99, "100 s"),
        (150, "2 min"),
        (5900, "98 min"),
        (7800, "2 h 10 min"),
        (7190, "2 h 0 min"),
        (200000, "2 days 8 h"),
    ],
)
def test_seconds_are_rounded_as_people_say_them(seconds, said):
    assert words(seconds) == said
