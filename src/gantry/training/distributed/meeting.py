"""Connects a run's ranks before they train, and lets them leave together."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import torch.distributed as dist

from gantry.core.errors import PeerFailed
from gantry.core.processes.ranks import Place, find_place
from gantry.training.distributed.network import interface_towards
from gantry.training.distributed.peers import Peers
from gantry.training.distributed.watch import BEAT, SILENCE, Watch

if TYPE_CHECKING:
    from gantry.training.distributed.strategy import NetworkwiseDDP


LOOPBACK, LOOPBACK_INTERFACE = "127.0.0.1", "lo"  # for a run on one machine, which no other machine can reach
READY, ABSENT = "ready", "absent"  # keys in torchrun's store


@contextmanager
def joined(strategy: Any) -> Iterator[Peers]:
    """Connect to the run's other ranks, and wait for them at the end; without a distributed `strategy` be alone.

    Raises:
        PeerFailed: another rank has failed or died.
    """
    peers = _join(strategy) if hasattr(strategy, "setup_distributed") else Peers()
    try:
        with peers.blame():
            yield peers
            if peers.world_size > 1:
                dist.barrier(group=peers.group)
    finally:
        peers.end()


def _join(strategy: NetworkwiseDDP) -> Peers:
    # By default gloo uses the interface of the machine's own name, which is often the loopback.
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
    dist.barrier(group=peers.group)
    peers.watch = Watch(store, rank, world_size)
    peers.watch.start()
    return peers


def _store(address: str, port: int, server: bool, limit: timedelta) -> dist.TCPStore:
    """Open a store at `address`; at the loopback its server gets a socket, else it would listen on every interface."""
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
    """Tell the ranks that wait for this one that it has ended; do nothing where it has met them."""
    if not dist.is_initialized() and (store := _meeting_place()) is not None:
        store.set(ABSENT, f"rank {place.rank} on {socket.gethostname()}")


def _meet(world_size: int) -> None:
    """Wait without a limit until every rank has loaded its data.

    Gloo's own wait, of half an hour, does not notice a rank that has ended on another machine.

    Raises:
        PeerFailed: a rank has ended before it was ready.
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
    """Open torchrun's store, which exists before the ranks do; return None where torchrun has not started them."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    limit = timedelta(seconds=SILENCE)
    store = dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=limit)
    return dist.PrefixStore(f"gantry/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
