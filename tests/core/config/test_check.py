"""What cannot work is refused by its key, with the valid choices; what can work passes."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gantry.core.errors import UserError
from gantry.training.rules import check_run

GOOD = """
seed: 0
steps: 100
batch_size: 64
log_every: 50
accumulate: 1
compile: false
resume: null
init_from: null
init_networks: all
max_images: null
paths: {root: /root, cache: /cache}
sweep: {jobs: auto, jobs_per_device: 1, timeout: null, max_failures: null, resume: null}
checkpoint: {every: 500, keep: 2, max_failures: 3}
guard: {every: 50, policy: stop, max_rollbacks: 3}
data: {_target_: gantry.data.sources.digits, image_size: 16}
model:
  _target_: gantry.models.module.GAN
  z_dim: 100
  loss: {_target_: gantry.models.losses.hinge, _partial_: true}
  generator: {_target_: gantry.models.networks.dcgan.Generator, width: 64, norm: batch}
  discriminator: {_target_: gantry.models.networks.dcgan.Discriminator, width: 64, norm: none}
  optimizer: {_target_: torch.optim.Adam, _partial_: true, lr: 2.0e-4, betas: [0, 0.9], weight_decay: 0}
  penalties:
    - {_target_: gantry.models.penalties.GradientPenalty, weight: 10, every: 1}
    - {_target_: gantry.models.penalties.R1}
  constraints: [{_target_: gantry.models.penalties.WeightClipping, bound: 0.01}]
  n_critic: 5
  ema: {half_life: 10000, ramp_up: 0.05}
metrics: {every: 1000, n_generated: 1000, raw: false, extractor: {_target_: gantry.metrics.classifier.classifier}}
trainer: {_target_: pytorch_lightning.Trainer, accelerator: auto, devices: 1, precision: 32-true}
tracking: {uri: mlruns, experiment: gantry, run_name: a, close_timeout: 30}
"""
CONF = Path(__file__).parents[3] / "conf"


def problems(*changes: str, base: str = GOOD) -> list[str]:
    config = OmegaConf.merge(OmegaConf.create(base), OmegaConf.from_dotlist(list(changes)))
    try:
        check_run(config)
    except UserError as error:
        return str(error).splitlines()
    return []


def test_what_works_passes():
    assert problems() == []


@pytest.mark.parametrize(
    "change",
    [
        "seed=9223372036854775807",
        "data.image_size=8",
        "data.image_size=128",
        "data.image_size=512",
        "data.image_size=[48,64]",
        "data.image_size=[240,320]",
        "model.penalties=[]",
        "model.generator.norm=none",
        "model.optimizer.betas=[0,0]",
        "trainer.devices=[3]",
        "trainer.precision=bf16-mixed",
        "tracking.uri=sqlite:////tmp/mlflow.db",
        "tracking.uri=https://user@host:5000/x",
        "tracking.uri=postgresql+psycopg2://host/db",
        "tracking.uri=/some/folder",
        "model.ema.ramp_up=0",
    ],
)
def test_unusual_but_right(change):
    assert problems(change) == []


@pytest.mark.parametrize("key", ["steps", "seed", "resume", "model.z_dim", "paths.cache", "sweep.jobs", "metrics.raw"])
def test_what_is_taken_away_is_missed(key):
    config = OmegaConf.create(GOOD)
    group, _, name = key.rpartition(".")
    del (OmegaConf.select(config, group) if group else config)[name]
    with pytest.raises(UserError, match=f"^{key}: missing"):
        check_run(config)


def test_networks_that_take_labels_are_told_how_many_classes_there_are():
    networks = "gantry.models.networks.conditional_resnet.Conditional"
    base = GOOD.replace("gantry.models.networks.dcgan.", networks)
    assert problems(base=base) == []
    lines = problems("model.generator.n_classes=5", "model.discriminator.n_classes=5", base=base)
    assert [line.partition(": ")[::2] for line in lines] == [
        ("model.generator.n_classes", "no such option (its options: width, norm, condition)"),
        ("model.discriminator.n_classes", "no such option (its options: width, norm, condition, embedding_dim, bias)"),
    ]
    (line,) = problems("model.generator.condition=sum", base=base)
    assert line == "model.generator.condition: must be one of concat, batch_norm, not 'sum'"


def test_the_option_at_fault_is_named_where_others_refer_to_it():
    assert problems("seed=${oc.env:NO_SUCH_VARIABLE}", "tracking.run_name=run-${seed}") == [
        "seed: \"Environment variable 'NO_SUCH_VARIABLE' not found\""
    ]


def test_without_tracking():
    assert problems(base=GOOD.replace("{uri: mlruns, experiment: gantry, run_name: a, close_timeout: 30}", "{}")) == []


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        # taken away, or replaced
        ("steps=3000000000", "steps", ["at most", "2147483647"]),
        ("model.n_critic=99999999999999999999", "model.n_critic", ["at most"]),
        ("model.ema=off", "model.ema", ["half_life, ramp_up", "not false"]),
        ("tracking=mlflow", "tracking", ["uri, experiment"]),
        ("paths=3", "paths", ["root, cache"]),
        # options
        ("model.generator.widht=3", "model.generator.widht", ["did you mean 'width'", "norm"]),
        (
            "model.penalties=[{_target_: gantry.models.penalties.R1, weight: 1}]",
            "model.penalties.0.weight",
            ["gamma"],
        ),
        ("model.optimizer.learning_rate=1", "model.optimizer.learning_rate", ["lr", "betas"]),
        ("model.optimizer.params=1", "model.optimizer.params", ["lr"]),
        ("model.loss.real=1", "model.loss.real", []),
        ("model.loss._target_=gantry.models.losses.hing", "model.loss._target_", ["did you mean 'hinge'"]),
        ("model.loss._target_=3", "model.loss._target_", []),
        ("model.loss=hinge", "model.loss", ["model.loss._target_="]),
        ("model.generator=null", "model.generator", ["_target_"]),
        # values
        ("steps=1.5", "steps", ["whole number", "1.5"]),
        ("steps=many", "steps", ["whole number", "'many'"]),
        ("steps=true", "steps", ["whole number", "true"]),
        ("model.n_critic=true", "model.n_critic", ["whole number"]),
        ("model.generator.width='64'", "model.generator.width", ["whole number"]),
        ("model.generator.norm=bach", "model.generator.norm", ["layer", "did you mean 'batch'"]),
        ("model.penalties=3", "model.penalties", ["a list"]),
        ("trainer.precision=bf17", "trainer.precision", ["bf16-mixed"]),
        ("model.ema.half_life=.nan", "model.ema.half_life", ["finite"]),
        ("model.ema.half_life=.inf", "model.ema.half_life", ["finite"]),
        # schedules
        (
            "model.loss={_target_: gantry.models.losses.minimax, _partial_: true, smoothing: "
            "{_target_: gantry.models.schedules.Linear, start: 0.1, end: 0.0, over: 100}}",
            "model.loss.smoothing",
            ["not read as a schedule", "model.augment"],
        ),
        (
            "model.penalties=[{_target_: gantry.models.penalties.R1, every: "
            "{_target_: gantry.models.schedules.Constant, value: 2}}]",
            "model.penalties.0.every",
            ["not read as a schedule"],
        ),
        (
            "model.terms=[{_target_: gantry.models.consistency.Consistency, view: {_target_: "
            "gantry.models.augment.ada.ADA, p: {_target_: gantry.models.schedules.Constant, value: 0.1}}}]",
            "model.terms.0.view.p",
            ["not read as a schedule"],
        ),
        ("model.classes=3", "model.classes", ["no such option"]),
        ("model.image_shape=[1,8,8]", "model.image_shape", ["no such option"]),
        # ranges
        ("steps=-1", "steps", ["at least 1", "-1"]),
        ("batch_size=0", "batch_size", ["at least 1"]),
        ("model.z_dim=0", "model.z_dim", ["at least 1"]),
        ("model.ema.ramp_up=-0.1", "model.ema.ramp_up", ["at least 0"]),
        ("seed=-1", "seed", ["at least 0"]),
        ("seed=9223372036854775808", "seed", ["2**63 - 1"]),
        ("data.image_size=30", "data.image_size", ["multiple of 4", "28, 32"]),
        ("data.image_size=4", "data.image_size", ["from 8 to 128", "nearest: 8)"]),
        ("data.image_size=500", "data.image_size", ["multiple of 16 up to 512", "nearest: 496, 512"]),
        ("data.image_size=600", "data.image_size", ["nearest: 512)"]),
        ("data.image_size=132", "data.image_size", ["nearest: 128, 144"]),
        ("data.image_size=[30,64]", "data.image_size", ["not 30", "nearest: [28,64], [32,64]"]),
        ("data.image_size=[48]", "data.image_size", ["[height,width]", "[48]"]),
        ("data.image_size=[1,48,64]", "data.image_size", ["[height,width]"]),
        ("data.image_size=[a,64]", "data.image_size", ["[height,width]"]),
        ("data.image_size=48x64", "data.image_size", ["a whole number or a list", "'48x64'"]),
        ("model.optimizer.lr=0", "model.optimizer.lr", ["above 0"]),
        ("model.optimizer.lr=fast", "model.optimizer.lr", ["above 0"]),
        ("model.optimizer.betas=[0.5,1.0]", "model.optimizer.betas", ["below 1"]),
        (
            "model.optimizer.betas=[{_target_: gantry.models.schedules.Linear, start: 0.5, end: 1.2, over: 5},0.9]",
            "model.optimizer.betas",
            ["below 1"],
        ),
        (
            "model.optimizer.lr={_target_: gantry.models.schedules.WarmUp, over: 3, then: abc}",
            "model.optimizer.lr.then",
            ["a number or a schedule", "'abc'"],
        ),
        ("model.top_k=half", "model.top_k", ["above 0 and at most 1", "'half'"]),
        ("model.top_k=0", "model.top_k", ["above 0 and at most 1"]),
        (
            "model.loss={_target_: gantry.models.losses.non_saturating, _partial_: true, smoothing: 2}",
            "model.loss.smoothing",
            ["from 0 to 1"],
        ),
        ("model.optimizer.weight_decay=-1", "model.optimizer.weight_decay", ["at least 0"]),
        # combinations
        (
            "model.discriminator.norm=batch",
            "model.discriminator.norm",
            ["GradientPenalty and R1", "layer, instance, spectral, none", "model.discriminator.norm=none"],
        ),
        ("batch_size=1", "batch_size", ["at least 2", "model.generator.norm=batch"]),
        ("trainer.devices=2", "trainer.devices", ["trainer=ddp"]),
        ("trainer.devices=[0,1]", "trainer.devices", ["trainer=ddp"]),
        ("trainer.num_nodes=2", "trainer.num_nodes", ["trainer=ddp"]),
        ("tracking.uri=foo://host", "tracking.uri", ["sqlite:", "postgresql:", "folder"]),
        ("tracking.uri=null", "tracking.uri", ["folder"]),
    ],
)
def test_refused_by_key(change, key, said):
    (line,) = problems(change)
    assert line.startswith(f"{key}: ")
    assert [part for part in said if part not in line] == []


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        ("model.generator.codes={c1: 1}", "model.generator.codes.c1", "at least 2, or [low, high], not 1"),
        ("model.generator.codes={c2: [1.0, -1.0]}", "model.generator.codes.c2", "[low, high], not [1.0, -1.0]"),
        ("model.generator.codes=10", "model.generator.codes", "takes names, such as {c1: 10"),
        ("model.generator.codes={c1: 900}", "model.z_dim", "at least 900, the entries of model.generator.codes"),
        ("model.generator.prior=[1]", "model.generator.prior", "[low, high], or null, not [1]"),
        ("model.discriminator.codes={c1: 9}", "model.discriminator.codes", "must be those of the generator"),
    ],
)
def test_codes_that_are_none_are_refused(change, key, said):
    kind = "gantry.models.networks.structured"
    targets = [f"model.generator._target_={kind}.Generator", f"model.discriminator._target_={kind}.Discriminator"]
    codes = [f"model.{name}.codes={{c1: 10, c2: [-1.0, 1.0]}}" for name in ("generator", "discriminator")]
    norm = "model.discriminator.norm=layer"
    assert problems(*targets, *codes, norm) == []
    (line,) = problems(*targets, *(codes if "discriminator" in change else codes[1:]), norm, change)
    assert line.startswith(f"{key}: ")
    assert said in line


@pytest.mark.parametrize(
    "key",
    ["optimizer.lr", "optimizer.weight_decay", "penalties.0.gamma", "ema.half_life", "top_k", "augment.p"],
)
def test_a_schedule_where_one_is_read_is_no_problem(key):
    schedule = (
        "{_target_: gantry.models.schedules.WarmUp, over: 9, then: "
        "{_target_: gantry.models.schedules.Constant, value: 0.1}}"
    )
    changes = {
        "penalties.0.gamma": f"model.penalties=[{{_target_: gantry.models.penalties.R1, gamma: {schedule}}}]",
        "augment.p": f"model.augment={{_target_: gantry.models.augment.ada.ADA, target: null, p: {schedule}}}",
    }
    assert problems(changes.get(key, f"model.{key}={schedule}")) == []


def test_a_sigmoid_is_no_option_of_a_critic():
    lines = problems("model.discriminator.sigmoid=true")
    assert [line for line in lines if "raw output" in line]


def test_the_default_norm_counts():
    config = OmegaConf.create(GOOD)
    del config.model.discriminator["norm"]  # the network's own default is batch
    with pytest.raises(UserError, match=r"^model\.discriminator\.norm: under BatchNorm"):
        check_run(config)


def test_a_missing_value_says_how_to_give_it():
    assert problems("data.folder=???", "data._target_=gantry.data.image_folder.image_folder") == [
        "data.folder: must be given (data.folder=/path)"
    ]
    assert problems("tracking.experiment=${seed}", base=GOOD.replace("seed: 0", "seed: ???")) == [
        "seed: must be given (seed=...)"
    ]


def test_a_broken_interpolation_is_named():
    (line,) = problems("tracking.experiment=${nowhere}")
    assert line.startswith("tracking.experiment: ")
    assert "nowhere" in line


def test_every_problem_at_once():
    lines = problems("steps=0", "data.image_size=30", "model.generator.norm=bach", "trainer.devices=2")
    assert {line.partition(":")[0] for line in lines} == {
        "steps",
        "data.image_size",
        "model.generator.norm",
        "trainer.devices",
    }


@pytest.mark.parametrize(
    "choice",
    [f"model={file.stem}" for file in sorted((CONF / "model").glob("*.yaml")) if file.stem != "base"]
    + [f"data={file.stem}" for file in sorted((CONF / "data").glob("*.yaml"))]
    + [f"metrics={file.stem}" for file in sorted((CONF / "metrics").glob("*.yaml"))],
)
def test_every_choice_in_conf_passes(choice, tmp_path):
    overrides = [choice, "tracking=none", f"paths.root={tmp_path}", "hydra/launcher=basic"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides)
    if OmegaConf.is_missing(cfg.data, "folder"):
        cfg.data.folder = str(tmp_path)
    check_run(cfg)


def test_nothing_slow_is_imported():
    code = (
        "import sys; from omegaconf import OmegaConf; from gantry.training.rules import check_run; "
        f"check_run(OmegaConf.create({GOOD!r})); "
        "print(sorted({'torch', 'numpy', 'pytorch_lightning', 'gantry.models.module'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
