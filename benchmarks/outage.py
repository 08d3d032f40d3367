"""What a step costs while the tracking server is away, against the same step with no server to track to.

    OMP_NUM_THREADS=1 python benchmarks/outage.py [rounds] [seconds]

One process trains a small GAN's worth of layers and logs every tenth step to its folder; in turns nothing else is
tracked, or a server refuses, accepts and never answers, or answers 500. The servers are another process's. A round
holds each once; ratios are taken within a round, of the mean step and of the median one, and their medians are shown.
"""

import logging
import multiprocessing
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from gantry.runs.tracking.folder_tracker import FolderTracker
from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.tracker import Tracker, Trackers

ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops"
LOG_EVERY = 10
WARM_UP = 8.0  # seconds, in which MLflow is imported


def serve(silent: socket.socket, failing: socket.socket) -> None:
    """Accept on one and say nothing, answer 500 on the other."""
    kept = []

    def hold() -> None:
        while True:
            kept.append(silent.accept())

    threading.Thread(target=hold, daemon=True).start()
    while True:
        client, _ = failing.accept()
        with client:
            client.recv(2**16)
            client.sendall(ERROR)


def training() -> Callable[[], float]:
    """A step of many small operations, between which Python's lock changes hands; returns its loss."""
    torch.manual_seed(0)
    layers = [torch.nn.Sequential(torch.nn.Linear(128, 128), torch.nn.ReLU()) for _ in range(24)]
    network = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(network.parameters())
    batch = torch.randn(128, 128)

    def step() -> float:
        optimizer.zero_grad()
        loss = network(batch).square().mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def steps(step: Callable[[], float], tracker: Tracker, seconds: float) -> list[float]:
    """Train for some seconds; returns what each step took."""
    taken = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        loss = step()
        if len(taken) % LOG_EVERY == 0:
            tracker.log_metrics({"loss": loss, "score": -loss}, len(taken) + 1)
        taken.append(time.perf_counter() - began)
    return taken


def main(rounds: int, seconds: float) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    listening = [socket.create_server(("127.0.0.1", 0), backlog=128) for _ in range(3)]
    ports = [server.getsockname()[1] for server in listening]
    listening.pop().close()
    multiprocessing.get_context("spawn").Process(target=serve, args=listening, daemon=True).start()
    servers = dict(zip(("silent", "500", "refused"), (f"http://127.0.0.1:{port}" for port in ports), strict=True))
    step = training()
    measured: dict[str, list[list[float]]] = {name: [] for name in ("undisturbed", *servers)}
    with tempfile.TemporaryDirectory() as root:
        warm = MLflowTracker(servers["refused"], "outage", Path(root) / "warm", close_timeout=0.0)
        steps(step, warm, WARM_UP)
        warm.close("FINISHED")
        for number in range(rounds):
            for name in random.sample(list(measured), len(measured)):
                folder = Path(root) / f"{name}-{number}"
                folder.mkdir()
                tracker = Trackers(FolderTracker(folder))
                if name in servers:
                    away = MLflowTracker(servers[name], "outage", folder, close_timeout=0.0)
                    tracker = Trackers(FolderTracker(folder), away)
                measured[name].append(steps(step, tracker, seconds))
                tracker.close("FINISHED")
    print(f"{rounds} rounds of {seconds:g} s each, torch {torch.__version__}\n")
    print("| server | median step, ms | its ratio (range) | ratio of the mean step (range) |")
    print("| --- | --- | --- | --- |")
    for name, times in measured.items():
        shown = [f"{1e3 * statistics.median(map(statistics.median, times)):.2f}"]
        for middle in (statistics.median, statistics.mean):
            ratios = [middle(mine) / middle(base) for mine, base in zip(times, measured["undisturbed"], strict=True)]
            shown.append(f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})")
        print(f"| {name} | {' | '.join(shown)} |")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]) if given else 10, float(given[1]) if len(given) > 1 else 5.0)
