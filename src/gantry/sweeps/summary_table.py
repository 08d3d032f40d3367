"""Says what a sweep is about to do, and formats its jobs with their status and results as a text table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import get_terminal_size

from gantry.core.config.overrides import labels, of_the_run
from gantry.core.files import read_json
from gantry.core.processes.devices import short_name
from gantry.core.text import show
from gantry.runs.folder import PROGRESS_FILE, SUMMARY_FILE, read_status
from gantry.runs.sweep_record import SweepRecord
from gantry.sweeps.job import Job

NAMED = 8  # values of a swept option that are listed
REASON = 90  # characters of a reason; the whole one is shown where the job ends, and in the report
SHORTEST, LEAST = 12, 4  # characters of a job's label where the terminal is narrow, and with all columns left out
DROPPED = ("images/s", "GPU", "start", "last", "steps", "metric", "status")  # where it is, in this order
HEAD = ("job", "run", "status", "GPU", "steps", "metric", "start", "best", "last", "images/s")
DEVICE = HEAD.index("GPU")


def beginning(jobs: Sequence[Job], at_once: int | None, folder: Path) -> str:
    """Return two lines: how many jobs there are and of what; how many run at a time, and where their files go.

    Args:
        at_once: the most jobs at a time; None: as many as the GPUs take.
        folder: the sweep's.
    """
    steps = sorted({int(job.config.steps) for job in jobs})
    budget = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    options = " x ".join(swept([job.record.overrides for job in jobs]))
    pace = "as many at a time as there is room for on the GPUs" if at_once is None else f"{at_once} at a time"
    return (
        f"{len(jobs)} job{'s' * (len(jobs) > 1)}{f': {options}' if options else ''}; {budget} generator steps each\n"
        f"{pace}, in {show(folder)}"
    )


def swept(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Return each option whose value differs between jobs, with its values in their order: `model=vanilla,dcgan`."""
    values: dict[str, list[str]] = {}
    for overrides in jobs:
        for text in of_the_run(overrides):
            key, _, value = text.partition("=")
            values.setdefault(key, [])
            values[key] += [value] if value not in values[key] else []
    several = {key: each for key, each in values.items() if len(each) > 1}
    return [
        f"{key}={','.join(each)}" if len(each) <= NAMED else f"{key}={each[0]},..,{each[-1]} ({len(each)} values)"
        for key, each in several.items()
    ]


def table(sweep: SweepRecord, width: int | None = None) -> str:
    """Return one line a job, with its GPU where any has one; an unfinished job's has its last step and the reason.

    Args:
        width: characters of a line: columns are left out, and named, to keep to it. None: those of the terminal,
            where there is one.
    """
    rows: list[tuple[str, ...]] = [HEAD]
    reasons, waiting = [], 0
    for job, label in zip(sweep.jobs, labels([job.overrides for job in sweep.jobs]), strict=True):
        folder = sweep.folder / job.folder
        status, reason = read_status(folder)
        rows.append(
            (str(job.number), label, status or "not started", short_name(job.device or ""), *reached(folder, status))
        )
        if status is None:
            waiting += 1
        elif status != "FINISHED":
            reasons.append(f"job {job.number}: {status}, {shortened(reason or '')}")
    if waiting:
        reasons.append(f"{waiting} not started")
    if not any(job.device for job in sweep.jobs):
        rows = [row[:DEVICE] + row[DEVICE + 1 :] for row in rows]
    if width is None and sys.stdout.isatty():
        width = get_terminal_size().columns
    lines, left_out = narrowed(rows, width)
    return "\n".join(["", *lines, *([f"not shown: {', '.join(left_out)}"] if left_out else []), *reasons])


def shortened(reason: str) -> str:
    """Return a reason's first line, cut where it is long."""
    line = reason.partition("\n")[0]
    return line if len(line) <= REASON else f"{line[: REASON - 3].rstrip()}..."


def narrowed(rows: Sequence[tuple[str, ...]], width: int | None) -> tuple[list[str], list[str]]:
    """Align rows, the first of which is the head, to at most `width` characters; return the lines and what they lack.

    The labels are shortened first, then columns are left out.
    """
    left_out: list[str] = []
    for name in ("", *DROPPED):
        if name in rows[0]:
            at = rows[0].index(name)
            rows, left_out = [row[:at] + row[at + 1 :] for row in rows], [*left_out, name]
        lines = aligned(rows)
        over = 0 if width is None else max(map(len, lines)) - width
        longest = max(len(row[1]) for row in rows)
        if over > 0 and (longest - over >= SHORTEST or name == DROPPED[-1]):
            room = max(longest - over, LEAST)
            rows = [(row[0], cut(row[1], room), *row[2:]) for row in rows]
            lines, over = aligned(rows), 0
        if over <= 0:
            break
    return lines, left_out


def cut(label: str, room: int) -> str:
    """Return a label's end, which differs between jobs more often than its beginning does."""
    return label if len(label) <= room else f"...{label[3 - room :]}"


def reached(folder: Path, status: str | None) -> tuple[str, str, str, str, str, str]:
    """Return the progress of a job: steps, metric, its first, best and last value, images a second."""
    summary = read_json(folder / SUMMARY_FILE) if status == "FINISHED" else None
    if summary is not None:
        name = summary["primary"]
        start, best, last = (_number(summary[when].get(name)) for when in ("first", "best", "final"))
        return str(summary["steps"]), name, start, best, last, f"{summary['images_per_second']:,.0f}"
    progress = read_json(folder / PROGRESS_FILE)
    if progress is None:
        return "", "", "", "", "", ""
    from gantry.reports.run import from_folder

    name, curves = progress["metric"], from_folder(folder).curves
    measured, bests = list(curves.get(name, {}).values()), list(curves.get(f"best/{name}", {}).values())
    start, best = (_number(values[at]) if values else "" for values, at in ((measured, 0), (bests, -1)))
    return f"{progress['step']}/{progress['steps']}", name, start, best, _number(progress["value"]), ""


def _number(value: float | None) -> str:
    return "nan" if value is None else f"{value:.2f}"


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align the columns of rows of equal length."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
