"""Names, reads and writes the files of a run's folder."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any, Literal

from gantry.core.files import read_json, write_json
from gantry.core.moved import renamed
from gantry.core.processes.locks import LOCK_FILE
from gantry.core.redaction import redact
from gantry.runs import checkpoint_files

GENERATOR = "generator"  # folder of a run's exported generators, each in its own folder:
BEST, LAST = "best", "last"  # of the step with the best first metric, and of the last step
LOG_FILE = "log.txt"
RANK_PIDS = "ranks.pid"  # in a run's folder while it runs on several ranks: their processes
RANK_FILES = "rank_*.*"  # in a run's folder, the files of its ranks other than the first, see `rank_log`, `rank_ending`
EARLIER = "earlier"  # in a job's folder, the earlier attempts
BAR = re.compile(r"\d+%\|")  # as `gantry.core.progress` writes it, and tqdm in older logs
COLOUR = re.compile(r"\x1b\[[\d;]*[A-Za-z]")

State = Literal["finished", "continues", "again", "new"]
EVALUATIONS = "evaluations"  # in a run's folder and among its artifacts: <key>/step_<step>.json
CONFIG_FILE, ENVIRONMENT = "config.yaml", "environment.json"
EXPORTED = "generator.json"  # in a folder with an exported generator (see `gantry.runs.generator_files`)
SUMMARY_FILE = "summary.json"
INIT_FILE = "init.json"  # the trained weights a run began with (see `gantry.training.init_from.weights`)
Status = Literal["FINISHED", "FAILED", "KILLED"]

UNDELIVERED = "undelivered.jsonl"  # records not yet delivered to MLflow (see `gantry.runs.tracking.journal`)
REFUSED = "refused.jsonl"  # records that MLflow has refused
RUN_FILE = "mlflow_run.json"  # its MLflow run, with the id once that exists (see `gantry.runs.tracking.identity`)
METRICS_FILE, STATUS_FILE, PROGRESS_FILE = "metrics.jsonl", "status.json", "progress.json"
PARAMS_FILE, TAGS_FILE = "params.json", "tags.json"
STARTED_IN = "gantry.started_in"  # tag: the folder in which the command was typed, to which relative paths refer
CAVEATS = "gantry.warning.metrics"  # tag: what speaks against a run's metrics, a sentence a line
OVERRIDES = ".hydra/overrides.yaml"  # the overrides that started the run, as Hydra saves them
HYDRA_CONFIG = ".hydra/hydra.yaml"  # Hydra's own node of the config
SAMPLES, REAL = "samples", "real"  # folders of the grids of generated and of real images, see `picture`
CODES = "codes"  # folder of the grid of a generator's codes, at the end of training
RECONSTRUCTIONS = "reconstructions"  # folder of the grids of real images, each beside its reconstruction
FILM_FILE = "samples.gif"
PROFILE = "profile"  # `fit-profile.txt` is the table of `trainer.profiler`
GENERATED = "generated"  # folder of the output of `python sample.py`
FILM = "film"  # folder of the frames of the film of training (see `gantry.training.callbacks.film`)


def picture(folder: Path, key: str, step: int) -> Path:
    """Return the file of the image that was logged as `key` at `step`."""
    return folder / key / f"{step:07d}.png"


def rank_log(folder: Path, rank: int) -> Path:
    """Return the log file of a rank other than the first."""
    return folder / f"rank_{rank}.txt"


def rank_ending(folder: Path, rank: int) -> Path:
    """Return the file in which a failed rank other than the first records the cause: `{"reason", "kind"}`."""
    return folder / f"rank_{rank}.json"


def best_value(folder: Path) -> float | None:
    """Return the best value of a finished job's first metric."""
    summary = read_json(folder / SUMMARY_FILE) or {}
    return summary.get("best", {}).get(summary.get("primary"))


def state_of(folder: Path) -> State:
    """Return the state of the job in `folder` when its sweep is resumed.

    Returns:
        "finished": it is kept; "continues": it goes on from its last checkpoint, or from the start if it was killed
        before the first one; "again": it failed and is repeated; "new": it was never started.
    """
    status, _ = read_status(folder)
    if status == "FINISHED" and (folder / SUMMARY_FILE).exists():
        return "finished"
    begun = any((folder / name).exists() for name in (STATUS_FILE, METRICS_FILE, PARAMS_FILE))
    if status != "FAILED" and (begun or checkpoint_files.found(folder)):
        return "continues"
    return "again" if begun else "new"


def set_aside(folder: Path) -> None:
    """Move the files of an attempt to `earlier/<number>` in the job's folder, so that the job can be repeated."""
    left = [
        path
        for path in folder.iterdir()
        if path.name not in (EARLIER, LOCK_FILE, RANK_PIDS, str(Path(OVERRIDES).parent)) and not path.match(RANK_FILES)
    ]
    if left:
        earlier = folder / EARLIER
        target = earlier / str(1 + len(list(earlier.glob("*"))))
        target.mkdir(parents=True)
        for path in left:
            path.rename(target / path.name)


def log_tail(folder: Path, lines: int = 20, characters: int = 4000) -> str:
    """Return the end of a job's log, without progress bars."""
    try:
        with (folder / LOG_FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4 * characters))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    shown = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in COLOUR.sub("", text).split("\n")]
    return "\n".join([line for line in shown if line and not BAR.search(line)][-lines:])[-characters:]


def write_status(folder: Path, status: Status, reason: str | None) -> None:
    """Write a run's final status and the reason to its folder; see also `note_kind`."""
    redacted = redact(reason) if reason is not None else None
    write_json({"status": status, "reason": redacted, "time": time.time()}, folder / STATUS_FILE)


def read_status(folder: Path) -> tuple[Status | None, str | None]:
    """Return the recorded final status of the run in `folder` and the reason; (None, None) where there is none."""
    try:
        record = json.loads((folder / STATUS_FILE).read_text())
    except (OSError, ValueError):
        return None, None
    return record.get("status"), record.get("reason")


def note_kind(folder: Path, kind: str) -> None:
    """Add the kind of failure, see `JobFailed.kind`, to the recorded status of a run."""
    write_json((read_json(folder / STATUS_FILE) or {}) | {"kind": kind}, folder / STATUS_FILE)


def read_kind(folder: Path) -> str | None:
    """Return the kind of failure of the run in `folder`; None where it is none of `JobFailed.kind`."""
    return (read_json(folder / STATUS_FILE) or {}).get("kind")


def read_params(folder: Path) -> dict[str, str]:
    """Return the values of params.json, with current names of moved modules; empty if it is missing or damaged."""
    return {key: renamed(value) for key, value in (read_json(folder / PARAMS_FILE) or {}).items()}


def read_values(path: Path) -> dict[str, str]:
    """Return the values of params.json or tags.json; empty if the file is missing."""
    return json.loads(path.read_text()) if path.exists() else {}


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the records of metrics.jsonl; a line cut off by a kill is skipped."""
    path = folder / METRICS_FILE
    lines = path.read_text().splitlines() if path.exists() else []
    return [record for line in lines if (record := _parsed(line)) is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


def rewind(folder: Path, step: int) -> None:
    """Delete the records in `folder` beyond `step`, from which the run continues."""
    (folder / STATUS_FILE).unlink(missing_ok=True)
    path = folder / METRICS_FILE
    kept = [record for record in read_metrics(folder) if record["step"] <= step]
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text("".join(json.dumps(record) + "\n" for record in kept))
    part.replace(path)
    for frame in (folder / FILM).glob("[0-9]*.png"):
        if int(frame.stem) > step:
            frame.unlink()
