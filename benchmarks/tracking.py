"""What tracking costs a training step: nothing but the run's folder, with an SQLite store, with an MLflow server.

    python benchmarks/tracking.py [rounds] [steps] [key=value ...]

The three take turns of `steps` generator steps within one run of `train.py`, which logs as it does by default; ratios
are taken within a round. A turn begins when the one before has been delivered, and what is delivered after its end
counts into its thread's processor time. The server is another process of this machine, whose processor time stands
beside; shares are of the training process's. key=value overrides the config, such as log_every=10. Defaults: 6 300.
Prints Markdown.
"""

import contextlib
import functools
import io
import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import step
from hydra import compose, initialize_config_dir
from pytorch_lightning import Callback

from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.tracker import Trackers
from gantry.training import run
from gantry.training.run_record import open_tracker

CALLS = ("log_params", "set_tags", "log_metrics", "log_image", "log_artifact", "close")
WARM_UP = 200  # steps, and until MLflow is imported and the runs are created


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, int]]:
    """An MLflow server's address and process group."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = f"-m mlflow server --workers 1 --port {port} --backend-store-uri sqlite:///{folder}/mlflow.db"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen([sys.executable, *command.split()], cwd=folder, **quiet)
    address = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            time.sleep(0.2)
        else:
            raise RuntimeError("mlflow server did not start")
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


class Switch(Trackers):
    """The folder's tracker and, in its turn, an MLflow tracker; counts the seconds that calls take."""

    def __init__(self, local: Trackers, others: dict[str, MLflowTracker | None]) -> None:
        super().__init__(local)
        self.local, self.others, self.seconds = local, others, 0.0

    def turn(self, name: str) -> None:
        """Track as `name` says from now on."""
        other = self.others[name]
        self._trackers = (self.local,) if other is None else (self.local, other)

    def settle(self) -> None:
        """Wait until all is delivered."""
        for other in self.others.values():
            while other is not None and (other.run_id is None or other._journal.waiting):
                time.sleep(0.05)


def timed(name: str) -> Any:
    """The call of that name, its seconds counted."""

    def call(self: Switch, *args: Any, **kwargs: Any) -> None:
        began = time.perf_counter()
        getattr(Trackers, name)(self, *args, **kwargs)
        self.seconds += time.perf_counter() - began

    return call


for called in CALLS:
    setattr(Switch, called, timed(called))


def of_threads() -> float:
    """Processor seconds of the threads that deliver."""
    threads = [thread for thread in threading.enumerate() if thread.name == "mlflow-delivery"]
    return sum(int(Path(f"/proc/self/task/{t.native_id}/schedstat").read_text().split()[0]) for t in threads) / 1e9


def of_group(group: int) -> float:
    """Processor seconds of the processes of a group."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12]) if int(fields[2]) == group else 0
    return ticks / os.sysconf("SC_CLK_TCK")


class Turns(Callback):
    """Has each way of tracking take `rounds` turns of `steps` steps, the order changing from round to round."""

    def __init__(self, switch: list[Switch], steps: int, rounds: int, group: int) -> None:
        self.switch, self.steps, self.rounds, self.group = switch, steps, rounds, group
        self.rows: dict[str, list[tuple[float, ...]]] = {}
        self.order: Iterator[str] = iter(())
        self.now = ""

    def counts(self) -> tuple[float, ...]:
        """Seconds: by the clock, of this process, in trackers' calls, of the delivering threads, of the server."""
        mine = self.switch[0].seconds
        return time.perf_counter(), time.process_time(), mine, of_threads(), of_group(self.group)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """At the end of a turn."""
        if trainer.global_step < WARM_UP or (trainer.global_step - WARM_UP) % self.steps:
            return
        switch = self.switch[0]
        if self.now:
            ended = time.perf_counter()
            switch.settle()
            _, *rest = self.counts()
            row = (ended - self.began[0], *(after - before for after, before in zip(rest, self.began[1:], strict=True)))
            self.rows[self.now].append(row)
        else:
            switch.settle()
            names = list(switch.others)
            self.rows = {name: [] for name in names}
            turns = [names[i % 3 :] + names[: i % 3] for i in range(self.rounds)]
            self.order = itertools.chain.from_iterable(turns)
        self.now = next(self.order, "")
        trainer.should_stop = not self.now
        switch.turn(self.now or "none")
        self.began = self.counts()


def main(arguments: list[str]) -> None:
    """Measure and print."""
    plain = [text for text in arguments if "=" not in text]
    rounds, steps = map(int, plain + ["6", "300"][len(plain) :])
    overrides = [text for text in arguments if "=" in text]
    switch: list[Switch] = []

    def opened(address: str, cfg: Any, folder: Path, *args: Any) -> Switch:
        others: dict[str, MLflowTracker | None] = {"none": None}
        for name, uri in (("SQLite", folder.parent / "store"), ("server", address)):
            (mine := folder.parent / name).mkdir()
            others[name] = MLflowTracker(uri, "tracking", mine)
        switch.append(Switch(open_tracker(cfg, folder, *args), others))  # type: ignore[arg-type]
        return switch[0]

    with tempfile.TemporaryDirectory() as root, served(Path(root)) as (address, group):
        run.open_tracker = functools.partial(opened, address)
        never = ["metrics.every=1000000", "checkpoint.every=1000000", "metrics.n_generated=100", "steps=1000000"]
        cache = os.environ.get("GANTRY_CACHE", Path.home() / ".cache" / "gantry")
        given = ["tracking=none", f"paths.root={root}", f"paths.cache={cache}", *never, *overrides]
        with initialize_config_dir(str(step.ROOT / "conf"), version_base="1.3"):
            cfg = compose("train", given)
        (folder := Path(root) / "run").mkdir()
        turns = Turns(switch, steps, rounds, group)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run.train(cfg, folder, {"variant": "dcgan", "dataset": "digits"}, watching=[turns])
            for other in switch[0].others.values():
                if other is not None:
                    other.close("FINISHED")
    print(f"`python benchmarks/tracking.py {' '.join(arguments)}`\n".replace(" `", "`"))
    print(f"{step.machine()}; log_every={cfg.log_every}.\n")
    print("| tracking | ms a step | / none | processor ms a step | / none | in calls, % | delivering, % | server, % |")
    print("|" + " --- |" * 8)
    for name, rows in turns.rows.items():
        cells = [name]
        for i in (0, 1):
            ratios = [row[i] / none[i] for row, none in zip(rows, turns.rows["none"], strict=True)]
            cells.append(f"{1e3 * statistics.median(row[i] for row in rows) / steps:.2f}")
            cells.append(f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
        cells += [f"{statistics.median(100 * row[i] / row[1] for row in rows):.2f}" for i in (2, 3, 4)]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
