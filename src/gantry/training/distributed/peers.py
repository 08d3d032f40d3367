"""Exchanges values, settings, requests to stop and failures between a run's ranks; DDP exchanges the gradients."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gantry.core.config.declaration import within
from gantry.core.config.options import PLACES
from gantry.core.errors import PeerFailed, UserError
from gantry.core.processes.signals import Stop, Stopped, Stopping
from gantry.training.distributed.watch import Watch, is_communication

T = TypeVar("T")


class Peers:
    """The ranks of one run. With one rank, the default, every call returns at once.

    Attributes:
        rank: this rank, 0 to world_size - 1.
        world_size: the number of ranks.
        group: a gloo process group, for CPU tensors, independent of the gradients' backend; None with one rank.
        watch: watches the other ranks; None with one rank.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.world_size = rank, world_size
        self.group = group
        self.watch: Watch | None = None

    @property
    def first(self) -> bool:
        """Return True on rank 0, the only one that tracks and writes."""
        return self.rank == 0

    def tell(self, value: T) -> T:
        """Broadcast rank 0's `value` to every rank and return it."""
        if self.world_size > 1:
            held: list[Any] = [value]
            dist.broadcast_object_list(held, src=0, group=self.group)
            value = held[0]
        return value

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of `values` over the ranks, as a float64 CPU tensor; the shape is the same on every rank."""
        values = values.detach().cpu().double()
        if self.world_size > 1:
            dist.all_reduce(values, group=self.group)
        return values / self.world_size

    def gather(self, part: Tensor, most: int) -> list[Tensor]:
        """Gather the parts (n_rank, d), of at most `most` rows, on rank 0 in order of rank; return [] elsewhere."""
        if self.world_size == 1:
            return [part]
        padded = part.new_zeros((most, *part.shape[1:]))
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(self.world_size)] if self.first else None
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)] if self.first else None
        dist.gather(torch.tensor([len(part)]), lengths, group=self.group)
        dist.gather(padded, parts, group=self.group)
        return [full[: int(n)] for full, n in zip(parts, lengths, strict=True)] if parts and lengths else []

    def check_same(self, settings: dict[str, str]) -> None:
        """Check that this rank's settings are those of rank 0, except for `PLACES`.

        Raises:
            UserError: settings differ; the message names them.
        """
        theirs = self.tell(settings)
        keys = sorted(key for key in settings.keys() | theirs.keys() if not within(key, PLACES))
        differ = [key for key in keys if settings.get(key) != theirs.get(key)]
        if differ:
            lines = [f"{k}: {settings.get(k, 'absent')}, at rank 0 {theirs.get(k, 'absent')}" for k in differ]
            raise UserError("\n".join([f"rank {self.rank} on {socket.gethostname()} has another config:", *lines]))

    @contextmanager
    def blame(self, give_up: Callable[[PeerFailed], None] | None = None) -> Iterator[None]:
        """Let one rank's failure within the block end all ranks, each with that rank's reason.

        Args:
            give_up: called in another thread where a rank has failed and this rank's main thread still waits for it;
                the process ends afterwards.

        Raises:
            PeerFailed: another rank has failed or died.
        """
        if self.watch is None:
            yield
            return
        self.watch.give_up = give_up
        try:
            yield
        except (Stopped, PeerFailed):
            raise
        except BaseException as error:
            cause = self.watch.cause_of(error)
            if cause.rank != self.rank and is_communication(error):
                if cause.signal:
                    raise Stopping(cause.signal) from error
                raise cause.failure() from error
            raise
        finally:
            self.watch.give_up = None

    def end(self) -> None:
        """Stop sending and checking heartbeats."""
        if self.watch is not None:
            self.watch.end()


class AgreedStop(Stop):
    """A request to stop, made to any rank, that all ranks follow at the same step.

    Each check starts an asynchronous all-reduce of the requests and reads the result of the previous one, one step
    late, so that it hardly waits.
    """

    def __init__(self, peers: Peers) -> None:
        super().__init__()
        self._peers = peers
        self._sent: tuple[Any, Tensor] | None = None

    def check(self) -> None:
        """Stop if any rank had a request at its last check. All ranks must call it equally often.

        Raises:
            Stopped: a rank was asked to stop; it holds the signal's number.
        """
        if self._peers.world_size == 1:
            super().check()
            return
        if self._sent is not None:
            work, numbers = self._sent
            work.wait()
            if number := int(numbers.item()):
                raise Stopped(number)
        numbers = torch.tensor([self.number or 0])
        self._sent = dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._peers.group, async_op=True), numbers
