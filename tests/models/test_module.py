"""The one training step, for every variant of conf/model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from project import VARIANTS, widths
from small import bare_trainer
from torch import nn

from gantry.core.config.instantiate import maker
from gantry.core.errors import UserError
from gantry.core.randomness import draws
from gantry.data.batches import Batches
from gantry.data.images import ImageSet
from gantry.models.module import GAN
from gantry.models.networks import dcgan
from gantry.models.penalties import GradientPenalty
from gantry.models.scheduled import own_step_interval
from gantry.models.step_inputs import Planned
from gantry.training.model import build_model

SMALL = ["batch_size=6", "data.image_size=8"]


@pytest.fixture
def small(config):
    """A GAN of a variant with small networks, and its data."""

    def made(variant, *overrides):
        cfg = config(f"model={variant}", *SMALL, *widths(variant), *overrides)
        pixels = draws(0, 0, "test images").integers(0, 256, (50, 1, 8, 8), dtype="uint8")
        labels = draws(0, 0, "test labels").integers(0, 3, 50)
        data = ImageSet("noise", pixels, labels, ("a", "b", "c"), "all", "drawn", "0" * 64, flip=False)
        gan, _ = build_model(cfg, data)
        return gan, lambda start=0: Batches(data, gan.batch_size, gan.real_batches, cfg.seed, start=start)

    return made


def trainer(steps, **options):
    return bare_trainer(steps, **options)


def weights(network):
    return [weight.detach().clone() for weight in network.parameters()]


def moved(network, before):
    return [not torch.equal(weight, old) for weight, old in zip(network.parameters(), before, strict=True)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_step_moves_its_own_network_only(variant, small):
    gan, batches = small(variant)
    moves = []

    def watch(optimizers):
        for name, optimizer in zip(("generator", "discriminator"), optimizers, strict=True):
            optimizer.register_step_pre_hook(
                lambda *_: moves.append([weights(gan.generator), weights(gan.discriminator)])
            )
            optimizer.register_step_post_hook(
                lambda *_, name=name: moves.append(
                    (
                        name,
                        *[
                            moved(net, old)
                            for net, old in zip((gan.generator, gan.discriminator), moves.pop(), strict=True)
                        ],
                    )
                )
            )
        return optimizers

    configure = gan.configure_optimizers
    gan.configure_optimizers = lambda: watch(configure())
    fit = trainer(2)
    fit.fit(gan, batches())
    critic = ["discriminator"] * gan.n_critic
    apart = [*critic, *(["discriminator"] if own_step_interval(gan.penalties) else [])]
    first = gan.order.first == "generator"
    orders = [["generator", *turns] if first else [*turns, "generator"] for turns in (apart, critic)]
    assert [name for name, *_ in moves] == [player for order in orders for player in order]
    for name, generator_moved, discriminator_moved in moves:
        own, other = generator_moved, discriminator_moved
        if name == "discriminator":
            own, other = other, own
        assert any(own)
        assert not any(other)
    assert fit.global_step == 2


@pytest.mark.parametrize("n_critic", [1, 3])
def test_the_budget_is_generator_steps_whatever_n_critic(n_critic, small):
    gan, batches = small("wgan", f"model.n_critic={n_critic}")
    seen = []
    step = gan.training_step
    gan.training_step = lambda batch, batch_idx: (seen.append(batch["images"]), step(batch, batch_idx))[1]
    fit = trainer(4)
    fit.fit(gan, batches())
    assert fit.global_step == 4
    assert [images.shape[:2] for images in seen] == [(n_critic, 6)] * 4
    flat = torch.cat([images.flatten(0, 1) for images in seen])[:50]  # one epoch: every batch is a new one
    assert len({image.numpy().tobytes() for image in flat}) == len(flat)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_ends_with_the_weights_of_one_never_stopped(variant, small, tmp_path):
    whole, batches = small(variant)
    trainer(4).fit(whole, batches())

    half, batches = small(variant)
    first = trainer(2)
    first.fit(half, batches())
    first.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(99)  # nothing that matters is drawn from the global generator
    resumed, batches = small(variant, "seed=0")
    second = trainer(4)
    second.fit(resumed, batches(start=2), ckpt_path=tmp_path / "half.ckpt")

    assert second.global_step == 4
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_another_seed_is_another_run(small):
    gans = [small("dcgan", f"seed={seed}")[0] for seed in (0, 0, 1)]
    first, same, other = [gan.generator.state_dict()["layers.1.weight"] for gan in gans]
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def noise(gan, index, player="generator"):
    """This rank's latents in turn number `index` of a player."""
    (values,) = gan.drawn([Planned(player, index, [], watched=False)]).values()
    return values


def test_ranks_draw_slices_of_one_global_batch(small):
    gan, _ = small("dcgan")
    gan.trainer = SimpleNamespace(world_size=1, global_rank=0)
    whole = noise(gan, 7)
    parts = []
    for rank in range(3):
        gan.trainer = SimpleNamespace(world_size=3, global_rank=rank)
        parts.append(noise(gan, 7))
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(parts[0], parts[1])


def test_noise_is_that_of_its_number_in_whatever_order_it_is_asked_for(small):
    gan, _ = small("dcgan")
    gan.trainer = SimpleNamespace(world_size=1, global_rank=0)

    def expected(index, purpose):
        return draws(gan.seed, index, purpose).standard_normal((gan.batch_size, gan.z_dim), dtype="float32")

    for index in (0, 1, 2, 7, 8, 3, 0, 10**6):
        for purpose in ("generator noise", "discriminator noise"):
            assert np.array_equal(noise(gan, index, purpose.split()[0]), expected(index, purpose))
    gan.noise_stream = 1  # training has gone back
    for index in (1, 2):
        assert np.array_equal(noise(gan, index), expected(index, "generator noise, stream 1"))


def test_a_lazy_penalty_counts_as_often_as_it_was_left_out(small):
    """A penalty of 1 every 2 steps must add up to one at every step."""
    for every, expected in ((1, [1.0] * 4), (2, [2.0] * 2)):
        gan, batches = small("r3gan")
        gan.penalties = [Constant(every)]
        minimised, record = [], []
        step, backward = gan.training_step, gan.manual_backward
        gan.training_step = lambda *batch, step=step, record=record: (record.append(step(*batch)), record[-1])[1]
        gan.manual_backward = lambda loss, b=backward, m=minimised: (m.append(loss.item()), b(loss))[1]
        trainer(4).fit(gan, batches())
        rows = [(total, row) for total, row in zip(minimised[::2], record, strict=True) if "penalty/0_Constant" in row]
        assert [row["penalty/0_Constant"].item() for _, row in rows] == [1.0] * len(expected)
        added = [total - row["loss/discriminator"].item() for total, row in rows]
        assert added == pytest.approx(expected, rel=1e-5)


class Constant:
    """A penalty of 1, connected to the weights."""

    def __init__(self, every):
        self.every = every

    def __call__(self, discriminator, real, fake, uniform):
        return 1.0 + 0.0 * sum(weight.sum() for weight in discriminator.parameters())


def test_bf16_trains_with_a_penalty(small):
    gan, batches = small("wgan_gp")
    trainer(2, precision="bf16-mixed").fit(gan, batches())
    assert all(weight.isfinite().all() for weight in gan.parameters())
    assert all(weight.dtype == torch.float32 for weight in gan.averaged.parameters())


def test_the_discriminators_weights_have_no_gradient_in_the_generators_step(small):
    """Its gradients after a step are those of its own last backward pass."""
    gan, batches = small("dcgan")
    seen = []
    original = gan.manual_backward

    def backward(loss):
        original(loss)
        seen.append([weight.grad is not None and weight.grad.clone() for weight in gan.discriminator.parameters()])

    gan.manual_backward = backward
    trainer(1).fit(gan, batches())
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def parts(discriminator, penalties=()):
    return dict(
        generator=dcgan.Generator(10, (1, 8, 8), 4),
        discriminator=discriminator,
        loss=maker({"_target_": "gantry.models.losses.wasserstein"}),
        optimizer=torch.optim.Adam,
        z_dim=10,
        seed=0,
        batch_size=4,
        penalties=penalties,
    )


def test_a_sigmoid_at_the_critic_is_refused():
    with pytest.raises(UserError, match="sigmoid"):
        GAN(**parts(nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Sigmoid())))


def test_a_gradient_penalty_under_batch_norm_is_refused():
    with pytest.raises(UserError, match=r"GradientPenalty.*norm=none"):
        GAN(**parts(dcgan.Discriminator((1, 16, 16), 4, "batch"), [GradientPenalty()]))


def test_adam_steps_all_weights_in_one_pass_where_the_config_does_not_say_how(small):
    def optimizers_of(*overrides):
        gan, batches = small(*overrides)
        fit = trainer(1)
        fit.fit(gan, batches())
        return fit.optimizers

    assert all(optimizer.defaults["fused"] for optimizer in optimizers_of("dcgan"))
    assert not any(optimizer.defaults["fused"] for optimizer in optimizers_of("dcgan", "+model.optimizer.fused=false"))
    assert all(optimizer.defaults["foreach"] for optimizer in optimizers_of("dcgan", "+model.optimizer.foreach=true"))
    optimizers_of("wgan")  # RMSprop cannot


def test_spectral_norms_are_estimated_once_a_step_as_in_miyatos_algorithm(small, monkeypatch):
    gan, batches = small("sngan", "model.n_critic=3")
    kind, iterations = type(gan.discriminator.layers[0].parametrizations.weight[0]), []
    update = kind._power_method
    monkeypatch.setattr(kind, "_power_method", lambda *args: (iterations.append(args[0]), update(*args))[1])
    trainer(1).fit(gan, batches())
    layers = sum(isinstance(module, kind) for module in gan.discriminator.modules())
    assert len(iterations) == layers * (3 + 1)
