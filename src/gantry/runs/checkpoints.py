"""Checkpoints on disk: durable before they count, and known by their hash.

`checkpoints/step_0001000_9f86d081884c7d65.ckpt` is the state at generator step 1000; the digits are the first 16 of
the sha256 of its content (the convention of `torch.hub`), so that one rename makes a file and its proof appear
together. `best_...` is the one of the best evaluation, kept beside the last few.
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
DAMAGED = ".damaged"  # what `.ckpt` becomes
PART = ".writing"  # in the folder: what is being written, or what a kill left of it
NAME = re.compile(rf"(?P<kind>{STEP}|{BEST})_(?P<step>\d{{7,}})_(?P<digest>[0-9a-f]{{{DIGITS}}})\.ckpt")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's file, as its name describes it.

    Attributes:
        step: the generator steps done.
        kind: "step", or "best" for the copy of the best evaluation's.
        digest: the first digits of the sha256 its content has to have.
        path: the file.
    """

    step: int
    kind: str
    digest: str
    path: Path

    def is_sound(self) -> bool:
        """Whether the content is what was written: neither cut off nor altered."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest().startswith(self.digest)
        except OSError:
            return False


def found(run: Path, kind: str | None = None) -> list[Checkpoint]:
    """The checkpoints in a run's folder, the latest first; their content is not looked at."""
    matches = ((NAME.fullmatch(path.name), path) for path in (run / FOLDER).glob("*.ckpt"))
    known = [Checkpoint(int(match["step"]), match["kind"], match["digest"], path) for match, path in matches if match]
    return sorted((one for one in known if kind in (None, one.kind)), key=_age, reverse=True)


def _age(checkpoint: Checkpoint) -> tuple[int, str, float]:
    """What orders checkpoints; of one step a kill may leave two, of which the one written later counts."""
    try:
        written = checkpoint.path.stat().st_mtime
    except OSError:  # it has just been removed
        written = 0.0
    return checkpoint.step, checkpoint.kind, written


def newest(run: Path, kind: str | None = None, aside: bool = False) -> Checkpoint | None:
    """The latest checkpoint whose content is sound; says which damaged ones it passes over.

    Args:
        aside: rename those, so that they no longer count: the run goes on from what is returned. Where that is
            nothing they keep their names, by which the next one to ask knows that there were some.
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
    """Write a checkpoint that is whole and on the disk itself once it has its name; it replaces one of the same step.

    Raises:
        OSError: it cannot be written; those before are untouched.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{STEP}_{step:07d}_{hashlib.sha256(content).hexdigest()[:DIGITS]}.ckpt"
    part = folder / PART
    try:
        part.unlink(missing_ok=True)  # perhaps a second name of an older checkpoint: see `mark_best`
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)  # gives its space back
        raise
    _sync(folder)
    for other in found(run, STEP):  # of an attempt that was killed, or of other noise
        if other.step == step and other.path != path:
            other.path.unlink(missing_ok=True)
    return path


def keep(run: Path, count: int) -> None:
    """Remove all but the last `count` checkpoints; the best one stays."""
    for checkpoint in found(run, STEP)[count:]:
        checkpoint.path.unlink(missing_ok=True)


def mark_best(run: Path, path: Path) -> None:
    """Keep the checkpoint at `path`, which `write` has just written, as the best one instead of the one before."""
    before = found(run, BEST)
    best, part = path.with_name(path.name.replace(STEP, BEST, 1)), path.with_name(PART)
    part.unlink(missing_ok=True)
    try:
        os.link(path, part)
    except OSError:  # a file system without links
        shutil.copyfile(path, part)
    part.replace(best)
    part.unlink(missing_ok=True)  # still there where `best` was this very file
    _sync(path.parent)
    for checkpoint in before:
        if checkpoint.path != best:
            checkpoint.path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Have the disk itself know the folder's names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot, of folders
            raise
    finally:
        os.close(descriptor)
