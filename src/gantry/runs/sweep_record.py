"""Reads and writes the record of a sweep and its jobs, from which the sweep is resumed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gantry.core.config.overrides import identity
from gantry.core.errors import UserError
from gantry.core.files import read_json, write_json
from gantry.core.redaction import redact
from gantry.runs.folder import TAGS_FILE
from gantry.runs.tracking.carried import carried
from gantry.runs.tracking.status import FOLDER

SWEEP_FILE = "sweep.json"
HYDRA_SWEEP = "multirun.yaml"  # Hydra's config at the latest start of the sweep
PARENT_RUN = "GANTRY_PARENT_RUN"  # environment variable with the id of the sweep's MLflow run, for the jobs


@dataclass
class JobRecord:
    """One job of a sweep.

    Attributes:
        number: its number in the sweep.
        overrides: its command line.
        folder: its folder's name within the sweep's.
        device: the GPUs that it last ran on, as in CUDA_VISIBLE_DEVICES; None: none, or another launcher started it.
    """

    number: int
    overrides: list[str]
    folder: str
    device: str | None = None


@dataclass
class SweepRecord:
    """`sweep.json` in a sweep's folder.

    Attributes:
        folder: the sweep's folder, absolute.
        name: of its run in MLflow.
        overrides: the command line as typed.
        parent_run: the id of its run in MLflow; None where there is none.
        tracking_uri, experiment: the store; None with `tracking=none`.
        jobs: started and waiting jobs.
    """

    folder: Path
    name: str
    overrides: list[str]
    parent_run: str | None = None
    tracking_uri: str | None = None
    experiment: str | None = None
    jobs: list[JobRecord] = field(default_factory=list)

    def save(self) -> None:
        """Write the record, with passwords redacted."""
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
        """Return its jobs by `gantry.core.config.overrides.identity`."""
        return {identity(job.overrides): job for job in self.jobs}


def load_sweep(folder: Path) -> SweepRecord:
    """Read the record of the sweep in `folder`; in a copied or moved project its store is the one that came along.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = folder / SWEEP_FILE
    try:
        values = json.loads(path.read_text())
        jobs = [JobRecord(**job) for job in values.pop("jobs")]
        record = SweepRecord(folder=folder.absolute(), jobs=jobs, **values)
    except OSError as error:
        raise UserError(f"{folder} holds no sweep: cannot read {path} ({error.strerror})") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if record.tracking_uri is not None:
        began = next(filter(None, (_began(record.folder / job.folder) for job in jobs)), None)
        record.tracking_uri = carried(record.tracking_uri, began, record.folder)
    return record


def _began(job: Path) -> str | None:
    """Return the folder of a job's sweep when the job began; None where the job has no record."""
    said = (read_json(job / TAGS_FILE) or {}).get(FOLDER)
    return said and str(Path(said).parent)
