"""The parts of `gpu.py` that time steps: against loops by hand, the host's share, memory, growth, compiled networks."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from gpu_runs import DEVICE, LOG, ON_GPU, Report, Run, capture_on, composed, random_images
from gpu_turns import ROUNDS, ByHand, Contender, Training, in_turns, middle, ratio
from omegaconf import DictConfig

from gantry.data.images import ImageSet
from gantry.models.step import PLAYERS
from gantry.models.step_inputs import Draws

PRECISION = "bf16-mixed"
FOREVER = 10**9  # steps
KINDS = ("replayed", "eager")
HOST = 0.35  # ms a replayed step, at most
ONE_IN = 6.0  # times as fast as the build before
OLD = Path(__file__).with_name("gpu_before.py")


@dataclass(frozen=True)
class Row:
    """A configuration, as in the table of `shared/gpu/limit.py`'s figures, and how near to the graph it is to come."""

    name: str
    variant: str
    size: int
    batch: int
    target: float
    overrides: tuple[str, ...] = ()

    def config(self, *more: str) -> DictConfig:
        """Return its config; on a CPU of few and small images."""
        size, batch = (self.size, self.batch) if ON_GPU else (16, 6)
        given = (f"trainer.precision={PRECISION}", *self.overrides, *more)
        return composed(self.variant, *given, size=size, batch=batch)


ROWS = [
    Row("dcgan, 32 px, batch 64", "dcgan", 32, 64, 1.25),
    Row("dcgan, 64 px, batch 64", "dcgan", 64, 64, 1.15),
    Row("sngan, 32 px, batch 128, n_critic 5", "sngan", 32, 128, 1.15),
    Row("wgan_gp, 32 px, batch 64, n_critic 5", "wgan_gp", 32, 64, 1.15),
    Row(
        "sngan resnet, 32 px, batch 64, n_critic 5", "sngan", 32, 64, 1.15, ("model/network=resnet", "model.z_dim=128")
    ),
]


def images_of(cfg: DictConfig) -> ImageSet:
    """Return random images, as many as CIFAR-10's."""
    return random_images(cfg.data.image_size, 50_000 if ON_GPU else 512)


def training(cfg: DictConfig, data: ImageSet, how: str = "replayed", **options: object) -> Training:
    """Return a training that takes turns."""
    return Training(Run(cfg, data, FOREVER, how, precision=PRECISION, **options))  # type: ignore[arg-type]


def against_loops(report: Report, seconds: float) -> None:
    """Gantry's step, replayed and eager, against the same networks in a loop by hand, as a graph and eager."""
    report.head(
        *("networks", "Gantry replayed, ms", "graph by hand", "Gantry eager", "loop by hand, eager"),
        *("replayed / graph", "replayed / loop", "eager / loop", "steps a second"),
    )
    for row in ROWS:
        if report.late(row.name):
            continue
        report.tried(row.name, lambda row=row: against_loop(report, row, seconds))


def against_loop(report: Report, row: Row, seconds: float) -> None:
    """One row of the table."""
    cfg = row.config()
    data = images_of(cfg)
    replayed = training(cfg, data)
    networks = replayed.run.gan.generator, replayed.run.gan.discriminator
    contenders: dict[str, Contender] = {
        "graph": ByHand(cfg, data, *networks, graph=True),
        "loop": ByHand(cfg, data, *networks, graph=False),
        "replayed": replayed,
        "eager": training(cfg, data, "eager"),
    }
    taken = in_turns(contenders, seconds)
    names = ("replayed", "graph", "eager", "loop")
    quotients = [ratio(taken, *pair) for pair in (("replayed", "graph"), ("replayed", "loop"), ("eager", "loop"))]
    rate = 1 / statistics.median(taken["replayed"])
    times = [f"{middle(taken, name):.2f}" for name in names]
    report.row(row.name, *times, *(f"{quotient:.3f}" for quotient in quotients), f"{rate:.1f}")
    asked = [f"at most {row.target}", "at most 1", "at most 1"]
    kinds = ("replayed / graph by hand", "replayed / loop by hand", "eager / loop by hand")
    bounds = (row.target, 1.0, 1.0)
    for kind, ask, quotient, bound in zip(kinds, asked, quotients, bounds, strict=True):
        report.verdict(f"{row.name}: {kind}", ask, f"{quotient:.3f}", quotient <= bound if ON_GPU else None)


class Idle:
    """A capture whose replays do nothing once `idle` is set, so that only the host's work is left."""

    def __init__(self, device: torch.device) -> None:
        self.inner = capture_on(device)
        self.aside = self.inner.aside

    idle = False

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        """Capture; return what replays unless it is to be idle."""
        replay = self.inner(function)
        return lambda: None if Idle.idle else replay()


def host(report: Report, seconds: float) -> None:
    """What a replayed step takes the host, with its loop, callbacks and the log every 50 steps."""
    cfg = ROWS[0].config("data.image_size=8", *([] if ON_GPU else ["batch_size=64"]))
    data = random_images(8, 50_000)
    each = training(cfg, data, capture=Idle)
    try:
        each.turn(20)
        Idle.idle = True
        each.turn(LOG)
        wanted = LOG * max(1, round(seconds / (each.turn(LOG) + 1e-9) / 5))
        taken = sorted(1e3 * each.turn(wanted) / wanted for _ in range(5))
    finally:
        Idle.idle = False
        each.end()
    noise = drawing(cfg)
    framework = taken[2] - noise
    report.head("the host's part of a replayed step, ms: median", "least", "most", "of it drawing noise", "the rest")
    report.row(*(f"{taken[place]:.3f}" for place in (2, 0, 4)), f"{noise:.3f}", f"{framework:.3f}")
    what = "the host's part of a replayed step without its noise"
    report.verdict(what, f"under {HOST} ms", f"{framework:.3f} ms", framework < HOST)


def drawing(cfg: DictConfig) -> float:
    """Return the ms that the noise of a step takes, the median of five times so many steps."""
    noise, steps, taken = Draws(cfg.seed, cfg.batch_size), 200, []
    for part in range(5):
        began = time.perf_counter()
        for index in range(part * steps, (part + 1) * steps):
            for player in PLAYERS:
                noise.latents(index, player, cfg.model.z_dim)
        taken.append(1e3 * (time.perf_counter() - began) / steps)
    return statistics.median(taken)


def memory(report: Report) -> None:
    """The most memory of the device that a training takes, replayed and eager: of the allocator, with what it holds."""
    if not ON_GPU:
        report.say("(peak memory: left out, since there is no GPU)")
        return
    report.head("networks", "replayed, MiB", "eager, MiB", "ratio")
    for row in ROWS:
        if report.late(row.name):
            continue
        peaks = [peak_of(Run(row.config(), random_images(row.size), 8, how, precision=PRECISION)) for how in KINDS]
        quotient = peaks[0] / peaks[1]
        report.row(row.name, *(f"{each / 2**20:.0f}" for each in peaks), f"{quotient:.2f}")
        report.verdict(f"{row.name}: peak memory", "at most 1.2 of eager", f"{quotient:.2f}", quotient <= 1.2)


def peak_of(run: Run) -> int:
    """Return the most bytes that the allocator takes from the device in a training, with caches and graphs' pools."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    run.fit()
    return torch.cuda.max_memory_reserved() - before


def growth(report: Report, steps: int) -> None:
    """How the memory grows over many replayed steps of a small network."""
    cfg = ROWS[0].config()
    each = training(cfg, images_of(cfg))
    try:
        each.turn(steps // 10)
        first, began = held(), time.perf_counter()
        done = 0
        while done < steps and not report.late(f"growth after {done} steps"):
            done += steps // 10
            each.turn(steps // 10)
        last = held()
        rate = done / (time.perf_counter() - began) if done else 0.0
    finally:
        each.end()
    report.head("steps", "device, MiB before", "after", "host, MiB before", "after", "steps a second")
    report.row(
        done, *(f"{value / 2**20:.1f}" for pair in zip(first, last, strict=True) for value in pair), f"{rate:.0f}"
    )
    grown = [after - before for before, after in zip(first, last, strict=True)]
    met = grown[0] <= 0 and grown[1] < 64 * 2**20 and done >= 20_000
    shown = f"device {grown[0] / 2**20:+.1f} MiB, host {grown[1] / 2**20:+.1f} MiB in {done} steps"
    report.verdict("memory over 20,000 steps", "no growth", shown, met if ON_GPU else None)


def held() -> tuple[int, int]:
    """Return the bytes that this process holds of the device and of the host."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return torch.cuda.memory_reserved() if ON_GPU else 0, pages * resource.getpagesize()


def compiled(report: Report, seconds: float) -> None:
    """Compiled networks inside the capture against networks as they are."""
    report.head("networks", "as they are, ms", "compiled, ms", "compiled / as they are", "graphs")
    for row in ROWS[:1] + ROWS[2:4]:
        if report.late(row.name):
            continue
        report.tried(f"compiled: {row.name}", lambda row=row: compiled_row(report, row, seconds))


def compiled_row(report: Report, row: Row, seconds: float) -> None:
    """One row; on a CPU the steps are eager, since compiled code cannot be taken down as operations."""
    data, how = images_of(row.config()), "replayed" if ON_GPU else "eager"
    contenders = {
        name: training(row.config(f"compile={str(name == 'compiled').lower()}"), data, how)
        for name in ("as they are", "compiled")
    }
    taken = in_turns(contenders, seconds)
    graphed = contenders["compiled"].run.graphed
    made = "none" if graphed is None else graphed.eager or str(len(graphed.graphs))
    times = [f"{middle(taken, name):.2f}" for name in contenders]
    quotient = ratio(taken, "compiled", "as they are")
    report.row(row.name, *times, f"{quotient:.3f}", made)
    report.verdict(
        f"{row.name}: compiled / as it is",
        "kept if at most 0.9",
        f"{quotient:.3f}",
        quotient <= 0.9 if ON_GPU else None,
    )


class Before:
    """The step of another checkout, in a process of its own that takes turns.

    Args:
        checkout: its folder; it has `gantry.models.module`.
        batch, size: of the step.
    """

    def __init__(self, checkout: Path, batch: int, size: int) -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(checkout / "src"), os.environ.get("PYTHONPATH", "")])
        }
        command = [sys.executable, str(OLD), str(batch), str(size), str(64 if ON_GPU else 4)]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def turn(self, steps: int) -> float:
        """Train.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise RuntimeError(f"the step of the other checkout has ended with {self.process.wait()}")

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


def before(report: Report, checkout: str | None, seconds: float) -> None:
    """The first row against another checkout's code."""
    if checkout is None:
        report.say("(before=<another checkout> compares the first row with its code)")
        return
    cfg = ROWS[0].config()
    data = images_of(cfg)
    contenders: dict[str, Contender] = {
        "now": training(cfg, data),
        "before": Before(Path(checkout).resolve(), cfg.batch_size, cfg.data.image_size),
    }
    taken = in_turns(contenders, seconds, ROUNDS)
    times = ratio(taken, "before", "now")
    report.head("networks", "before, ms a step", "now", "times as fast")
    report.row(ROWS[0].name, f"{middle(taken, 'before'):.2f}", f"{middle(taken, 'now'):.2f}", f"{times:.2f}")
    report.verdict(
        "the first row against the build before",
        "at least 6 times as fast",
        f"{times:.2f}",
        times >= ONE_IN if ON_GPU else None,
    )


def device() -> str:
    """The device's name, and its versions."""
    name = torch.cuda.get_device_name(DEVICE) if ON_GPU else "no GPU: all on the CPU, tiny networks, nothing counts"
    return f"torch {torch.__version__}, Python {sys.version.split()[0]}, {name}"
