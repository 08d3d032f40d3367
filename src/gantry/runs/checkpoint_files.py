"""Writes, lists and verifies a run's checkpoint files, each synced to disk before it gets its name.

`checkpoints/step_0001000_9f86d081884c7d65.ckpt` is the state at generator step 1000; the digits are the first 16 of
the sha256 of its content (the convention of `torch.hub`), so that one rename publishes a file and its checksum
together. `best_...` is the checkpoint of the best evaluation, kept beside the last few.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

FOLDER = "checkpoints"
STEP, BEST = "step", "best"
DIGITS = 16  # hexadecimal
DAMAGED = ".damaged"  # replaces the suffix `.ckpt`
PART = ".writing"  # the file being written, or one that a killed run left
NAME = re.compile(rf"(?P<kind>{STEP}|{BEST})_(?P<step>\d{{7,}})_(?P<digest>[0-9a-f]{{{DIGITS}}})\.ckpt")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, described by its name.

    Attributes:
        step: the generator steps done.
        kind: "step", or "best" for the checkpoint of the best evaluation.
        digest: the first digits of the sha256 that its content must have.
        path: the file.
    """

    step: int
    kind: str
    digest: str
    path: Path

    def is_sound(self) -> bool:
        """Return True where the content matches the digest: neither truncated nor altered."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest().startswith(self.digest)
        except OSError:
            return False


def described(path: Path) -> Checkpoint | None:
    """Return what the name of a checkpoint's file says; None for another name."""
    match = NAME.fullmatch(path.name)
    return Checkpoint(int(match["step"]), match["kind"], match["digest"], path) if match else None


def found(run: Path, kind: str | None = None) -> list[Checkpoint]:
    """List the checkpoints in a run's folder, the latest first, without reading their content."""
    named = [one for path in (run / FOLDER).glob("*.ckpt") if (one := described(path)) is not None]
    return sorted((one for one in named if kind in (None, one.kind)), key=_age, reverse=True)


def _age(checkpoint: Checkpoint) -> tuple[int, str, float]:
    """Return the sort key of a checkpoint; a kill may leave two of one step, of which the one written later counts."""
    try:
        written = checkpoint.path.stat().st_mtime
    except OSError:  # it has just been removed
        written = 0.0
    return checkpoint.step, checkpoint.kind, written


def newest(run: Path, kind: str | None = None, aside: bool = False) -> Checkpoint | None:
    """Return the latest checkpoint whose content is sound, with a warning for each damaged one after it.

    Args:
        aside: rename the damaged ones, so that they no longer count once the run continues from the sound one. Where
            no checkpoint is sound they keep their names, which show later callers that the run had checkpoints.
    """
    damaged: list[Checkpoint] = []
    for checkpoint in found(run, kind):
        if checkpoint.is_sound():
            for other in damaged if aside else ():
                other.path.rename(other.path.with_suffix(DAMAGED))
            return checkpoint
        log.warning("%s is damaged: its content is not what its name says; the one before it is used", checkpoint.path)
        damaged.append(checkpoint)
    return None


def write(run: Path, step: int, content: bytes | memoryview) -> Path:
    """Write a checkpoint atomically and synced to disk; it replaces any other of the same step.

    Raises:
        OSError: it cannot be written; earlier checkpoints are untouched.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{STEP}_{step:07d}_{hashlib.sha256(content).hexdigest()[:DIGITS]}.ckpt"
    part = folder / PART
    try:
        part.unlink(missing_ok=True)  # it may be a hard link to an older checkpoint: see `mark_best`
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)  # frees its space
        raise
    _sync(folder)
    for other in found(run, STEP):  # from a killed attempt, or from a rollback with other noise
        if other.step == step and other.path != path:
            other.path.unlink(missing_ok=True)
    return path


def keep(run: Path, count: int) -> None:
    """Remove all but the last `count` checkpoints, and keep the best one."""
    for checkpoint in found(run, STEP)[count:]:
        checkpoint.path.unlink(missing_ok=True)


def mark_best(run: Path, path: Path) -> None:
    """Keep the checkpoint at `path`, which `write` has just written, as the best one, in place of the previous one."""
    before = found(run, BEST)
    best, part = path.with_name(path.name.replace(STEP, BEST, 1)), path.with_name(PART)
    part.unlink(missing_ok=True)
    try:
        os.link(path, part)
    except OSError:  # a file system without links
        shutil.copyfile(path, part)
    part.replace(best)
    part.unlink(missing_ok=True)  # still there where `best` was already a link to this file
    _sync(path.parent)
    for checkpoint in before:
        if checkpoint.path != best:
            checkpoint.path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Sync the folder's file names to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)
