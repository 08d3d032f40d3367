"""Divides work among worker processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gantry.core.errors import JobFailed

GRACE = 10.0  # seconds a process may take to end after `terminate`


@dataclass(frozen=True)
class Crew:
    """A group of processes that divide the images among them.

    Args:
        size: the number of processes, this one included.
        share: the function another process runs on its share, `share(folder, rank, size)`; must be picklable.
    """

    size: int = 1
    share: Callable[[Path, int, int], None] | None = None

    @contextmanager
    def at_work(self, folder: Path) -> Iterator[Callable[[], bool]]:
        """Run the other processes in this context; yields a function that returns True once all are done.

        Raises:
            JobFailed: one of them has failed; it has printed the reason.
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
