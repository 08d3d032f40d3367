"""The options of the four commands, each declared once; those of sample.py in `sample_options`.

The check, `--help`, the reference page, the comments in conf/*.yaml, the options that a resumed run may change and
those that a comparison leaves out are derived from these declarations. Hydra reads the defaults in conf/*.yaml; a test
compares them and the comments with these.
"""

# ruff: noqa: RUF009  (`option` and its like return `dataclasses.field`)
# No `from __future__ import annotations` here: `declared` reads the annotations as types, not as text.
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gantry.core.config.declaration import Target, declared, group, option, path, text
from gantry.core.config.lightning import TRAINER
from gantry.core.config.sample_options import Sample
from gantry.core.config.shared_options import Accelerator, Generator, Paths, Root, Store, Tracking

Measure = Literal[
    "fid",
    "fid_infinity",
    "kid",
    "inception_score",
    "precision_recall",
    "classes",
    "asked_class",
    "code_agreement",
    "intra_fid",
    "class_fid",
    "memorisation",
    "augmentation",
    "cas",
    "reconstruction",
    "code_neighbours",
]
WHILE_TRAINING: tuple[Measure, ...] = (
    *("fid", "kid", "inception_score", "classes", "asked_class", "code_agreement", "intra_fid"),
    *("reconstruction", "code_neighbours"),
)
# Those that evaluate.py leaves out else.
WHEN_NAMED: tuple[Measure, ...] = ("class_fid", "augmentation", "cas", "reconstruction", "code_neighbours")
EXTRACTOR_GETS = ("data", "cache", "device")


@dataclass
class Data(Target):
    """The data set; for evaluate.py that of the run where none is given."""

    root: str = path("${paths.cache}/data", "the folder of downloaded data", resumable=True, place=True)
    folder: str = path("???", "the folder or .zip of images: data.folder=/path", place=True)


@dataclass
class Extractor(Target):
    """The network whose features are compared."""

    weights: str | None = path(None, "file of the weights; null: the published ones, fetched once", place=True)


@dataclass
class Ema:
    """The averaged generator."""

    half_life: float = option(
        10000, "images after which a weight's share in the averaged generator has halved; 0: no averaging", built=True
    )
    ramp_up: float | None = option(
        0.05, "the half-life is at most this share of the images seen so far; null: no such bound"
    )
    standing: int = option(
        0,
        "batches over which BatchNorm's statistics are taken anew to be measured; 0: those of training",
        least=0,
        **{"optional": True},
    )


@dataclass
class Coded(Target):
    """A network of latents with named parts."""

    codes: Any = option(
        None,
        "named parts of a latent: a number of equally likely values, or [low, high] of a uniform number",
        negative=True,
        **{"optional": True},
    )


@dataclass
class GeneratorNetwork(Coded):
    """The generator's network."""

    prior: Any = option(
        None,
        "[low, high] of uniform noise, the entries of a latent before its codes; null: standard normal",
        negative=True,
        **{"optional": True},
    )


@dataclass
class Model(Target):
    """The variant."""

    generator: GeneratorNetwork = group(reserved=("z_dim", "image_shape", "n_classes"))
    discriminator: Coded = group("the discriminator's network", reserved=("image_shape", "n_classes", "z_dim"))
    loss: Target = group("the loss of both networks", negative=True)  # its numbers may be labels
    optimizer: Target = group("made for each network")
    max_grad_norm: float | None = option(
        None, "the longest a network's gradient may be, a longer one is scaled down to it; null: no clipping", above=0
    )
    ema: Ema = group(may_be_empty=True)


@dataclass
class Metrics:
    """The measurements while training."""

    every: int = option(500, "generator steps between evaluations")
    # The Inception Score needs an image for each of its splits.
    n_generated: int = option(2000, "generated images in each evaluation; 50000 in the papers", least=10)
    measures: list[Measure] = option(
        WHILE_TRAINING,
        "the first one picks the best step; {_target_: my_metrics.contrast} is one of yours",
        **{"optional": True, "compared": False, "built": True},
    )
    raw: bool = option(False, "measure the generator without averaging too, under raw/")
    extractor: Extractor = group(reserved=EXTRACTOR_GETS)


@dataclass
class Trainer(Target):
    """The devices and the precision, options of Lightning's Trainer."""

    accelerator: Accelerator = option("auto", "auto, cpu, gpu, mps", resumable=True)
    devices: Any = option(1, "on this machine: a number, a list of GPUs' numbers or auto", resumable=True)
    num_nodes: int = option(1, "machines; above 1 torchrun or srun starts the ranks", resumable=True)
    strategy: Any = option(None, "how the ranks share the batch", resumable=True)
    sync_batchnorm: bool | None = option(
        False, "BatchNorm over the whole batch: the same run on any number of devices; false: faster", resumable=True
    )
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "auto"] = option(
        "auto", "bf16-mixed where the device computes with it, else 32-true; or: 32-true, bf16-mixed, 16-mixed (GPU)"
    )
    profiler: Any = option(
        None, "simple, advanced, pytorch: writes fit-profile.txt, the time in each hook", optional=True
    )
    callbacks: Any = option(None, "a list of Lightning's callbacks or your own, each a _target_", optional=True)
    logger: Any = option(
        None, "a list of Lightning's loggers or your own, each a _target_", optional=True, resumable=True
    )


@dataclass
class Checkpoint:
    """The checkpoints of a run."""

    every: int = option(500, "generator steps; besides, after each evaluation and when asked to stop")
    keep: int = option(2, "the last so many, beside that of the best evaluation")
    max_failures: int = option(3, "that could not be written, one after the other, at which the run ends")


@dataclass
class Guard:
    """The guard against losses and weights that are not finite."""

    every: int = option(50, "generator steps between two looks")
    policy: Literal["stop", "rollback"] = option(
        "stop", "stop: the run ends FAILED; rollback: to the last checkpoint, with other noise"
    )
    max_rollbacks: int = option(3, "of one run")


@dataclass
class Sweep:
    """A sweep, `python train.py -m ...`."""

    jobs: int | Literal["auto"] = option("auto", "at a time; auto: one on a CPU, as many as the GPUs have room for")
    jobs_per_device: int = option(
        1, "that share a GPU, each with an equal part of its memory; a job of several GPUs shares none", most=64
    )
    timeout: float | None = option(
        None, "seconds without a step or a measurement after which a job counts as hung; null: wait for ever", least=1
    )
    max_failures: int | None = option(None, "failed jobs after which no further one is started; null: go on")
    resume: str | None = path(None, "a sweep to take up: its folder, id or name in MLflow, latest, best")


@dataclass
class Train:
    """python train.py [group=choice ...] [key=value ...]: trains a run; -m sweeps over comma-separated values."""

    steps: int = option(3000, "budget: generator steps, the same for every variant", resumable=True)
    batch_size: int = option(128, "real images in a discriminator step, over all devices")
    accumulate: int = option(
        1, "such batches in a step, one after the other: the same as one batch as many times as large"
    )
    compile: bool = option(False, "run the networks through torch.compile")
    cuda_graph: bool | Literal["auto"] = option(
        "auto",
        "replay steps as CUDA graphs; auto: where a GPU and the config allow it",
        **{"optional": True, "resumable": True, "compared": False},
    )
    seed: int = option(0, "of every draw; seed=0,1,2 repeats", least=0, most=2**63 - 1, compared=False)
    log_every: int = option(50, "generator steps between logged losses", resumable=True, compared=False)
    resume: str | None = path(None, "a run to go on with: its folder, id or name in MLflow, latest, best, or auto")
    init_from: str | None = path(
        None, "trained weights to begin with: run, checkpoint, export or registered model", place=True, optional=True
    )
    init_networks: Literal["all", "generator"] = option(
        "all", "of init_from; all: both networks, where it has both; generator: a fresh discriminator", optional=True
    )
    max_images: int | None = option(
        None, "train on, and measure against, a random part of the data set; null: all of it"
    )
    data: Data = group(reserved=("cache",))
    model: Model = group(reserved=("seed", "batch_size", "accumulate", "compile", "classes", "image_shape"))
    metrics: Metrics = group()
    checkpoint: Checkpoint = group(resumable=True)
    guard: Guard = group(resumable=True)
    trainer: Trainer = group(reserved=TRAINER)
    paths: Paths = group(resumable=True, place=True, compared=False)
    tracking: Tracking = group(may_be_empty=True, resumable=True, place=True, compared=False)
    sweep: Sweep = group(compared=False)


@dataclass
class Protocol:
    """The protocol of an evaluation: how many images are compared with which."""

    name: str = option("papers", "names the results")
    n: int = option(50000, "generated images")
    split: Literal["train", "test", "valid", "all"] = option("train", "of the real images")
    max_real: int | None = option(None, "a random part of the real images; null: all of them")
    official: bool = option(True, "with other extractors or weights it is not called by this name")
    repeats: int = option(1, "draws of n images; their spread says what a difference is worth")


@dataclass
class Evaluate(Generator):
    """python evaluate.py run=... or images=... [key=value ...]: numbers one can publish, and what FID does not show."""

    run: Any = option(
        None, "a run's folder, id or name in MLflow, latest, best, or a sweep's; [.., ..] for several", typed="texts"
    )
    images: str | None = text(None, "a folder of images, or a .npz or .npy, in place of a run")
    # FID_infinity needs two images for each of its points.
    n: int = option("${protocol.n}", "generated images", least=30)
    repeats: int = option("${protocol.repeats}", "how many such draws")
    seed: int = option(0, "of the noise", least=0, most=2**63 - 1)
    measures: list[Measure] = option(
        tuple(measure for measure in get_args(Measure) if measure not in WHEN_NAMED),
        "and class_fid, reconstruction; augmentation, cas, code_neighbours: minutes; {_target_: my_metrics.x} is yours",
        built=True,
    )
    accelerator: Accelerator = option("auto", "auto, cpu, gpu, mps")
    devices: int | Literal["auto"] = option("auto", "on this machine; auto: all GPUs, one process on the processor")
    out: str | None = text(None, "folder of the results; null: the run's own, a new one in outputs for images")
    protocol: Protocol = group()
    extractor: Extractor = group(reserved=EXTRACTOR_GETS)
    data: Data = group(optional=True, reserved=("cache",))
    paths: Paths = group()
    tracking: Store = group(may_be_empty=True)


@dataclass
class Compare:
    """python compare.py [key=value ...]: one HTML report of runs side by side.

    At most one of sweep, runs and filter says which.
    """

    sweep: str | None = text(None, "a sweep's folder, id or name in MLflow, latest, best; null: the latest")
    runs: Any = option(
        None, "[..]: runs by folder, id or name in MLflow, latest, best; of a sweep all of its runs", typed="texts"
    )
    filter: str | None = text(None, "MLflow's, such as \"tags.variant = 'wgan' and params.batch_size = '64'\"")
    metric: str | None = text(
        None, "rank by this one, or by an evaluation's, as papers/fid; null: the one that picked the best step"
    )
    steps: Any = option(None, "[generator steps] to look at besides the end; null: at most four, evenly spread")
    out: str | None = text(None, "folder of report.html and its PNGs; null: comparison/ in the sweep's folder")
    ui: bool = option(False, "true: serve MLflow's page of it on this machine, and open a browser; Ctrl-C ends it")
    paths: Root = group()
    tracking: Store = group(may_be_empty=True)


COMMANDS = {"train": Train, "evaluate": Evaluate, "sample": Sample, "compare": Compare}
PLACES = [key for key, one in declared(Train).items() if one.place]  # may differ between machines
FREE = [key for key, one in declared(Train).items() if one.resumable]  # may differ when a run goes on
NOT_COMPARED = [key for key, one in declared(Train).items() if not one.compared]
