"""The jobs of a sweep with their status and what they reached, as text."""

from __future__ import annotations

from collections.abc import Sequence

from gantry.launch.record import SweepRecord, labels, read_json, read_status
from gantry.summary import FILE as SUMMARY_FILE

HEAD = ("job", "run", "status", "steps", "metric", "start", "best", "final", "images/s")


def table(sweep: SweepRecord) -> str:
    """One line a job; what did not finish says why."""
    rows: list[tuple[str, ...]] = [HEAD]
    reasons = []
    for job, label in zip(sweep.jobs, labels([job.overrides for job in sweep.jobs]), strict=True):
        folder = sweep.folder / job.folder
        status, reason = read_status(folder)
        row = (str(job.number), label, status or "not started")
        summary = read_json(folder / SUMMARY_FILE) if status == "FINISHED" else None
        if status != "FINISHED":
            reasons.append(f"job {job.number}: {status or 'not started'}{f', {reason}' if reason else ''}")
        if summary is None:
            rows.append((*row, *[""] * (len(HEAD) - len(row))))
            continue
        name = summary["primary"]
        found = [summary[when].get(name) for when in ("first", "best", "final")]
        values = ["nan" if value is None else f"{value:.2f}" for value in found]
        rows.append((*row, str(summary["steps"]), name, *values, f"{summary['images_per_second']:,.0f}"))
    return "\n".join(["", *aligned(rows), *reasons])


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of equal length with their columns set under one another."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
