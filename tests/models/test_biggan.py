"""BigGAN's and SAGAN's pairs: their weights counted, their shapes, labels, normalisations and programs."""

import copy

import pytest
import torch
from network_checks import count
from small import NOISE, bare_trainer, vector
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from gantry.core.errors import UserError
from gantry.data.batches import Batches
from gantry.models.ema import AveragedGenerator
from gantry.models.networks import biggan, sagan
from gantry.models.networks.big_resnet import ModulatedBatchNorm
from gantry.models.networks.blocks import UnsupportedError
from gantry.models.networks.conditional import one_hot
from gantry.training.model import build_model

CIFAR10 = (3, 32, 32)
SCRIPT = {"shared_dim": None, "hierarchical": False, "attention": None, "initialisation": "normal"}
JUDGE = {"attention": None, "initialisation": "normal"}


def script(shape=CIFAR10, width=64, z_dim=128):
    return biggan.Generator(z_dim, shape, 10, width, **SCRIPT), biggan.Discriminator(shape, 10, width, **JUDGE)


def full(shape=CIFAR10, width=4):
    return biggan.Generator(30, shape, 10, width, shared_dim=6), biggan.Discriminator(shape, 10, width)


def attending(shape=CIFAR10, width=4):
    return sagan.Generator(16, shape, 10, width), sagan.Discriminator(shape, 10, width)


FORMS = {"script": lambda shape: script(shape, 4, 16), "full": full, "sagan": attending}
LENGTHS = {"script": 16, "full": 30, "sagan": 16}


def test_the_weights_of_the_script():
    assert [count(network) for network in script()] == [4_304_387, 4_207_361]


@pytest.mark.parametrize(
    ("z_dim", "size", "classes", "attention", "counts"),
    [(80, 32, 10, None, [9_231_875, 9_456_769]), (120, 128, 1000, 64, [70_433_988, 87_982_370])],
)
def test_the_weights_of_the_full_form(z_dim, size, classes, attention, counts):
    with torch.device("meta"):
        pair = (
            biggan.Generator(z_dim, (3, size, size), classes, attention=attention),
            biggan.Discriminator((3, size, size), classes, attention=attention),
        )
    assert [count(network) for network in pair] == counts


def test_the_weights_of_sagan_as_studiogan_logged_them():
    with torch.device("meta"):
        pair = sagan.Generator(128, CIFAR10, 10), sagan.Discriminator(CIFAR10, 10)
    assert [count(network) for network in pair] == [4_386_308, 1_075_586]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 48, 64), (1, 12, 100)])
def test_shapes(form, shape):
    generator, discriminator = FORMS[form](shape)
    labels = torch.tensor([3, 0])
    with torch.no_grad():
        images = generator(torch.randn(2, LENGTHS[form]), labels)
        made = discriminator(images, labels)
    assert images.shape == (2, *shape)
    assert images.abs().max() <= 1
    assert made.logits.shape == (2,)
    assert made.features.shape == (2, discriminator.width)


def test_sagan_without_labels():
    generator, discriminator = (
        sagan.UnconditionalGenerator(16, CIFAR10, 4),
        sagan.UnconditionalDiscriminator(CIFAR10, 4),
    )
    with torch.no_grad():
        images = generator(torch.randn(2, 16))
        assert images.shape == (2, *CIFAR10)
        assert discriminator(images).shape == (2,)
    conditional, judge = attending()
    embedded = 2 * 10 * sum(norm.norm.num_features for norm in norms_of(conditional))
    plain = 2 * sum(norm.norm.num_features for norm in norms_of(conditional))
    assert count(conditional) - count(generator) == embedded - plain
    assert count(judge) - count(discriminator) == judge.embedding.weight.numel()


def norms_of(network):
    return [module for module in network.modules() if isinstance(module, ModulatedBatchNorm)]


@pytest.mark.parametrize("form", FORMS)
def test_labels_as_numbers_and_as_weights(form):
    generator, discriminator = (network.eval() for network in FORMS[form](CIFAR10))
    z, labels = torch.randn(3, LENGTHS[form]), torch.tensor([1, 7, 2])
    with torch.no_grad():
        for module in generator.modules():  # xavier begins with equal classes
            if isinstance(module, ModulatedBatchNorm) and form == "sagan":
                nn.init.normal_(module.gain.weight, 0, 0.1)
        images, mixed = generator(z, labels), generator(z, one_hot(labels, 10))
        assert torch.allclose(images, mixed, atol=1e-6)
        assert not torch.allclose(images, generator(z, labels + 1), atol=1e-6)
        between = generator(z, 0.5 * one_hot(labels, 10) + 0.5 * one_hot(labels + 1, 10))
        assert not torch.allclose(images, between, atol=1e-6)
        logits = discriminator(images, labels).logits
        assert torch.allclose(logits, discriminator(images, one_hot(labels, 10)).logits, atol=1e-5)
        assert not torch.allclose(logits, discriminator(images, labels + 1).logits, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_where_the_spectral_norm_is(form):
    generator, discriminator = FORMS[form](CIFAR10)
    for network in (generator, discriminator):
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                assert is_parametrized(module, "weight"), name
    embeddings = [module for module in generator.modules() if isinstance(module, nn.Embedding)]
    assert embeddings
    assert not any(is_parametrized(module) for module in embeddings)
    assert is_parametrized(discriminator.embedding, "weight")


def test_class_conditional_batch_norm():
    norm = ModulatedBatchNorm(3, lambda: nn.Embedding(2, 3))
    x, labels = torch.randn(8, 3, 4, 4), torch.tensor([0, 1] * 4)
    normal = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = normal * (1 + norm.gain.weight[labels])[..., None, None] + norm.bias.weight[labels][..., None, None]
    assert torch.allclose(norm(x, labels), expected, atol=1e-5)


def test_class_conditional_batch_norm_keeps_the_precision_of_activations():
    norm = ModulatedBatchNorm(4, lambda: nn.Embedding(3, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert norm(torch.randn(2, 4, 4, 4).bfloat16(), torch.tensor([0, 2])).dtype == torch.bfloat16


def test_initial_weights():
    generator, _ = script(width=16)
    drawn = torch.cat([w.flatten() for name, w in generator.named_parameters() if "original" in name or "gain" in name])
    assert drawn.std().item() == pytest.approx(0.02, rel=0.02)
    orthogonal = biggan.Generator(30, CIFAR10, 10, 4).blocks[1].conv1.parametrizations.weight.original.flatten(1)
    assert torch.allclose(orthogonal @ orthogonal.T, torch.eye(16), atol=1e-5)
    norm = attending()[0].blocks[0].norm1
    assert not norm.gain.weight.any()
    assert not norm.bias.weight.any()


def test_each_block_has_a_part_of_the_latent_vector():
    generator = full()[0].eval()
    assert generator.parts == [8, 8, 7, 7]
    z, labels = torch.randn(2, 30), torch.tensor([0, 1])
    seen = []
    for block in generator.blocks:
        block.norm1.register_forward_hook(lambda _, args, __: seen.append(args[1]))
    with torch.no_grad():
        generator(z, labels)
        classes = generator.shared(labels)
    for condition, part in zip(seen, z.split(generator.parts, 1)[1:], strict=True):
        assert torch.equal(condition, torch.cat([classes, part], 1))


def test_a_shared_embedding_without_hierarchical_latents():
    generator = biggan.Generator(30, CIFAR10, 10, 4, shared_dim=6, hierarchical=False)
    assert generator.dense.in_features == 30
    assert generator.blocks[0].norm1.gain.in_features == 6
    assert generator(torch.randn(2, 30), torch.tensor([0, 1])).shape == (2, *CIFAR10)


def test_refusals():
    with pytest.raises(UnsupportedError, match="shared_dim=128"):
        biggan.Generator(120, CIFAR10, 10, shared_dim=None)
    with pytest.raises(UnsupportedError, match="4 parts here, so at least 4"):
        biggan.Generator(3, CIFAR10, 10)
    with pytest.raises(UnsupportedError, match="orthogonal, normal, xavier"):
        biggan.Discriminator(CIFAR10, 10, 4, initialisation="ortho")
    for kind in (lambda shape: biggan.Generator(16, shape, 10), lambda shape: sagan.Discriminator(shape, 10)):
        with pytest.raises(UnsupportedError, match="multiple of 4"):
            kind((3, 30, 30))


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_every_weight(form):
    generator, discriminator = FORMS[form](CIFAR10)
    for network in (generator, discriminator):
        if network.place is not None:
            network.attention.gamma.data.fill_(0.5)  # at 0 the other weights of the attention have no gradient
    labels = torch.arange(10)  # a class that does not occur has no gradient
    logits = discriminator(generator(torch.randn(10, LENGTHS[form]), labels), labels).logits
    (logits * torch.randn(10)).sum().backward()
    for network in (generator, discriminator):
        for name, weight in network.named_parameters():
            assert weight.grad.abs().sum() > 0, name


def test_a_gradient_penalty_differentiates_twice():
    _, discriminator = full()
    images, labels = torch.randn(2, *CIFAR10, requires_grad=True), torch.tensor([0, 1])
    (gradient,) = torch.autograd.grad(discriminator(images, labels).logits.sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert discriminator.blocks[0].conv1.parametrizations.weight.original.grad.abs().sum() > 0


@pytest.mark.parametrize("form", FORMS)
def test_on_the_meta_device(form):
    with torch.device("meta"):
        generator, discriminator = FORMS[form](CIFAR10)
        labels = torch.zeros(2, dtype=torch.int64)
        made = discriminator(generator(torch.empty(2, LENGTHS[form]), labels), labels)
    assert made.logits.device.type == "meta"


@pytest.mark.parametrize("form", FORMS)
def test_a_program_of_the_generator(form):
    generator = FORMS[form](CIFAR10)[0].eval()
    batch = torch.export.Dim("batch", min=1)
    arguments = (torch.randn(2, LENGTHS[form]), torch.tensor([0, 1]))
    program = torch.export.export(generator, arguments, dynamic_shapes=({0: batch}, {0: batch})).module()
    z, labels = torch.randn(5, LENGTHS[form]), torch.arange(5)
    with torch.no_grad():
        assert torch.allclose(program(z, labels), generator(z, labels), atol=1e-5)


def test_the_averaged_generator():
    generator = full()[0]
    averaged = AveragedGenerator(generator)
    with torch.no_grad():
        generator(torch.randn(4, 30), torch.arange(4))
        for weight in generator.parameters():
            weight.add_(0.01)
    averaged.update(generator, 1.0)
    expected = copy.deepcopy(generator).eval()
    z, labels = torch.randn(4, 30), torch.arange(4)
    with torch.no_grad():
        assert torch.allclose(averaged.module(z, labels), expected(z, labels), atol=1e-6)


def test_further_heads_in_the_place_of_the_projection():
    made = {
        one: biggan.Discriminator(CIFAR10, 10, 4, condition=one, embedding_dim=7)
        for one in ("projection", "classifier", "embedding")
    }
    images, labels = torch.randn(3, *CIFAR10), torch.tensor([1, 7, 2])
    outputs = {one: judge(images, labels) for one, judge in made.items()}
    assert {one: sorted(output.heads) for one, output in outputs.items()} == {
        "projection": [],
        "classifier": ["class"],
        "embedding": ["embedding", "proxy"],
    }
    for one in ("classifier", "embedding"):
        assert torch.equal(outputs[one].logits, made[one].dense(outputs[one].features).flatten())
        for layer in made[one].head.children():
            assert is_parametrized(layer, "weight")
            rows = layer.parametrizations.weight.original
            rows = rows if len(rows) < rows.shape[1] else rows.T
            assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-5)  # orthogonal
    for head in outputs["embedding"].heads.values():
        assert torch.allclose(head.norm(dim=1), torch.ones(3), atol=1e-6)
    with pytest.raises(UnsupportedError, match="projection, classifier, embedding"):
        biggan.Discriminator(CIFAR10, 10, 4, condition="concat")


def test_biggan_trains_with_the_term_of_reacgan(config):
    small = ["data.image_size=8", "batch_size=6", "model.generator.width=4", "model.discriminator.width=4"]
    d2d = "model.terms=[{_target_: gantry.models.terms.DataToData}]"
    gan, _ = build_model(config("model=biggan", *small, d2d, "+model.discriminator.condition=embedding"), NOISE)
    before = vector(gan.discriminator.head)
    bare_trainer(2).fit(gan, Batches(NOISE, 6, gan.real_batches, 0))
    assert not torch.equal(before, vector(gan.discriminator.head))
    wrong, _ = build_model(config("model=biggan", *small, d2d), NOISE)
    with pytest.raises(UserError, match=r"model=biggan with \+model\.discriminator\.condition=embedding"):
        bare_trainer(1).fit(wrong, Batches(NOISE, 6, wrong.real_batches, 0))
