"""The parts of `gpu.py` that compare bits: smoke of all variants, replays against calls, repeated and resumed runs."""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from gpu_runs import ON_GPU, VARIANTS, Change, Report, Run, apart, composed, finite, random_images
from gpu_turns import Training, in_turns
from pytorch_lightning import Callback

from gantry.models.module import GAN
from gantry.models.penalties import R1

PRECISIONS = ("32-true", "bf16-mixed")
STEPS = 12 if ON_GPU else 6
SIZE, BATCH = (32, 32) if ON_GPU else (8, 6)
RESNET = ("model/network=resnet", "model.n_critic=2", *(() if ON_GPU else ("data.image_size=16",)))


class Rates(Callback):
    """Another learning rate at each step, as schedules set it."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Before a step."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 / (1 + trainer.global_step)


def lazy(gan: GAN) -> None:
    """Give the GAN penalties that are due at some steps only."""
    gan.penalties = [R1(1.0, every=2), R1(0.5, every=3)]


@dataclass(frozen=True)
class Case:
    """A training that is compared with another.

    Attributes:
        name: as shown.
        variant, overrides: of the config.
        change: applied to the GAN before it trains.
        rates: whether the learning rate changes at every step.
        resident: whether images are on the device; otherwise each batch comes from the host.
    """

    name: str
    variant: str
    overrides: tuple[str, ...] = ()
    change: Change | None = None
    rates: bool = False
    resident: bool = True

    def run(self, how: str, precision: str, steps: int = STEPS, start: int = 0) -> Run:
        """Return the training, not begun."""
        cfg = composed(self.variant, *self.overrides, size=SIZE, batch=BATCH)
        data = random_images(cfg.data.image_size, 512)
        callbacks = [Rates()] if self.rates else []
        return Run(cfg, data, steps, how, self.resident, self.change, callbacks, precision=precision, start=start)


PLAIN = [Case(variant, variant) for variant in VARIANTS]
OTHERS = [
    Case("lazy penalties", "wgan_gp", ("model.n_critic=1",), lazy),
    Case("accumulate=2 and clipping", "dcgan", ("accumulate=2", "model.max_grad_norm=0.1")),
    Case("a rate for each step", "dcgan", rates=True),
    Case("images from the host", "dcgan", resident=False),
    Case("sngan with resnet", "sngan", RESNET),
    Case("DiffAugment", "dcgan", ("model/augment=diffaugment",)),
    Case("ADA", "dcgan", ("model/augment=ada", "model.augment.kimg=0.5", "model.augment.p=0.2")),
    Case("top-k and LeCam", "cgan", ("+model.top_k=0.5", "model.terms=[{_target_: gantry.models.lecam.LeCam}]")),
    Case("consistency", "acgan", ("model.terms=[{_target_: gantry.models.consistency.BalancedConsistency}]",)),
]
RESUMED = ("dcgan", "wgan_gp", "lazy penalties")


def keep_only(names: list[str]) -> None:
    """Leave out all cases but these."""
    for cases in (PLAIN, OTHERS):
        cases[:] = [case for case in cases if case.name in names]


def graphs(run: Run) -> str:
    """How many graphs a training has made, or why it made none."""
    replayed = run.graphed
    return "none" if replayed is None else replayed.eager or str(len(replayed.graphs))


def smoke(report: Report) -> None:
    """Every variant trains some steps replayed."""
    report.head("variant", "graphs", "all finite")
    for case in PLAIN:
        if report.late(case.name):
            break
        run = report.tried(f"smoke: {case.name}", lambda case=case: case.run("replayed", "bf16-mixed").fit())
        if run is not None:
            good = finite(run) and run.graphed is not None and run.graphed.eager is None
            report.row(case.name, graphs(run), finite(run))
            report.verdict(f"smoke: {case.name}", "replayed, finite", f"graphs: {graphs(run)}", good)


def equality(report: Report) -> None:
    """Replayed steps against calls of the same function, from the same seed."""
    report.head("case", "precision", "steps", "replayed against called", "graphs")
    kinds = [(case, precision) for case in PLAIN + OTHERS for precision in PRECISIONS]
    for case, precision in kinds:
        name = f"{case.name}, {precision}"
        if report.late(name):
            continue
        both = report.tried(name, lambda c=case, p=precision: [c.run(how, p).fit() for how in ("replayed", "called")])
        if both is not None:
            found, replayed = apart(*both), both[0].graphed.eager is None
            report.row(case.name, precision, STEPS, found, graphs(both[0]))
            report.verdict(f"graph = eager: {name}", "equal to the bit", found, found == "equal" and replayed)


def resume(report: Report) -> None:
    """Two runs of one seed, one that is stopped and resumed, and what it costs."""
    report.head("case", "precision", "two runs of one seed", "resumed in the middle")
    cases = [case for case in PLAIN + OTHERS if case.name in RESUMED]
    half = 10 if ON_GPU else 3
    for case, precision in [(case, precision) for case in cases for precision in PRECISIONS]:
        name = f"{case.name}, {precision}"
        if report.late(name):
            continue

        def tried(case: Case = case, precision: str = precision) -> tuple[str, str]:
            whole, again = (case.run("replayed", precision, 2 * half).fit() for _ in range(2))
            return apart(whole, again), apart(whole, resumed(case, precision, half))

        found = report.tried(name, tried)
        if found is not None:
            report.row(case.name, precision, *found)
            for what, each in zip(("repeated", "resumed"), found, strict=True):
                report.verdict(f"{what}: {name}", "equal to the bit", each, each == "equal")
    if not report.late("what cudnn.deterministic costs"):
        deterministic(report)


def resumed(case: Case, precision: str, half: int) -> Run:
    """Train half the steps, and the rest in another training from the checkpoint of the first."""
    first = case.run("replayed", precision, half).fit()
    with tempfile.TemporaryDirectory() as folder:
        first.trainer.save_checkpoint(Path(folder) / "half.ckpt")
        second = case.run("replayed", precision, 2 * half, start=half).fit(Path(folder) / "half.ckpt")
    second.records, second.start = first.records + second.records, 0
    return second


def deterministic(report: Report) -> None:
    """What cuDNN's deterministic algorithms cost a replayed step in float32."""
    report.say("")
    report.head("replayed in 32-true", "ms a step, deterministic", "cuDNN's choice", "ratio")
    for variant in (name for name in RESUMED if name in VARIANTS):
        cfg = composed(variant, size=SIZE, batch=64 if ON_GPU else BATCH)
        data = random_images(SIZE, 512)
        contenders = {
            name: Training(Run(cfg, data, 10**9, precision="32-true"), deterministic=name == "deterministic")
            for name in ("deterministic", "free")
        }
        taken = in_turns(contenders, seconds=2.0 if ON_GPU else 0.2)
        ratio = statistics.median(a / b for a, b in zip(taken["deterministic"], taken["free"], strict=True))
        times = [f"{1e3 * statistics.median(taken[name]):.2f}" for name in ("deterministic", "free")]
        report.row(f"{variant}, {SIZE} px", *times, f"{ratio:.3f}")
        met = ratio <= 1.03 if ON_GPU else None
        report.verdict(f"cudnn.deterministic, 32-true, {variant}", "at most 1.03", f"{ratio:.3f}", met)
        del contenders
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
