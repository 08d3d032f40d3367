"""Processes that share a piece of work out."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gantry.core.errors import JobFailed

GRACE = 10.0  # seconds another process has to end once it is told to


@dataclass(frozen=True)
class Crew:
    """The processes that share the images out.

    Args:
        size: how many, this one included.
        share: what another one does, `share(folder, rank, size)`, by calling `look_at_share`; must be picklable.
    """

    size: int = 1
    share: Callable[[Path, int, int], None] | None = None

    @contextmanager
    def at_work(self, folder: Path) -> Iterator[Callable[[], bool]]:
        """Have the others look at their shares; gives what says whether they are done.

        Raises:
            JobFailed: one of them has failed, and has printed why.
        """
        context = multiprocessing.get_context("spawn")  # a forked process could not use a GPU
        assert self.share is not None or self.size == 1
        others = [
            context.Process(target=self.share, args=(folder, rank, self.size), daemon=True)
            for rank in range(1, self.size)
        ]

        def done() -> bool:
            for rank, process in enumerate(others, start=1):
                if process.exitcode:
                    raise JobFailed(f"process {rank} of {self.size} has failed (exit code {process.exitcode})")
            return all(process.exitcode == 0 for process in others)

        try:
            for process in others:
                process.start()
            yield done
            for process in others:
                process.join()
            done()
        finally:
            for process in others:
                if process.is_alive():
                    process.terminate()
                    process.join(GRACE)


ALONE = Crew()
