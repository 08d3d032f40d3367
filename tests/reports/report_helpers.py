"""Job folders as a run leaves them, made in milliseconds from closed forms."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from gantry.runs.tracking.folder_tracker import FolderTracker
from gantry.runs.tracking.tracker import Tracker

CLASSES = tuple("0123456789")
PARAMS = {
    "steps": "300",
    "batch_size": "128",
    "log_every": "50",
    "data._target_": "gantry.data.sources.digits",
    "metrics.every": "100",
    "paths.root": "/here",
}
VARIANTS = {
    "dcgan": {"model.loss._target_": "gantry.models.losses.non_saturating", "model.n_critic": "1"},
    "wgan": {
        "model.loss._target_": "gantry.models.losses.wasserstein",
        "model.n_critic": "5",
        "model.constraints.0._target_": "gantry.models.penalties.WeightClipping",
    },
}
PROTOCOL = {
    "metrics.data": "digits",
    "metrics.data_digest": "d" * 64,
    "metrics.split": "all",
    "metrics.n_real": "1797",
    "metrics.n_generated": "2000",
    "metrics.extractor": "classifier",
    "metrics.extractor_sha256": "e" * 64,
}


def grid(step: int, seed: int = 0, side: int = 8) -> np.ndarray:
    """A sample grid of 8 x 8 images, enlarged six times: each a grey of its own, brighter with the step."""
    levels = (np.arange(64) * 3 + step // 20 + seed).clip(0, 255).astype(np.uint8).reshape(8, 8)
    cells = np.zeros((8 * (side + 1) + 1,) * 2, np.uint8)
    for row in range(8):
        for column in range(8):
            top, left = 1 + row * (side + 1), 1 + column * (side + 1)
            cells[top : top + side, left : left + side] = levels[row, column]
    return cells.repeat(6, 0).repeat(6, 1)[..., None].repeat(3, 2)


def log_run(
    tracker: Tracker,
    *,
    seed: int = 0,
    final: float = 2.0,
    steps: int = 300,
    stops: int | None = None,
    critics: int = 1,
    diverges: bool = False,
) -> None:
    """The metrics and grids of a run whose FID falls from `final` + 100 to `final`; `stops` cuts it short."""
    for step in range(0, (steps if stops is None else stops) + 1, 50):
        if step:
            numbers = {"loss/generator": 1 / step, "loss/discriminator": float(step), "score/real": 0.5}
            images = float(step * 128 * critics)
            numbers |= {"images_seen": images, "images_per_second": 1000.0, "training_seconds": step / 10 * critics}
            tracker.log_metrics(numbers, step)
        if step % 100 == 0:
            fid = math.nan if diverges and step > 100 else final + 100 * (1 - step / steps)
            quality = {"fid_classifier": fid, "inception_score_classifier": 1 + 6 * step / steps}
            quality |= {"inception_score_std_classifier": 0.1, "modes_classifier": 10.0 * (step > 0)}
            logged = quality | {"evaluation_seconds": 2.0, "training_seconds": step / 10 * critics}
            logged |= {"peak_memory_mib": 900.0 + step}
            if step and math.isfinite(fid):
                logged |= {f"best/{name}": value for name, value in quality.items()}
            if step == steps:
                logged |= {f"final/{name}": value for name, value in quality.items()}
            tracker.log_metrics(logged, step)
            tracker.log_image(grid(step, seed), "samples", step)


def make_job(
    folder: Path,
    variant: str = "dcgan",
    seed: int = 0,
    status: str | None = "FINISHED",
    reason: str | None = None,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    overrides: Iterable[str] | None = None,
    log: str | None = None,
    classes: Mapping[str, tuple[float, float]] | None = None,
    **curve: float | bool | None,
) -> Path:
    """The folder of a job, as it ended; `status` None leaves it running."""
    folder.mkdir(parents=True, exist_ok=True)
    tracker = FolderTracker(folder)
    typed = [f"model={variant}", f"seed={seed}"] if overrides is None else list(overrides)
    steps = int((params or {}).get("steps", PARAMS["steps"]))
    tracker.log_params(PARAMS | VARIANTS.get(variant, {}) | {"seed": str(seed)} | dict(params or {}))
    tracker.set_tags(
        {"variant": variant, "dataset": "digits", "seed": seed, "overrides": " ".join(typed)}
        | {"git.commit": "abcdef0123456789", "git.dirty": "false", "gantry.folder": folder}
        | PROTOCOL
        | dict(tags or {})
    )
    tracker.log_image(grid(0, 100), "real", 0)
    log_run(tracker, seed=seed, steps=steps, **curve)  # type: ignore[arg-type]
    if classes is not None:
        (folder / "summary.json").write_text(json.dumps({"classes": classes}))
    if log is not None:
        (folder / "log.txt").write_text(log)
    if status is not None:
        tracker.close(status, reason)  # type: ignore[arg-type]
    return folder


def make_sweep(folder: Path, jobs: Mapping[str, list[str]], parent: str | None = None, uri: str | None = None) -> Path:
    """The record of a sweep over `jobs`, overrides by folder name."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = [{"number": i, "overrides": typed, "folder": name} for i, (name, typed) in enumerate(jobs.items())]
    record = {
        "name": f"sweep {folder.name}",
        "parent_run": parent,
        "tracking_uri": uri,
        "experiment": "gantry",
        "overrides": ["model=wgan,dcgan", "seed=0,1"],
        "jobs": listed,
    }
    (folder / "sweep.json").write_text(json.dumps(record))
    return folder


SETTINGS = {
    "n_generated": 50000,
    "n_real": 50000,
    "data": "cifar10",
    "data_digest": "d" * 64,
    "split": "train",
    "extractor": "inception",
    "extractor_sha256": "6726825d" + "0" * 56,
    "generator": "best",
    "averaged": True,
    "seed": 0,
}


def evaluated(
    folder: Path,
    values: Mapping[str, float | None],
    spread: Mapping[str, float] | None = None,
    key: str = "papers_1a2b3c4d",
    step: int = 300,
    **settings: object,
) -> Path:
    """The record that an evaluation of the run in `folder` leaves; returns its file."""
    record = {"key": key, "protocol": key.rpartition("_")[0], "step": step, "values": values, "spread": spread or {}}
    record |= {"settings": SETTINGS | settings, "subject": {"step": step}, "classes": None, "seconds": 12.5}
    file = folder / "evaluations" / key / f"step_{step}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record))
    return file
