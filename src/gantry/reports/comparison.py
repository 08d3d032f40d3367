"""A comparison: what was found out, and its forms in the terminal and in MLflow's description."""

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

MARK = "<!-- comparison -->"  # begins our part of a run's description; not shown
NOTE_LIMIT = 8000  # characters MLflow takes of a description
FAILURES = 10  # lines of failed runs in the terminal and the description
CELL, SHORT = 44, 12  # characters of a label in the terminal, at most and at least


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs side by side.

    Attributes:
        title: what is compared.
        runs: all of them, whatever became of them.
        sets: those that were measured, in sets that can be ranked.
        metric: what to rank the sets by; None for the metric that picked the best steps.
        rulers: what was evaluated, in rankings of its own, one for each way of measuring.
        evaluated_first: what was asked for is one of these.
        steps: where to look besides the end; None for some evenly spread ones.
        store: address of the MLflow store they are in; None where read from folders.
        typed: the sweep's command line.
        report: the HTML file.
        made: when.
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
    made: datetime = field(default_factory=datetime.now)

    def steps_of(self, one: ComparableSet) -> list[int]:
        """The steps at which a set is looked at."""
        return sorted(self.steps) if self.steps is not None else spaced(one.measured_steps)

    @property
    def unfinished(self) -> list[Run]:
        """The runs that failed, were stopped, are under way or never began."""
        return [run for run in self.runs if run.status != "FINISHED"]

    @property
    def unmeasured(self) -> list[Run]:
        """Finished runs of which it is not known how they were measured while they trained, if they were."""
        placed = {run for one in self.sets for group in one.groups for run in group.finished}
        placed |= {run for one in self.sets for run in one.repeats}
        others = [run for run in self.runs if run.status == "FINISHED" and run not in placed]
        return [run for run in others if run.quality or not run.evaluations]

    def text(self, failures: bool = True) -> str:
        """For the terminal, as wide as that is; `failures` lists what did not finish."""
        width = shutil.get_terminal_size((100, 24)).columns
        lines = ["", *_wrapped(f"{self.title}: {tables.statuses(self.runs)}", width)]
        parts = [self._ranked(width), self._evaluated(width)]
        for part in reversed(parts) if self.evaluated_first else parts:
            lines += part
        lines += ["", *self._failures(width)] if failures and self.unfinished else []
        lines += ["", f"report     {show(self.report)}"]
        return "\n".join(lines)

    def _ranked(self, width: int) -> list[str]:
        """The rankings for the terminal."""
        lines = []
        if sentence := tables.separation(self.sets):
            lines += ["", *_wrapped(sentence, width)]
        for one in self.sets:
            lines += ["", *_wrapped(f"{one.title}; {one.measured}", width)]
            if one.standings:
                lines += _aligned(self._brief(one), width)
            lines += [line for note in tables.cautions(one, self.metric) for line in _wrapped(note, width, "  ")]
        return lines

    def evaluations_text(self) -> str:
        """The evaluations alone, for the terminal."""
        return "\n".join(self._evaluated(shutil.get_terminal_size((100, 24)).columns))

    def _evaluated(self, width: int) -> list[str]:
        """The evaluations for the terminal."""
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

    def markdown(self) -> str:
        """For MLflow's description, which shows the first lines: tables, at most `NOTE_LIMIT` characters, escaped."""
        parts = [self._ranked_markdown(), self._evaluated_markdown()]
        lines = [MARK, "", *itertools.chain(*(reversed(parts) if self.evaluated_first else parts))]
        lines += [_escaped(f"{tables.statuses(self.runs)}. Made {self.made:%Y-%m-%d %H:%M}."), ""]
        lines += [*(f"- {_escaped(line)}" for line in self._failures(200)), ""]
        end = "Curves, samples and cost: `comparison/report.html` among the artifacts."
        return _cut(lines, end, NOTE_LIMIT)

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
        """The first columns of the ranking, and the speed."""
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
) -> Comparison:
    """Put runs side by side.

    Raises:
        UserError: no run has such a metric, or was measured at such a step; the message names what there is.
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
        known = sorted({step for one in sets for step in one.measured_steps} | {0})
        if unknown := [step for step in steps if step not in known]:
            raise UserError(
                f"steps={unknown[0]}: not measured there; these runs were at {', '.join(map(str, known)) or 'no step'}"
            )
    return Comparison(
        title, runs, sets, report, metric, evaluations.rulers(runs, chosen), chosen is not None, steps, store, typed
    )


def _fitting(table: tables.Table, width: int) -> tuple[tables.Table, Sequence[str]]:
    """As many columns, five at least, as a terminal has room for beside a short label, and the heads of the others."""
    widths = [max(len(row[column]) for row in [table.head, *table.rows]) + 2 for column in range(len(table.head))]
    widths[1] = min(widths[1], SHORT + 2)
    shown = max(5, sum(total <= width for total in itertools.accumulate(widths)))
    return tables.Table(table.head[:shown], [row[:shown] for row in table.rows]), table.head[shown:]


def _markdown(table: tables.Table) -> list[str]:
    return [_row(table.head), "|" + " --- |" * len(table.head), *map(_row, table.rows), ""]


def _aligned(table: tables.Table, width: int) -> list[str]:
    """The table in columns, its labels shortened to what the terminal leaves them."""
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
    """Text that Markdown and the HTML in it take literally."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~-])", r"\\\1", plain)


def _row(cells: Sequence[str]) -> str:
    """A row of a Markdown table; MLflow's has no room between its cells and breaks numbers at blanks."""
    return "| " + " | ".join(_escaped(cell).replace(" ", "&nbsp;") + "&nbsp;&nbsp;" for cell in cells) + " |"


def _cut(lines: Sequence[str], end: str, limit: int) -> str:
    """As many whole lines as `limit` characters hold, and `end` after them."""
    text, left = "", limit - len(end) - 10
    for line in lines:
        if len(text) + len(line) > left:
            return f"{text}\n…\n\n{end}"
        text += line + "\n"
    return text + end
