"""What a sweep and its jobs leave on disk, from which it can be told what became of them and taken up again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from gantry import checkpoints
from gantry.errors import UserError
from gantry.lock import LOCK_FILE
from gantry.summary import FILE as SUMMARY_FILE
from gantry.tracking.folder import METRICS_FILE, PARAMS_FILE, STATUS_FILE, read_status, write_json
from gantry.tracking.params import HIDDEN, redact

SWEEP_FILE = "sweep.json"
LOG_FILE = "log.txt"
RANK_PIDS = "ranks.pid"  # in a run's folder while it runs on several ranks: their processes
RANK_LOGS = "rank_*.txt"  # in a run's folder, what its ranks but the first have printed
EARLIER = "earlier"  # in a job's folder, the attempts before
OWN_KEYS = ("sweep.", "hydra.", "hydra/", "resume=")  # overrides that say how to run, not what

BAR = re.compile(r"\d+%\|")  # as tqdm draws it
COLOUR = re.compile(r"\x1b\[[\d;]*[A-Za-z]")

State = Literal["finished", "continues", "again", "new"]


@dataclass
class JobRecord:
    """One job of a sweep: its overrides, and its folder's name within the sweep's."""

    number: int
    overrides: list[str]
    folder: str


@dataclass
class SweepRecord:
    """`sweep.json` in a sweep's folder.

    Attributes:
        folder: the sweep's folder, absolute.
        name: of its run in MLflow.
        overrides: the command line as typed.
        parent_run: the id of its run in MLflow; None where there is none.
        tracking_uri, experiment: the store; None with `tracking=none`.
        jobs: those started so far and those still to come.
    """

    folder: Path
    name: str
    overrides: list[str]
    parent_run: str | None = None
    tracking_uri: str | None = None
    experiment: str | None = None
    jobs: list[JobRecord] = field(default_factory=list)

    def save(self) -> None:
        """Write it, passwords hidden."""
        jobs = [asdict(job) | {"overrides": [redact(text) for text in job.overrides]} for job in self.jobs]
        hidden = {
            "overrides": [redact(text) for text in self.overrides],
            "tracking_uri": self.tracking_uri and redact(self.tracking_uri),
            "jobs": jobs,
        }
        values = asdict(self) | hidden
        del values["folder"]
        write_json(values, self.folder / SWEEP_FILE)

    def by_identity(self) -> dict[tuple[str, ...], JobRecord]:
        """Its jobs, by what makes each the same job."""
        return {identity(job.overrides): job for job in self.jobs}


def load_sweep(folder: Path) -> SweepRecord:
    """The record of the sweep in `folder`.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = folder / SWEEP_FILE
    try:
        values = json.loads(path.read_text())
        jobs = [JobRecord(**job) for job in values.pop("jobs")]
        return SweepRecord(folder=folder.absolute(), jobs=jobs, **values)
    except OSError as error:
        raise UserError(f"{folder} holds no sweep: cannot read {path} ({error.strerror})") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def identity(overrides: Sequence[str]) -> tuple[str, ...]:
    """What makes two jobs the same job, wherever they are tracked."""
    return tuple(sorted(text for text in of_the_run(overrides) if not text.startswith(("tracking=", "tracking."))))


def without_passwords(before: Sequence[str], given: Sequence[str]) -> list[str]:
    """The overrides of a sweep or a run that is taken up, but for what `given` says otherwise.

    Raises:
        UserError: one of them held a password, which is not kept.
    """
    keys = {text.partition("=")[0] for text in given}
    kept = [text for text in before if text.partition("=")[0] not in keys]
    if hidden := [text for text in kept if HIDDEN in text]:
        raise UserError(f"{hidden[0]}: the password was not kept; give {hidden[0].partition('=')[0]}=... again")
    return kept


def of_the_run(overrides: Sequence[str]) -> list[str]:
    """The overrides without those that say how to run the sweep, or which run to go on with."""
    return [text for text in overrides if not text.lstrip("+~").startswith(OWN_KEYS)]


def labels(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Of each job the overrides that not all of them share; of a single one, all."""
    mine = [of_the_run(overrides) for overrides in jobs]
    shared = set(mine[0]).intersection(*mine[1:]) if len(mine) > 1 else set()
    return [redact(" ".join(text for text in overrides if text not in shared)) or "defaults" for overrides in mine]


def read_json(path: Path) -> dict[str, Any] | None:
    """The file's values; None where it is missing or half written."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def state_of(folder: Path) -> State:
    """What taking up a sweep means for the job in `folder`.

    Returns:
        "finished": it is kept; "continues": from its last checkpoint, or from the start where it was killed before
        the first one; "again": it failed; "new": it never began.
    """
    status, _ = read_status(folder)
    if status == "FINISHED" and (folder / SUMMARY_FILE).exists():
        return "finished"
    begun = any((folder / name).exists() for name in (STATUS_FILE, METRICS_FILE, PARAMS_FILE))
    if status != "FAILED" and (begun or checkpoints.found(folder)):
        return "continues"
    return "again" if begun else "new"


def set_aside(folder: Path) -> None:
    """Move what an attempt left to `earlier/<number>` in the job's folder, so that it can begin again."""
    left = [
        path
        for path in folder.iterdir()
        if path.name not in (EARLIER, LOCK_FILE, RANK_PIDS, ".hydra") and not path.match(RANK_LOGS)
    ]
    if left:
        earlier = folder / EARLIER
        target = earlier / str(1 + len(list(earlier.glob("*"))))
        target.mkdir(parents=True)
        for path in left:
            path.rename(target / path.name)


def log_tail(folder: Path, lines: int = 20, characters: int = 4000) -> str:
    """The end of a job's log, without progress bars."""
    try:
        with (folder / LOG_FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4 * characters))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    shown = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in COLOUR.sub("", text).split("\n")]
    return "\n".join([line for line in shown if line and not BAR.search(line)][-lines:])[-characters:]
