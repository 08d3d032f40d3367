"""Describes runs on MLflow's pages: Gantry's part of a description, and a view of the curves of a single run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from gantry.runs.directions import PRIMARY
from gantry.runs.tracking import ui
from gantry.runs.tracking.status import PARENT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NOTE = "mlflow.note.content"  # tag that MLflow shows as the description of a run or an experiment
NOTE_LIMIT = 8000  # characters that MLflow accepts in a run's
RUN = "<!-- run -->"  # in Gantry's part of a run's description; not displayed
SAMPLES = re.compile(r"images/samples[+~]step[+~](\d+)[+~].*\.png")
CURVES = 8  # charts of a run's metrics
NOT_DRAWN = ("best/", "final/", "eval/")  # beginnings of the names of metrics at few steps


def described(written: str, mark: str, text: str) -> str:
    """Return a description with `text` at its end, in place of the text that was put there before.

    Args:
        written: the description so far; what the user wrote above the line with the mark is kept.
        mark: in the first line of `text`, at its end, since MLflow shows the beginning as it is, without formatting.
    """
    kept, found, _ = written.partition(mark)
    kept = kept.rpartition("\n")[0].rstrip() if found else kept.rstrip()
    return f"{kept}\n\n{text}" if kept else text


def describe_run(client: MlflowClient, run_id: str) -> str | None:
    """Put the best values of an ended run and its samples into its description, and store a view of its curves.

    Of a job of a sweep no view is stored: an experiment's tags are sent with every page.

    Returns:
        The key of the view; None where none is stored.
    """
    run = client.get_run(run_id)
    text = _text(client, run)
    if text is not None:
        client.set_tag(run_id, NOTE, described(run.data.tags.get(NOTE, ""), RUN, text)[:NOTE_LIMIT], synchronous=True)
    key = f"gantry-{run_id}"
    if PARENT in run.data.tags or PRIMARY not in run.data.tags:
        return None
    return key if ui.store_view(client, run.info.experiment_id, key, view_of(client, run)) else None


def view_of(client: MlflowClient, run: Run) -> ui.View:
    """Return what MLflow's page shows of a run: its first metric, losses, samples, scores and other metrics."""
    names = [name for name in sorted(run.data.metrics) if not name.startswith(NOT_DRAWN)]
    primary = run.data.tags[PRIMARY]
    together = {kind: [name for name in names if name.startswith(f"{kind}/")] for kind in ("loss", "score")}
    final = [name.partition("/")[2] for name in sorted(run.data.metrics) if name.startswith("final/")]
    curves = {primary: [primary]} | {title: found for title, found in together.items() if found}
    curves |= {name: [name] for name in final if name in names and "_std" not in name}
    columns = ["params.variant", "params.seed", f"metrics.best/{primary}", f"metrics.final/{primary}"]
    return ui.View(
        f"attributes.run_id = '{run.info.run_id}'",
        dict(list(curves.items())[:CURVES]),
        step=max(_samples(client, run.info.run_id), default=0),
        title=run.info.run_name or ui.FIRST,
        columns=columns,
        folded=ui.sections_of(run.data.metrics),
    )


def _text(client: MlflowClient, run: Run) -> str | None:
    """Return the description of a run; None where it has neither a best value nor samples."""
    tags, metrics = run.data.tags, run.data.metrics
    primary = tags.get(PRIMARY, "")
    what = " on ".join(tags[name] for name in ("variant", "dataset") if name in tags)
    found = {at: metrics.get(f"{when}/{primary}") for when, at in (("best", "at best"), ("final", "at the end"))}
    reached = [f"{value:.4g} {at}" for at, value in found.items() if value is not None]
    samples = _samples(client, run.info.run_id)
    if not reached and not samples:
        return None
    history = client.get_metric_history(run.info.run_id, f"best/{primary}") if f"best/{primary}" in metrics else []
    best = max((point.step for point in history), default=0)
    parts = [f"{primary} {', '.join(reached)}"] if reached else []
    picture = []
    if samples:
        step = best if best in samples else max(samples)
        parts.append(f"samples at step {step}")
        address = f"get-artifact?path={quote(samples[step], safe='')}&run_uuid={run.info.run_id}"
        picture = ["", f"![samples]({address})"]
    return "\n".join([f"{what}: {'; '.join(parts)} {RUN}", *picture])


def _samples(client: MlflowClient, run_id: str) -> dict[int, str]:
    """Return the paths of a run's sample grids by step."""
    found = ((SAMPLES.fullmatch(file.path), file.path) for file in client.list_artifacts(run_id, "images"))
    return {int(match[1]): path for match, path in found if match is not None}
