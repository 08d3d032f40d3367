"""Prepares ranks that torchrun or SLURM has started."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from gantry.core.processes.ranks import Place


@contextmanager
def rank_of_another_launcher(place: Place) -> Iterator[None]:
    """Send Hydra's output of ranks above 0, started by torchrun or SLURM, to a temporary folder."""
    if place.by in ("torchrun", "slurm") and {"-m", "--multirun"} & set(sys.argv):
        if place.rank == 0:
            print(f"a sweep starts its jobs' ranks itself: run it without {place.by}", file=sys.stderr)
        sys.exit(2)
    try:
        with _aside(place):
            yield
    finally:
        if place.by == "torchrun":
            from gantry.training.distributed.meeting import excuse

            with suppress(Exception):  # the first machine may be gone
                excuse(place)


@contextmanager
def _aside(place: Place) -> Iterator[None]:
    if place.by not in ("torchrun", "slurm") or place.rank == 0:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="gantry-rank-", ignore_cleanup_errors=True) as folder:
        sys.argv += [f"hydra.run.dir={folder}", "hydra.output_subdir=null"]
        yield
