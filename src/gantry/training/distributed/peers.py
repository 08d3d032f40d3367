"""What a run's ranks tell one another beside gradients: values, when to stop, and who has failed."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from gantry.core.config.declaration import within
from gantry.core.config.options import PLACES
from gantry.core.errors import PeerFailed, RunFailed, UserError
from gantry.core.processes.ranks import Place, find_place
from gantry.core.processes.signals import Stop, Stopped, Stopping, stopped_by
from gantry.training.distributed.network import interface_towards

if TYPE_CHECKING:
    from gantry.training.distributed.strategy import NetworkwiseDDP


T = TypeVar("T")

BEAT = 0.5  # seconds between two signs of life
SILENCE = 10.0  # seconds without one after which a rank counts as gone
LEAVING = 5.0  # seconds the main thread has to leave, once a rank has failed, before the process is ended
LOOPBACK, LOOPBACK_INTERFACE = "127.0.0.1", "lo"  # of a run on one machine nobody else hears
CAUSE, READY, ABSENT = "cause", "ready", "absent"  # keys in stores
COMMUNICATION = ("gloo", "nccl", "connection", "socket", "timed out")  # in the message of a lost peer's neighbour

log = logging.getLogger("gantry.training.distributed")


@dataclass(frozen=True)
class Cause:
    """Why a run ends: the first failure of any of its ranks."""

    rank: int
    host: str
    reason: str  # one line, or what a `RunFailed` says
    details: str = ""  # the traceback, where it adds to that
    signal: int = 0  # that has stopped the rank at once; 0: none has

    def failure(self) -> PeerFailed:
        """As an exception for the ranks that have not failed themselves."""
        where = f"rank {self.rank} on {self.host}"
        return PeerFailed(f"{where}: {self.reason}", f"{where} failed:\n{self.details or self.reason}".rstrip())


class Peers:
    """The ranks of one run. Alone, as by default, every call returns at once.

    Attributes:
        rank: 0 to world_size - 1.
        world_size: how many there are.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.world_size = rank, world_size
        self._group = group  # of gloo: it takes tensors on the processor, whatever the gradients take
        self._watch: _Watch | None = None

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which tracks and writes."""
        return self.rank == 0

    def tell(self, value: T) -> T:
        """Rank 0's `value`, at every rank."""
        if self.world_size > 1:
            held: list[Any] = [value]
            dist.broadcast_object_list(held, src=0, group=self._group)
            value = held[0]
        return value

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks of `values`, of one shape everywhere; on the processor, float64."""
        values = values.detach().cpu().double()
        if self.world_size > 1:
            dist.all_reduce(values, group=self._group)
        return values / self.world_size

    def gather(self, part: Tensor, most: int) -> list[Tensor]:
        """The ranks' parts (n_rank, d), each of at most `most` rows, at rank 0 in order; elsewhere an empty list."""
        if self.world_size == 1:
            return [part]
        padded = part.new_zeros((most, *part.shape[1:]))
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(self.world_size)] if self.first else None
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)] if self.first else None
        dist.gather(torch.tensor([len(part)]), lengths, group=self._group)
        dist.gather(padded, parts, group=self._group)
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
        """Around what the ranks do together: one's failure ends all of them, with that one's reason.

        Args:
            give_up: called, in another thread, where a rank has failed and this one waits for it in vain; the
                process ends afterwards.

        Raises:
            PeerFailed: another rank has failed, or is gone.
        """
        if self._watch is None:
            yield
            return
        self._watch.give_up = give_up
        try:
            yield
        except (Stopped, PeerFailed):
            raise
        except BaseException as error:
            cause = self._watch.cause_of(error)
            if cause.rank != self.rank and _is_communication(error):
                if cause.signal:
                    raise Stopping(cause.signal) from error
                raise cause.failure() from error
            raise
        finally:
            self._watch.give_up = None

    def end(self) -> None:
        """Give no further signs of life."""
        if self._watch is not None:
            self._watch.end()


@contextmanager
def joined(strategy: Any) -> Iterator[Peers]:
    """Meet the run's other ranks, and leave together; where `strategy` is not a distributed one, be alone.

    Raises:
        PeerFailed: another rank has failed, or is gone.
    """
    peers = _join(strategy) if hasattr(strategy, "setup_distributed") else Peers()
    try:
        with peers.blame():
            yield peers
            if peers.world_size > 1:
                dist.barrier(group=peers._group)
    finally:
        peers.end()


def _join(strategy: NetworkwiseDDP) -> Peers:
    # Gloo takes the interface of the machine's own name, which on many a machine is the loopback.
    environment = strategy.cluster_environment
    place = find_place()
    if here := strategy.num_nodes == 1 and place.world_size == place.local_world_size:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK_INTERFACE)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", LOOPBACK_INTERFACE)
    elif environment and (name := interface_towards(environment.main_address)):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    _meet(place.world_size)
    if here and environment and place.by in ("gantry", "slurm"):  # torchrun has a store already
        strategy.store = _store(LOOPBACK, environment.main_port, place.rank == 0, dist.default_pg_timeout)
    strategy.setup_environment()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    if world_size == 1:
        return Peers()
    peers = Peers(rank, world_size, cast(dist.ProcessGroup, dist.new_group(backend="gloo")))
    address = LOOPBACK if here else os.environ["MASTER_ADDR"]
    limit = timedelta(seconds=SILENCE)
    server = _store(address, 0, True, limit) if rank == 0 else None
    port = peers.tell(server.port if server is not None else 0)
    store = server or _store(address, port, False, limit)
    store.set(f"host/{rank}", socket.gethostname())
    store.set(f"beat/{rank}", "0")
    dist.barrier(group=peers._group)
    peers._watch = _Watch(store, rank, world_size)
    peers._watch.start()
    return peers


def _store(address: str, port: int, server: bool, limit: timedelta) -> dist.TCPStore:
    """A store at `address`; of itself its server listens on every interface, whatever the address."""
    listening = None
    if server and address == LOOPBACK:
        with socket.socket() as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((address, port))
            bound.listen(1024)
            port, listening = bound.getsockname()[1], bound.detach()  # the store closes it
    return dist.TCPStore(
        address, port, is_master=server, wait_for_workers=False, timeout=limit, master_listen_fd=listening
    )


def excuse(place: Place) -> None:
    """Tell the ranks that wait for this one, which ends, that it will not come; nothing where it has met them."""
    if not dist.is_initialized() and (store := _meeting_place()) is not None:
        store.set(ABSENT, f"rank {place.rank} on {socket.gethostname()}")


def _meet(world_size: int) -> None:
    """Wait until every rank is ready, however long one of them loads its data.

    Gloo's own wait, of half an hour, does not hear of one that has ended on another machine.

    Raises:
        PeerFailed: one will not come.
    """
    if (store := _meeting_place()) is None:
        return
    store.add(READY, 1)
    while store.add(READY, 0) < world_size:
        if store.check([ABSENT]):
            reason = f"{store.get(ABSENT).decode()}: ended before it met the others"
            raise PeerFailed(reason, f"{reason}; its own output says why")
        time.sleep(BEAT)


def _meeting_place() -> dist.Store | None:
    """torchrun's store, which is there before the ranks are; None where something else has started them."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    limit = timedelta(seconds=SILENCE)
    store = dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=limit)
    return dist.PrefixStore(f"gantry/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


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
        self._sent = dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._peers._group, async_op=True), numbers


class _Watch:
    """Sends signs of life, looks for the other ranks', and for the first failure that one has told of.

    Two threads: one talks to rank 0's store, which may keep it waiting where that machine is cut off; the other judges.
    """

    def __init__(self, store: dist.TCPStore, rank: int, world_size: int) -> None:
        self.store, self.rank, self.world_size = store, rank, world_size
        self.hosts = [store.get(f"host/{rank}").decode() for rank in range(world_size)]
        self.give_up: Callable[[PeerFailed], None] | None = None
        self.cause: Cause | None = None
        self._beats = [b""] * world_size
        self._heard = [time.monotonic()] * world_size
        self._answered = time.monotonic()  # by rank 0's store
        self._leaving, self._ended = threading.Event(), threading.Event()
        self._claim = threading.Lock()  # taken, once, by the thread that ends the process
        self._lock = threading.Lock()  # of the store's connection

    def start(self) -> None:
        for work in (self._talk, self._judge):
            threading.Thread(target=work, name=f"peers-{work.__name__}", daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def cause_of(self, error: BaseException) -> Cause:
        """Whose failure `error`, which ended this rank's main thread, comes from; the others are told of ours."""
        if not self._leaving.is_set():
            self._claim.acquire()  # where the other thread has it, this one waits for the end
            self._leaving.set()
        if _is_communication(error):
            deadline = time.monotonic() + SILENCE + 2 * BEAT
            while self.cause is None and time.monotonic() < deadline:
                time.sleep(BEAT / 5)
            if self.cause is not None:
                return self.cause
        explained = isinstance(error, UserError | RunFailed)
        mine = Cause(
            self.rank,
            self.hosts[self.rank],
            str(error) if isinstance(error, RunFailed) else f"{type(error).__name__}: {error}".splitlines()[0],
            str(error) if explained else "".join(traceback.format_exception(error)),
            stopped_by(error) or 0,
        )
        return self._post(mine)

    def _post(self, cause: Cause) -> Cause:
        """Tell the others; returns the first that any of them has told of."""
        if self._lock.acquire(timeout=LEAVING):
            try:
                cause = Cause(**json.loads(self.store.compare_set(CAUSE, "", json.dumps(asdict(cause)))))
            except Exception as error:  # the store's rank is gone; there is nobody left to tell
                log.debug("%s", error)
            finally:
                self._lock.release()
        return cause

    def _talk(self) -> None:
        number = 0
        while not self._ended.wait(BEAT):
            number += 1
            try:
                with self._lock:
                    self.store.set(f"beat/{self.rank}", str(number))
                    beats = self.store.multi_get([f"beat/{rank}" for rank in range(self.world_size)])
                    found = self.store.get(CAUSE) if self.store.check([CAUSE]) else None
            except dist.DistNetworkError:  # its machine has closed the connection, for want of the process
                self.cause = self.cause or Cause(0, self.hosts[0], "gone without a word: killed, or out of memory")
                return
            except Exception as error:
                log.debug("%s", error)
                continue
            now = self._answered = time.monotonic()
            for rank, beat in enumerate(beats):
                if beat != self._beats[rank]:
                    self._beats[rank], self._heard[rank] = beat, now
            if found is not None and self.cause is None:
                self.cause = Cause(**json.loads(found))

    def _judge(self) -> None:
        looked = time.monotonic()
        while not self._ended.wait(BEAT):
            now = time.monotonic()
            if now - looked > SILENCE / 2:  # this process, or its whole machine, had been suspended
                self._answered, self._heard = now, [now] * self.world_size
            looked = now
            if self.cause is None and (lost := self._lost(now)) is not None:
                reason = f"gone without a word for {SILENCE:g} s: killed, out of memory, or its machine is cut off"
                cause = Cause(lost, self.hosts[lost], reason)
                self.cause = self._post(cause) if now - self._answered < SILENCE else cause
            if self.cause is not None:
                self._leave(self.cause)
                return

    def _lost(self, now: float) -> int | None:
        if now - self._answered >= SILENCE:
            return 0
        return next((rank for rank, heard in enumerate(self._heard) if now - heard >= SILENCE), None)

    def _leave(self, cause: Cause) -> None:
        """End the process if its main thread cannot: it may wait in a collective for a rank that is gone."""
        if self._leaving.wait(LEAVING) or self._ended.is_set() or cause.rank == self.rank:
            return
        if not self._claim.acquire(blocking=False):
            return
        if self.give_up is not None:
            self.give_up(cause.failure())
        os._exit(1)


def _is_communication(error: BaseException) -> bool:
    """Whether an error may come from the failure of another rank."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in COMMUNICATION)
