"""Runs made to diverge, to lose, to collapse and to stand still: each is told what it is, and healthy ones nothing."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from project import EACH
from pytorch_lightning import Callback
from small import bare_trainer

from gantry.data.batches import Batches
from gantry.data.sources import digits
from gantry.models.losses import non_saturating
from gantry.models.module import GAN
from gantry.models.networks import dcgan
from gantry.training.callbacks.diagnostics import Health
from gantry.training.callbacks.divergence import Diverged, Guard
from gantry.training.distributed.peers import Peers
from gantry.training.model import build_model

pytestmark = pytest.mark.slow

EVERY = 50
SMALL = ["batch_size=64", "model.generator.width=32", "model.discriminator.width=32"]
ADAM = "{_target_: torch.optim.Adam, _partial_: true, lr: %s, betas: [0.5, 0.999]}"
STRONG, USUAL, WEAK = (f"+model.discriminator_optimizer={ADAM % lr}" for lr in ("1.0e-2", "2.0e-4", "2.0e-5"))
MINIMAX = "model.loss._target_=gantry.models.losses.minimax"


class Tags(dict):
    """A tracker that keeps tags."""

    def set_tags(self, tags):
        self.update(tags)


# Its paper's rate leaves the dense networks nearly where they began after so few steps.
SLOW = {"bigan": ["model.optimizer.lr=2e-3", "model.generator.width=64", "model.discriminator.width=64"]}
SLOW["ali"] = SLOW["bigan"]
SLOW["progan"] = ["model.optimizer.lr=3e-3", "model.growth.stable=300", "model.growth.fade=300"]  # whole early


@pytest.fixture
def fit(config, tmp_path):
    """Train a variant on the digits under guard and watch; gives the tags and the log's messages."""

    def run(variant, steps, *overrides, callbacks=()):
        small = [text for text in SMALL if variant != "vanilla" or "width" not in text]
        cfg = config(f"model={variant}", *small, *overrides)
        data = digits(cache=tmp_path)
        gan, _ = build_model(cfg, data)
        tags = Tags()
        health = Health(tags, EVERY, torch.from_numpy(data.images[:64].copy()))
        trainer = bare_trainer(steps, callbacks=[*callbacks, Guard(EVERY), health])
        trainer.fit(gan, Batches(data, cfg.batch_size, gan.real_batches, cfg.seed))
        return tags

    return run


@pytest.mark.parametrize("variant", EACH)
def test_a_healthy_run_is_left_alone(variant, fit, caplog, record_property):
    steps = 1250
    with caplog.at_level(logging.INFO, "gantry.training.callbacks.diagnostics"):
        assert fit(variant, steps, *SLOW.get(variant, [])) == {}
    assert not [record for record in caplog.records if record.name.startswith("gantry")]
    happened = f"{steps} steps, {steps // EVERY} checks: no warning"
    record_property(
        "fault", {"fault": f"none, {variant} healthy", "injected": 0, "happened": happened, "lost": "nothing"}
    )


@pytest.mark.parametrize(
    ("name", "variant", "steps", "by", "overrides"),
    [
        ("discriminator_won", "dcgan", 300, 150, [MINIMAX, STRONG]),
        ("discriminator_won", "dcgan", 300, 150, [MINIMAX, STRONG, "model.discriminator.norm=none"]),
        ("mode_collapse", "dcgan", 1100, 1000, ["model.optimizer.lr=1e-2", WEAK]),  # all images are alike
        ("mode_collapse", "vanilla", 1100, 1000, ["model.optimizer.lr=4e-3", USUAL]),  # there are few kinds of them
        ("generator_frozen", "dcgan", 200, 150, ["model.optimizer.lr=1e-12", USUAL]),
    ],
)
def test_a_run_made_to_fail_is_told_how(name, variant, steps, by, overrides, fit, caplog, record_property):
    with caplog.at_level(logging.INFO, "gantry.training.callbacks.diagnostics"):
        tags = fit(variant, steps, *overrides)
    assert list(tags) == [f"gantry.warning.{name}"]
    (text,) = tags.values()
    assert text.startswith("since step ")
    since = int(text.split(":")[0].split()[-1])
    assert since <= by
    assert [record.levelno for record in caplog.records if record.name == "gantry.training.callbacks.diagnostics"] == [
        logging.WARNING
    ]
    record_property("fault", {"fault": name, "injected": 1, "happened": text, "lost": "nothing"})


class FirstBad(Callback):
    """Notes, by looking at everything after every step, when a number was first bad."""

    step = None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        values = [*outputs.values(), *pl_module.state_dict().values()]
        values += [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
        if self.step is None and not all(value.isfinite().all() for value in values):
            self.step = trainer.global_step


SGD = ["model.optimizer._target_=torch.optim.SGD", "~model.optimizer.betas"]


@pytest.mark.parametrize(
    ("variant", "overrides"),
    [
        ("lsgan", [*SGD, "model.optimizer.lr=30"]),
        ("wgan", ["model.constraints=[]", "model.optimizer.lr=1e9"]),
    ],
)
def test_a_run_that_diverges_by_itself_is_stopped_and_named(variant, overrides, fit, record_property):
    first = FirstBad()
    with pytest.raises(Diverged) as error:
        fit(variant, 200, "model.generator.width=4", "model.discriminator.width=4", *overrides, callbacks=[first])
    assert error.value.step - EVERY < first.step <= error.value.step
    record_property(
        "fault",
        {"fault": f"{variant} diverges", "injected": 1, "happened": str(error.value)[:120], "lost": "nothing"},
    )


def look_together(rank, folder):
    """One of two ranks, of which only the second has a bad value; leaves what it was told."""
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    networks = dcgan.Generator(6, (1, 8, 8), 4), dcgan.Discriminator((1, 8, 8), 4)
    gan = GAN(*networks, non_saturating, torch.optim.Adam, z_dim=6, seed=0, batch_size=6)
    guard = Guard(3, Peers(rank, 2, dist.new_group(backend="gloo")))
    try:
        for step in range(1, 10):
            value = torch.tensor(float("nan") if (rank, step) == (1, 4) else 0.5)
            trainer = SimpleNamespace(global_step=step, max_steps=9, optimizers=[SimpleNamespace(state={})] * 2)
            guard.on_train_batch_end(trainer, gan, {"loss/generator": value}, None, 0)
    except Diverged as error:
        (Path(folder) / f"{rank}.txt").write_text(str(error))
    dist.destroy_process_group()


def test_all_ranks_stop_at_one_step_with_one_message(tmp_path, record_property):
    mp.spawn(look_together, (str(tmp_path),), nprocs=2)
    told = {(tmp_path / f"{rank}.txt").read_text() for rank in range(2)}
    assert told == {"diverged between steps 4 and 6, no longer finite: loss/generator"}
    happened = f"both ranks: {told.pop()}"
    record_property(
        "fault", {"fault": "NaN at one rank of two", "injected": 1, "happened": happened, "lost": "nothing"}
    )
