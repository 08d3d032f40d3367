"""Formats the jobs of a sweep with their status and results as a text table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gantry.core.config.overrides import labels
from gantry.core.files import read_json
from gantry.core.processes.devices import short_name
from gantry.runs.folder import PROGRESS_FILE, SUMMARY_FILE, read_status
from gantry.runs.sweep_record import SweepRecord

HEAD = ("job", "run", "status", "GPU", "steps", "metric", "start", "best", "last", "images/s")
DEVICE = HEAD.index("GPU")


def table(sweep: SweepRecord) -> str:
    """Return one line a job, with its GPU where any has one; an unfinished job's has its last step and the reason."""
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
            reasons.append(f"job {job.number}: {status}, {reason}")
    if waiting:
        reasons.append(f"{waiting} not started")
    if not any(job.device for job in sweep.jobs):
        rows = [row[:DEVICE] + row[DEVICE + 1 :] for row in rows]
    return "\n".join(["", *aligned(rows), *reasons])


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
    return f"{progress['step']}/{progress['steps']}", progress["metric"], "", "", _number(progress["value"]), ""


def _number(value: float | None) -> str:
    return "nan" if value is None else f"{value:.2f}"


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align the columns of rows of equal length."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
