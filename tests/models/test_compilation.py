"""compile=true: every variant trains as it does without, and nothing of it is left in what is saved."""

import pytest
import torch
from project import VARIANTS, widths
from small import NOISE, bare_trainer, vector
from torch import nn

from gantry.core.errors import UserError
from gantry.data.batches import Batches
from gantry.models.compilation import check_compiler
from gantry.models.losses import least_squares
from gantry.models.module import GAN
from gantry.models.penalties import GradientPenalty
from gantry.training import run
from gantry.training.model import build_model

SMALL = ["batch_size=6", "data.image_size=8"]
WIDTHS = ["model.generator.width=4", "model.discriminator.width=4"]


def fit(gan, steps, start=0, resume=None):
    trainer = bare_trainer(steps)
    trainer.fit(gan, Batches(NOISE, gan.batch_size, gan.n_critic, gan.seed, start=start), ckpt_path=resume)
    return trainer


def dense(compile):
    """The smallest GAN with all there is: a penalty with its double backward, several critic steps, parts."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)), nn.Tanh())
    critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1), nn.Flatten(0))
    return GAN(
        generator,
        critic,
        least_squares,
        torch.optim.Adam,
        z_dim=4,
        seed=0,
        batch_size=6,
        n_critic=2,
        penalties=[GradientPenalty()],
        accumulate=2,
        compile=compile,
    )


def close(one, other):
    """Whether the same weights up to rounding, after some steps of Adam."""
    one, other = (vector(gan) for gan in (one, other))
    return (one - other).norm() < 1e-4 * one.norm()


@pytest.fixture
def compiler():
    try:
        check_compiler(torch.device("cpu"))
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_compiled_runs_and_eager_ones_take_up_each_others_checkpoints(tmp_path):
    whole = dense(compile=False)
    fit(whole, 4)
    fit(half := dense(compile=True), 2).save_checkpoint(tmp_path / "compiled.ckpt")
    assert half.state_dict().keys() == whole.state_dict().keys()
    assert [name for name, _ in half.named_modules()] == [name for name, _ in whole.named_modules()]
    assert isinstance(half.averaged.module, nn.Sequential)
    fit(eager := dense(compile=False), 4, 2, tmp_path / "compiled.ckpt").save_checkpoint(tmp_path / "eager.ckpt")
    assert close(whole, eager)
    fit(compiled := dense(compile=True), 6, 4, tmp_path / "eager.ckpt")
    fit(again := dense(compile=False), 6, 4, tmp_path / "eager.ckpt")
    assert close(compiled, again)


def test_the_networks_are_compiled_and_the_penalties_are_not(monkeypatch):
    """Counted on a compiler that compiles nothing."""
    compiled, eager = [], []
    monkeypatch.setattr(torch, "compile", lambda net, **_: lambda x: (compiled.append(net), net(x))[1])
    gan = dense(compile=True)
    for network in (gan.generator, gan.discriminator):
        network.register_forward_hook(lambda net, *_: eager.append(net))
    fit(gan, 1)
    parts, n_critic = 2, 2
    assert compiled.count(gan.generator) == parts * (n_critic + 1) == eager.count(gan.generator)
    assert compiled.count(gan.discriminator) == parts * (2 * n_critic + 1)
    assert eager.count(gan.discriminator) - compiled.count(gan.discriminator) == parts * n_critic  # the penalty's


def test_without_a_compiler_a_run_is_refused_before_it_begins(config, tmp_path, monkeypatch):
    def none(*_, **__):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", none)
    with pytest.raises(UserError, match=r"^compile: .*No working C\+\+ compiler found.*compile=false"):
        run.train(config("experiment=smoke", "compile=true"), tmp_path, {"variant": "dcgan", "dataset": "digits"})
    assert not (tmp_path / "params.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_compiles_and_trains_as_it_does_without(variant, precision, config):
    torch._dynamo.reset()
    gans = []
    for compile in (False, True):
        cfg = config(f"model={variant}", *SMALL, *widths(variant), f"compile={compile}")
        gan, _ = build_model(cfg, NOISE)
        trainer = bare_trainer(3, precision=precision)
        initial = vector(gan).detach().clone()
        trainer.fit(gan, Batches(NOISE, gan.batch_size, gan.real_batches, gan.seed))
        gans.append(vector(gan))
    eager, compiled = gans
    # Compiled code rounds to bfloat16 less often, and Adam's first steps go by the gradients' signs.
    bound = 0.01 if precision == "32-true" else 0.5
    assert (compiled - eager).norm() < bound * (eager - initial).norm()
