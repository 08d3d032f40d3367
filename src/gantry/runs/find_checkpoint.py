"""Finds the checkpoint from which `resume=<file>` begins a new run, and refuses other files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gantry.core.errors import UserError
from gantry.core.files import read_json
from gantry.core.text import show
from gantry.runs import checkpoint_files
from gantry.runs.checkpoint_files import DAMAGED, Checkpoint
from gantry.runs.find import can_go_on
from gantry.runs.folder import (
    CODES,
    EVALUATIONS,
    FILM,
    GENERATED,
    GENERATOR,
    REAL,
    RECONSTRUCTIONS,
    RUN_FILE,
    SAMPLES,
    state_of,
)


@dataclass(frozen=True)
class Origin:
    """The run and the checkpoint at which another run begins.

    Attributes:
        run: the folder of the run that wrote the checkpoint.
        checkpoint: the file.
    """

    run: Path
    checkpoint: Checkpoint

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags of the new run that say where it began."""
        run_id = (read_json(self.run / RUN_FILE) or {}).get("run_id")
        return {
            "gantry.began.folder": str(self.run),
            **({"gantry.began.run": str(run_id)} if run_id else {}),
            "gantry.began.checkpoint": self.checkpoint.path.name,
            BEGAN_AT: str(self.checkpoint.step),
        }


SUFFIX = ".ckpt"
# Folders of a run's.
INSIDE = (
    *(checkpoint_files.FOLDER, GENERATOR, GENERATED, SAMPLES, REAL, RECONSTRUCTIONS, CODES),
    *(FILM, EVALUATIONS),
)
BEGAN = "gantry.began."  # with which the names of `Origin.tags` begin
BEGAN_AT = f"{BEGAN}step"  # tag of a run that began at another's checkpoint: the generator step


def find_checkpoint(word: str) -> Origin | None:
    """Return the checkpoint that `resume=<file>` names, with its run; None where `word` names no file or folder in one.

    Raises:
        UserError: the file is no checkpoint, or a damaged one, or lies in no run's folder; the message names the
            checkpoints of the run around it.
    """
    path = Path(word).expanduser().absolute()
    run = _run_around(path)
    checkpoint = checkpoint_files.named(path)
    if checkpoint is not None and run is not None and path.parent == run / checkpoint_files.FOLDER and path.is_file():
        if not checkpoint.is_sound():
            raise _refused(word, "it is damaged: its content is not what its name says", run)
        return Origin(run, checkpoint)
    if path.is_dir():
        if run is not None and path.relative_to(run).parts[0] in INSIDE:
            raise _refused(word, "a folder inside a run's", run)
        return None
    if not path.exists():
        if run is not None and ("/" in word or path.suffix == SUFFIX):
            raise _refused(word, "no such file", run)
        return None
    if path.name.endswith(DAMAGED):
        raise _refused(word, "it is damaged, and was set aside", run)
    if path.suffix == ".safetensors" or (run is not None and (run / GENERATOR) in path.parents):
        raise _refused(word, "a generator alone, without the optimizers and the discriminator that training needs", run)
    if checkpoint is not None:
        raise _refused(word, "it lies in no run's folder of checkpoints, and needs that run's config", run)
    raise _refused(word, "no checkpoint of a run, which is called step_0001000_<hash>.ckpt", run)


def refuse_taken(folder: Path) -> None:
    """Refuse a folder that already holds a run.

    Raises:
        UserError: it does.
    """
    if state_of(folder) != "new":
        raise UserError(
            f"{folder} already holds a run; a run from a checkpoint is a new one: choose another with "
            "hydra.run.dir=/path"
        )


def _run_around(path: Path) -> Path | None:
    return next((folder for folder in path.parents if can_go_on(folder)), None)


def _refused(word: str, why: str, run: Path | None) -> UserError:
    lines = [f"resume={word}: {why}"]
    if run is None:
        lines.append("resume=<run> goes on with a run, resume=<run>/checkpoints/<file> begins a new one from there")
        return UserError("\n".join(lines))
    lines.append(f"the run around it goes on by resume={show(run)}")
    known: Sequence[Checkpoint] = checkpoint_files.found(run)
    if known:
        lines.append("a new run begins from one of its checkpoints by")
        lines += [f"  resume={show(checkpoint.path)}" for checkpoint in known]
    return UserError("\n".join(lines))
