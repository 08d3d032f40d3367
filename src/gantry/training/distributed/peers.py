"""Exchanges between a run's ranks, beside gradients: values, settings, when to stop, and who has failed."""

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
    """The ranks of one run. Alone, as by default, every call returns at once.

    Attributes:
        rank: 0 to world_size - 1.
        world_size: how many there are.
        group: of gloo, which takes tensors on the processor, whatever backend the gradients take; None: alone.
        watch: over the others; None: alone.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.world_size = rank, world_size
        self.group = group
        self.watch: Watch | None = None

    @property
    def first(self) -> bool:
        """Tell whether this is rank 0, which tracks and writes."""
        return self.rank == 0

    def tell(self, value: T) -> T:
        """Send rank 0's `value` to every rank; returns it."""
        if self.world_size > 1:
            held: list[Any] = [value]
            dist.broadcast_object_list(held, src=0, group=self.group)
            value = held[0]
        return value

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the ranks of `values`, of one shape everywhere; on the processor, float64."""
        values = values.detach().cpu().double()
        if self.world_size > 1:
            dist.all_reduce(values, group=self.group)
        return values / self.world_size

    def gather(self, part: Tensor, most: int) -> list[Tensor]:
        """Bring the ranks' parts (n_rank, d), each of at most `most` rows, to rank 0, in order; elsewhere return []."""
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
        """Refuse to train with other settings than rank 0's, except for where each machine has its files.

        Raises:
            UserError: naming those that differ.
        """
        theirs = self.tell(settings)
        keys = sorted(key for key in settings.keys() | theirs.keys() if not within(key, PLACES))
        differ = [key for key in keys if settings.get(key) != theirs.get(key)]
        if differ:
            lines = [f"{k}: {settings.get(k, 'absent')}, at rank 0 {theirs.get(k, 'absent')}" for k in differ]
            raise UserError("\n".join([f"rank {self.rank} on {socket.gethostname()} has another config:", *lines]))

    @contextmanager
    def blame(self, give_up: Callable[[PeerFailed], None] | None = None) -> Iterator[None]:
        """Enclose what the ranks do together: one's failure ends all of them, with that one's reason.

        Args:
            give_up: called, in another thread, where a rank has failed and this one waits for it in vain; the
                process ends afterwards.

        Raises:
            PeerFailed: another rank has failed, or is gone.
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
        """Give no further signs of life."""
        if self.watch is not None:
            self.watch.end()


class AgreedStop(Stop):
    """A request to stop, made to any rank, that all of them follow at the same step.

    Each check sends this rank's request on its way and reads what became of the one before: a step later, and
    without waiting.
    """

    def __init__(self, peers: Peers) -> None:
        super().__init__()
        self._peers = peers
        self._sent: tuple[Any, Tensor] | None = None

    def check(self) -> None:
        """Stop here, if any rank had been asked to by its last check. All ranks must call it equally often.

        Raises:
            Stopped: naming the signal.
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
