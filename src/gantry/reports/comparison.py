"""Compares runs, and formats the result for the terminal and for MLflow's description."""

from __future__ import annotations

import itertools
import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from gantry.core.errors import UserError
from gantry.core.text import show
from gantry.reports import evaluations, tables
from gantry.reports.ranking import ComparableSet, comparable_sets, spaced
from gantry.reports.run import Run
from gantry.runs.tracking.ui import Page

MARK = "<!-- comparison -->"  # in the first line of Gantry's part of a description; not displayed
NOTE_LIMIT = 8000  # characters that MLflow accepts in a description
FAILURES = 10  # lines of failed runs in the terminal and the description
CELL, SHORT = 44, 12  # characters of a label in the terminal, at most and at least


@dataclass(frozen=True, eq=False)
class Comparison:
    """A comparison of runs.

    Attributes:
        title: what is compared.
        runs: all runs, finished or not.
        sets: the runs that were measured, in sets that can be ranked.
        metric: the metric to rank the sets by; None for the metric that picked the best steps.
        rulers: rankings of the results of `python evaluate.py`, one per protocol.
        evaluated_first: whether the requested metric belongs to one of these.
        steps: steps to show besides the last; None for a few evenly spread ones.
        store: address of the MLflow store of the runs; None where read from folders.
        typed: the sweep's command line.
        sweep_page: address of the sweep in MLflow.
        report: the HTML file.
        page: MLflow's page that shows it; None where the store does not.
        no_page: why not.
        made: time of the comparison.
    """

    title: str
    runs: Sequence[Run]
    sets: Sequence[ComparableSet]
    report: Path
    metric: str | None = None
    rulers: Sequence[evaluations.Ruler] = ()
    evaluated_first: bool = False
    steps: Sequence[int] | None = None
    store: str | None = None
    typed: Sequence[str] = ()
    sweep_page: str | None = None
    page: Page | None = None
    no_page: str = "no run of this comparison is in the MLflow store; tracking.uri=... names another"
    made: datetime = field(default_factory=datetime.now)

    def steps_of(self, one: ComparableSet) -> list[int]:
        """Return the steps to show of a set."""
        return sorted(self.steps) if self.steps is not None else spaced(one.measured_steps)

    @property
    def unfinished(self) -> list[Run]:
        """Return the runs that failed, were stopped, are under way or never began."""
        return [run for run in self.runs if run.status != "FINISHED"]

    @property
    def unmeasured(self) -> list[Run]:
        """Return the finished runs that are in no set, since the protocol of their metrics is not known."""
        placed = {run for one in self.sets for group in one.groups for run in group.finished}
        placed |= {run for one in self.sets for run in one.repeats}
        others = [run for run in self.runs if run.status == "FINISHED" and run not in placed]
        return [run for run in others if run.quality or not run.evaluations]

    def text(self, failures: bool = True) -> str:
        """Format the comparison for the terminal's width; `failures` lists the runs that did not finish."""
        width = shutil.get_terminal_size((100, 24)).columns
        lines = ["", *_wrapped(f"{self.title}: {tables.statuses(self.runs)}", width)]
        parts = [self._ranked(width), self._evaluated(width)]
        for part in reversed(parts) if self.evaluated_first else parts:
            lines += part
        lines += ["", *self._failures(width)] if failures and self.unfinished else []
        lines += ["", f"report     {show(self.report)}"]
        lines += [f"look at    {show(picture)}"] if (picture := self._picture()) is not None else []
        return "\n".join([*lines, *(self.page.lines() if self.page else [])])

    def _picture(self) -> Path | None:
        """Return the samples of the first set that has any, as they were written beside the report."""
        names = [f"samples_{number}.png" for number in range(1, len(self.sets) + 1)]
        files = [self.report.with_name(name) for name in (names if len(names) > 1 else ["samples.png"])]
        return next((file for file in files if file.exists()), None)

    def _ranked(self, width: int) -> list[str]:
        """Format the rankings for the terminal."""
        lines = []
        if sentence := tables.separation(self.sets):
            lines += ["", *_wrapped(sentence, width)]
        for one in self.sets:
            lines += ["", *_wrapped(f"{one.title}; {one.measured}", width)]
            notes = tables.cautions(one, self.metric)
            if one.standings:
                table, left_out = _fitting(self._brief(one), width)
                lines += _aligned(table, width)
                notes = [*notes, *([f"In the report also: {', '.join(left_out)}."] if left_out else [])]
            lines += [line for note in notes for line in _wrapped(note, width, "  ")]
        return lines

    def evaluations_text(self) -> str:
        """Format the evaluations alone, for the terminal."""
        return "\n".join(self._evaluated(shutil.get_terminal_size((100, 24)).columns))

    def _evaluated(self, width: int) -> list[str]:
        """Format the evaluations for the terminal."""
        lines = []
        if sentence := evaluations.separation(self.rulers):
            lines += ["", *_wrapped(sentence, width)]
        for ruler in self.rulers:
            table, left_out = _fitting(evaluations.table(ruler), width)
            notes = [
                *evaluations.cautions(ruler),
                *([f"In the report also: {', '.join(left_out)}."] if left_out else []),
            ]
            lines += ["", *_wrapped(f"{ruler.title} ({ruler.key})", width), *_aligned(table, width)]
            lines += [line for note in notes for line in _wrapped(note, width, "  ")]
        return lines

    def markdown(self, pictures: str = "", limit: int = NOTE_LIMIT, heading: str = "") -> str:
        """Format the comparison for MLflow's descriptions: escaped tables, and the Markdown of pictures.

        Args:
            limit: largest number of characters.
            heading: begins it, without formatting, since MLflow's lists show a description's beginning as it is.
        """
        parts = [self._ranked_markdown(), self._evaluated_markdown()]
        lines = [
            f"{heading or tables.statuses(self.runs)} {MARK}",
            "",
            *itertools.chain(*(reversed(parts) if self.evaluated_first else parts)),
        ]
        lines += [_escaped(f"{tables.statuses(self.runs)}. Made {self.made:%Y-%m-%d %H:%M}."), ""]
        lines += [*(f"- {_escaped(line)}" for line in self._failures(200)), ""]
        end = "Curves, samples and cost: `comparison/report.html` among the artifacts."
        return _cut(lines, f"{pictures}\n\n{end}" if pictures else end, limit)

    def _ranked_markdown(self) -> list[str]:
        lines = []
        for one in self.sets:
            lines += [f"**{_escaped(one.title)}**", ""]
            if one.standings:
                lines += _markdown(tables.ranking(one, ()))
                lines += [f"{_escaped(one.measured)}. {_escaped(tables.basis(one))}", ""]
            lines += [*(f"- {_escaped(note)}" for note in tables.cautions(one, self.metric)), ""]
        if sentence := tables.separation(self.sets):
            lines += [_escaped(sentence), ""]
        return lines

    def _evaluated_markdown(self) -> list[str]:
        lines = []
        for ruler in self.rulers:
            lines += [f"**{_escaped(ruler.title)}**", "", *_markdown(evaluations.table(ruler))]
            lines += [f"{_escaped(evaluations.basis(ruler))} {_escaped(f'Key: {ruler.key}.')}", ""]
            lines += [*(f"- {_escaped(note)}" for note in evaluations.cautions(ruler)), ""]
        if sentence := evaluations.separation(self.rulers):
            lines += [_escaped(sentence), ""]
        return lines

    def _brief(self, one: ComparableSet) -> tables.Table:
        """Return the first columns of the ranking, and the speed."""
        full, cost = tables.ranking(one, self.steps or ()), tables.cost(one)
        shown = 5 + sum(name.startswith("step ") for name in full.head)
        speeds = {}
        if "real images a second" in cost.head:
            column = cost.head.index("real images a second")
            speeds = {row[0]: row[column] for row in cost.rows}
        rows = [(*row[:shown], speeds.get(row[1], tables.ABSENT)) for row in full.rows]
        return tables.Table((*full.head[:shown], "images/s"), rows)

    def _failures(self, width: int) -> list[str]:
        listed = [f"{run.name}: {run.status}, {tables.reason(run)}".rstrip(", ") for run in self.unfinished]
        lines = [_short(" ".join(line.split()), width) for line in listed[:FAILURES]]
        more = len(listed) - len(lines)
        return [*lines, *([f"and {more} more"] if more else [])]


def compare(
    runs: Sequence[Run],
    title: str,
    report: Path,
    *,
    metric: str | None = None,
    steps: Sequence[int] | None = None,
    store: str | None = None,
    typed: Sequence[str] = (),
    sweep_page: str | None = None,
) -> Comparison:
    """Compare runs; see `Comparison` for the arguments.

    Raises:
        UserError: no run has such a metric, or was measured at such a step; the message names the valid ones.
    """
    metrics = list(dict.fromkeys(name for run in runs for name in run.quality))
    chosen = None
    if metric is not None and metric not in metrics:
        chosen = evaluations.find(metric, runs)
        if chosen is None:
            names = ", ".join([*metrics, *evaluations.choices(runs)]) or "none"
            raise UserError(f"metric={metric}: not measured in these runs, which have {names}")
        metric = None
    sets = comparable_sets(runs, metric)
    if steps is not None:
        valid = sorted({step for one in sets for step in one.measured_steps} | {0})
        if unknown := [step for step in steps if step not in valid]:
            raise UserError(
                f"steps={unknown[0]}: not measured there; these runs were at {', '.join(map(str, valid)) or 'no step'}"
            )
    return Comparison(
        title,
        runs,
        sets,
        report,
        metric,
        evaluations.rulers(runs, chosen),
        chosen is not None,
        steps,
        store,
        typed,
        sweep_page,
    )


def _fitting(table: tables.Table, width: int) -> tuple[tables.Table, Sequence[str]]:
    """Return the columns that fit the terminal beside a short label, at least four, and the heads of the others."""
    widths = [max(len(row[column]) for row in [table.head, *table.rows]) + 2 for column in range(len(table.head))]
    widths[1] = min(widths[1], SHORT + 2)
    shown = max(4, sum(total <= width for total in itertools.accumulate(widths)))
    return tables.Table(table.head[:shown], [row[:shown] for row in table.rows]), table.head[shown:]


def _markdown(table: tables.Table) -> list[str]:
    return [_row(table.head), "|" + " --- |" * len(table.head), *map(_row, table.rows), ""]


def _aligned(table: tables.Table, width: int) -> list[str]:
    """Align the table in columns, and shorten its labels to the terminal's width."""
    rows = [table.head, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.head))]
    rest = sum(widths) - widths[1] + 2 * len(widths)
    widths[1] = min(widths[1], max(SHORT, min(CELL, width - rest)))
    lines = []
    for row in rows:
        cells = [
            _short(cell, size).ljust(size) if column <= 1 else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 1)] + "…"


def _escaped(text: str) -> str:
    """Escape text for Markdown and the HTML in it."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~-])", r"\\\1", plain)


def _row(cells: Sequence[str]) -> str:
    """Format a row of a Markdown table, with hard blanks, since MLflow pads no cells and breaks numbers at blanks."""
    return "| " + " | ".join(_escaped(cell).replace(" ", "&nbsp;") + "&nbsp;&nbsp;" for cell in cells) + " |"


def _cut(lines: Sequence[str], end: str, limit: int) -> str:
    """Return as many whole lines as fit in `limit` characters, followed by `end`."""
    text, left = "", limit - len(end) - 10
    for line in lines:
        if len(text) + len(line) > left:
            return f"{text}\n…\n\n{end}"
        text += line + "\n"
    return text + end
