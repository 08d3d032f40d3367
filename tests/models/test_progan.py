"""Progressive growing: the paper's weights, closed forms of levels of detail, what a step computes, and begins anew."""

from functools import partial

import pytest
import torch
from network_checks import assert_the_penalty_has_the_slope_of_finite_differences, count
from pytorch_lightning import Callback
from small import NOISE, bare_trainer, vector
from torch import nn
from torch.nn.functional import leaky_relu

from gantry.core.errors import UserError
from gantry.data.batches import Batches
from gantry.data.images import to_float
from gantry.models.compilation import compiled
from gantry.models.growth import LOD, Grown, Growth, RealsAtLevel
from gantry.models.losses import wasserstein
from gantry.models.module import GAN
from gantry.models.networks import dcgan, progan
from gantry.models.networks.blocks import UnsupportedError
from gantry.models.networks.equalised import EqualisedLinear, ScaledConv2d, with_deviation
from gantry.models.networks.growing import enlarged, shrunk, split
from gantry.models.penalties import GradientPenalty, squared_gradient_norm
from gantry.models.schedules import Progress
from gantry.models.terms import Drift
from gantry.training.callbacks.overfitting import Overfitting

SHAPE = (1, 8, 8)  # 2 x 2 pixels at the level of detail 2


def networks(shape=SHAPE, width=6):
    torch.manual_seed(0)
    return progan.Generator(4, shape, width), progan.Discriminator(shape, width, group=2)


def gan(growth, **options):
    made, judge = networks()
    further = {"penalties": [GradientPenalty()], "terms": [Drift()]} | options
    adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.99))
    return GAN(made, judge, wasserstein, adam, z_dim=4, seed=0, batch_size=4, growth=growth, **further)


def fit(model, steps, start=0, resume=None, callback=None):
    trainer = bare_trainer(steps)
    trainer.callbacks += [] if callback is None else [callback]
    trainer.fit(model, Batches(NOISE, model.batch_size, model.n_critic, model.seed, start=start), ckpt_path=resume)
    return trainer


def test_the_weights_of_each_layer_are_those_of_the_papers_table_2():
    """In thousands, as printed there, but for the last size, 1024 pixels, which is larger than ours."""
    printed = [4200, 2400, *[2400] * 6, 1200, 590, 295, 148, 74, 37, 18, 9.2]
    with torch.device("meta"):
        generator, discriminator = progan.Generator(512, (3, 512, 512)), progan.Discriminator((3, 512, 512))
    blocks = [count(layer) for block in generator.blocks for layer in (block.first, block.second)]
    assert [count(generator.start), count(generator.first), *blocks] == pytest.approx(
        [1e3 * n for n in printed], rel=0.03
    )
    assert count(generator.to_image[-1]) == 3 * 32 + 3
    blocks = [count(layer) for block in reversed(discriminator.blocks) for layer in (block.first, block.second)]
    assert [count(discriminator.dense), count(discriminator.last), *reversed(blocks)] == pytest.approx(
        [1e3 * n for n in printed], rel=0.03
    )
    assert count(discriminator.out) == 513
    assert discriminator.last.in_channels == 513


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 48, 64)])
def test_images_have_their_full_size_at_every_level(shape):
    generator, discriminator = networks(shape)
    for lod in torch.arange(0, generator.levels + 0.1, 0.5).tolist():
        for network in (generator, discriminator):
            network.set_lod(lod)
        images = generator(torch.randn(2, 4))
        assert images.shape == (2, *shape)
        assert discriminator(images).shape == (2,)
        assert torch.equal(images, enlarged(images[..., :: 2 ** int(lod), :: 2 ** int(lod)], 2 ** int(lod)))


def test_the_first_layer_has_the_gain_of_the_official_code_and_a_bias_for_each_channel():
    layer = progan.FromLatent(16, 3, 4, 4)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))
    z = torch.randn(5, 16)
    expected = (2**0.5 / 4 / 16**0.5) * z @ layer.weight.T
    assert torch.allclose(layer(z), expected.view(5, 3, 4, 4) + layer.bias, atol=1e-6)


def test_layers_scale_their_weights_by_their_gain_over_the_root_of_their_inputs():
    x = torch.randn(2, 5, 6, 6)
    layer = ScaledConv2d(5, 3, 3, gain=1.5)
    nn.init.normal_(layer.bias)
    expected = nn.functional.conv2d(x, 1.5 / 45**0.5 * layer.weight, layer.bias, padding=1)
    assert torch.allclose(layer(x), expected, atol=1e-6)
    dense = EqualisedLinear(5, 3, gain=1.5)
    nn.init.normal_(dense.bias)
    assert torch.allclose(dense(x[:, :, 0, 0]), 1.5 / 5**0.5 * x[:, :, 0, 0] @ dense.weight.T + dense.bias, atol=1e-6)


def test_pixels_features_have_a_mean_square_of_one_after_every_layer():
    generator, _ = networks()
    seen = []
    for block in generator.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0], output]))
    generator(10 * torch.randn(2, 4))
    assert len(seen) == 4
    assert all(torch.allclose(x.square().mean(1), torch.ones(()), atol=1e-5) for x in seen)
    z = torch.randn(2, 4)
    assert torch.allclose(generator(z), generator(3 * z), atol=1e-5)  # and so has z


@pytest.mark.parametrize(("batch", "size"), [(8, 4), (12, 4), (6, 3), (5, 1)])
def test_neighbours_share_their_deviation_so_that_shares_of_whole_groups_have_the_same(batch, size):
    x = torch.randn(batch, 3, 2, 2)
    made = with_deviation(x, 4, neighbours=True)
    for first in range(0, batch, size):
        members = x[first : first + size]
        deviation = ((members - members.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
        assert torch.allclose(made[first : first + size, 3], deviation.expand(size, 2, 2), atol=1e-6)
    if batch == 8:
        shares = [with_deviation(share, 4, neighbours=True) for share in x.split(4)]
        assert torch.equal(made, torch.cat(shares))


def test_between_two_levels_generated_images_are_mixed():
    generator, _ = networks()
    z = torch.randn(3, 4)
    generator.set_lod(1.0)
    smaller = []
    generator.blocks[0].register_forward_hook(lambda _, inputs, output: smaller.extend([inputs[0], output]))
    whole = generator(z)
    before = enlarged(generator.to_image[0](smaller[0]), 2)
    generator.set_lod(1.25)
    assert torch.allclose(generator(z), enlarged(0.75 * shrunk(whole, 2) + 0.25 * before, 2), atol=1e-6)


def test_between_two_levels_the_discriminators_features_are_mixed():
    _, discriminator = networks()
    images = torch.randn(4, *SHAPE)
    discriminator.set_lod(0.25)
    seen = []
    discriminator.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    discriminator(images)
    upper = discriminator.blocks[1](leaky_relu(discriminator.from_image[2](images), 0.2))
    lower = leaky_relu(discriminator.from_image[1](nn.functional.avg_pool2d(images, 2)), 0.2)
    assert torch.allclose(seen[0], 0.75 * upper + 0.25 * lower, atol=1e-6)


@pytest.mark.parametrize("lod", [1.0, 2.0])
def test_a_fade_begins_where_the_smaller_networks_were(lod):
    generator, discriminator = networks()
    z, images, reals = torch.randn(4, 4), torch.randn(4, *SHAPE), RealsAtLevel()
    made = []
    for at in (lod, lod - 1e-6):
        for network in (generator, discriminator):
            network.set_lod(at)
        reals.level, reals.fades = split(at)
        made.append([generator(z), discriminator(images), reals(images, {LOD: torch.tensor(at)})])
    assert all(torch.allclose(before, after, atol=1e-4) for before, after in zip(*made, strict=True))


def test_layers_of_other_sizes_are_not_computed():
    for lod, blocks, ends in ((2.0, 0, {0}), (1.5, 1, {0, 1}), (1.0, 1, {1}), (0.5, 2, {1, 2}), (0.0, 2, {2})):
        generator, discriminator = networks()
        for network in (generator, discriminator):
            network.set_lod(lod)
        discriminator(generator(torch.randn(4, 4))).sum().backward()
        for network, layers in ((generator, generator.to_image), (discriminator, discriminator.from_image)):
            reached = {n for n, layer in enumerate(layers) if layer.weight.grad is not None}
            assert reached == ends, lod
            assert sum(block.first.weight.grad is not None for block in network.blocks) == blocks, lod


def test_every_weight_but_those_of_the_ends_of_smaller_images_learns_when_the_networks_are_whole():
    generator, discriminator = networks()
    for ends in (generator.to_image, discriminator.from_image):
        ends[:-1].requires_grad_(False)
    squares = squared_gradient_norm(discriminator, torch.randn(4, *SHAPE))
    (squares.mean() + discriminator(generator(torch.randn(4, 4))).square().sum()).backward()
    for network in (generator, discriminator):
        for name, weight in network.named_parameters():
            assert not weight.requires_grad or weight.grad.any(), name


def test_the_penalty_of_gradients_runs_through_the_standard_deviation():
    """Of the batch: images have no gradient of their own, and the penalty is nevertheless differentiated rightly."""
    _, discriminator = networks()
    discriminator.double().set_lod(0.5)
    images = torch.randn(4, *SHAPE, dtype=torch.float64)
    weight = discriminator.last.bias
    assert_the_penalty_has_the_slope_of_finite_differences(discriminator, weight, images)
    gan(Growth(8, 8))  # is not refused, as BatchNorm is


def test_real_images_are_shrunk_mixed_and_enlarged():
    images = torch.arange(16.0).view(1, 1, 4, 4)
    whole, half = RealsAtLevel(0, True), RealsAtLevel(1, False)
    squares = torch.tensor([[2.5, 4.5], [10.5, 12.5]])
    blocks = squares.repeat_interleave(2, 0).repeat_interleave(2, 1)[None, None]
    assert torch.equal(half(images, {}), blocks)
    assert torch.allclose(whole(images, {LOD: torch.tensor(0.25)}), 0.75 * images + 0.25 * blocks)
    assert torch.equal(RealsAtLevel()(images, {}), images)


def test_networks_that_do_not_grow_are_refused():
    generator, _ = networks()
    with pytest.raises(UserError, match=r"model.discriminator .*dcgan.Discriminator.* choose model/network=progan"):
        Grown(Growth(), {"generator": generator, "discriminator": dcgan.Discriminator(SHAPE)}, generator)


def test_a_budget_that_ends_before_the_networks_are_whole_is_said():
    generator, discriminator = networks()
    grown = Grown(Growth(60, 40), {"generator": generator, "discriminator": discriminator}, networks()[0])
    assert "ends at a level of detail of 1.25" in grown.unfinished(90)
    assert "after 200 images" in grown.unfinished(90)
    assert grown.unfinished(200) is None
    assert Grown(None, {"generator": generator}, networks()[0]).unfinished(1) is None


def test_saved_networks_have_their_level():
    generator, _ = networks()
    generator.set_lod(1.5)
    other, _ = networks()
    other.load_state_dict(generator.state_dict())
    z = torch.randn(2, 4)
    assert (other.level, other.fades) == (1, True)
    assert torch.equal(other(z), generator(z))
    for wrong in (3.0, -1.0, float("nan")):
        with pytest.raises(RuntimeError, match="a level of detail from 0 to 2"):
            other.load_state_dict(generator.state_dict() | {"lod": torch.tensor(wrong)})
    with pytest.raises(UnsupportedError, match="from 0 to 2"):
        other.set_lod(2.5)


def test_a_step_moves_the_whole_of_both_and_the_optimizers_begin_anew_at_each_change_of_layers():
    """With 4 images a step, 2 levels, 8 images at a size and 8 of a fade."""
    seen = []

    class Noted(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            counts = {int(one["step"]) for each in trainer.optimizers for one in each.state.values()}
            levels = {(net.level, net.fades) for net in module.grown.networks}
            assert all(weight.grad is not None for weight in module.generator.parameters())  # as ranks exchange it
            assert torch.equal(module.averaged.module.lod, module.generator.lod)
            seen.append((float(module.generator.lod), levels, counts))

    fit(gan(Growth(8, 8)), 10, callback=Noted())
    lods = [2, 2, 2, 1.5, 1, 1, 1, 0.5, 0, 0]
    assert [lod for lod, _, _ in seen] == lods
    assert [levels for _, levels, _ in seen] == [{split(lod)} for lod in lods]
    assert [counts for _, _, counts in seen] == [{1}, {2}, {3}, {1}, {1}, {2}, {3}, {1}, {1}, {2}]
    seen.clear()
    fit(gan(Growth(8, 8, reset=False)), 4, callback=Noted())
    assert [counts for _, _, counts in seen] == [{1}, {2}, {3}, {4}]


@pytest.mark.parametrize("stop", range(2, 9))
def test_a_run_resumed_at_any_step_ends_with_the_same_bits(stop, tmp_path):
    whole = gan(Growth(8, 8))
    trainer = fit(whole, 10)
    fit(gan(Growth(8, 8)), stop).save_checkpoint(tmp_path / "half.ckpt")
    again = gan(Growth(8, 8))
    ended = fit(again, 10, stop, tmp_path / "half.ckpt")
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())
    for one, other in zip(trainer.optimizers, ended.optimizers, strict=True):
        for weight, same in zip(one.state.values(), other.state.values(), strict=True):
            assert all(torch.equal(weight[name], same[name]) for name in weight)


def test_networks_that_could_grow_are_whole_without_growth():
    model = gan(None)
    model.generator.set_lod(1.0)  # as loaded from a run that was growing
    fit(model, 1)
    assert {network.level for network in model.grown.networks} == {0}
    assert vector(model).isfinite().all()


@pytest.mark.parametrize("lod", [0.0, 0.5, 1.0])
def test_generators_of_any_level_export_as_programs(lod):
    generator, _ = networks()
    generator.set_lod(lod)
    generator.eval()
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(generator, (torch.randn(2, 4),), dynamic_shapes=(batch,)).module()
    z = torch.randn(5, 4)
    assert torch.allclose(program(z), generator(z), atol=1e-5)


def test_networks_of_every_level_and_fade_are_compiled(monkeypatch):
    """By a compiler that compiles nothing, at 32 pixels: 7 kinds of passes, with gradients and without."""
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    generator, _ = networks((1, 32, 32))
    run = compiled(generator)
    z = torch.randn(4, 4)
    for lod in (3.0, 2.7, 2.3, 2.0, 1.5, 1.0, 0.5, 0.0):
        generator.set_lod(lod)
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                assert torch.equal(run(z), generator(z))
    assert len(made) == 14


def test_the_overfitting_of_growing_networks_is_that_at_their_level():
    model, seen = gan(Growth(8, 8)), []
    model.grown.begin(Progress(3, 12), Progress(2, 8), [])
    model.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    measure = Overfitting(None, None, 1, NOISE.part(4), NOISE.part(4)).measure
    measure(model, 4)
    known, unseen, made = seen
    assert model.grown.reals.level == 1
    assert torch.equal(known, unseen)
    for images in (known, made):
        assert torch.equal(images, enlarged(images[..., ::2, ::2], 2))
    whole = to_float(torch.from_numpy(NOISE.part(4).images))
    assert torch.allclose(known, RealsAtLevel(1, True)(whole, {LOD: torch.tensor(1.5)}))


def test_progress_decides_and_not_what_was_done_before():
    grown = gan(Growth(8, 8)).grown
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    optimizer.state["anything"] = {}
    assert grown.begin(Progress(5, 20), Progress(4, 16), [optimizer]) == (1, False)
    assert optimizer.state
    assert grown.begin(Progress(3, 12), Progress(2, 8), [optimizer]) == (1, True)
    assert not optimizer.state
