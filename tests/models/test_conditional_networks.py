"""The networks that take labels: every family, condition and kind of size, and what the papers' equations say."""

from typing import get_args

import pytest
import torch
from network_checks import count
from torch import nn
from torch.nn.functional import one_hot

from gantry.models.networks import conditional_dcgan, conditional_mlp, conditional_resnet, dcgan, mlp, resnet
from gantry.models.networks.blocks import Output, UnsupportedError
from gantry.models.networks.conditional import ConditionalBatchNorm, DiscriminatorCondition, GeneratorCondition

FAMILIES = {
    "dcgan": (conditional_dcgan, dcgan, {"width": 4}),
    "mlp": (conditional_mlp, mlp, {}),
    "resnet": (conditional_resnet, resnet, {"width": 4}),
}
Z_DIM, N_CLASSES, SHAPE = 10, 3, (2, 16, 16)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
every_family = pytest.mark.parametrize("family", FAMILIES)
every_generator = pytest.mark.parametrize("condition", get_args(GeneratorCondition))
every_discriminator = pytest.mark.parametrize("condition", get_args(DiscriminatorCondition))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def generator(family, condition, shape=SHAPE, **options):
    """A generator whose classes differ, as after training: conditional BatchNorms begin alike."""
    module, _, widths = FAMILIES[family]
    network = module.ConditionalGenerator(Z_DIM, shape, N_CLASSES, **widths | options, condition=condition)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, ConditionalBatchNorm):
                layer.gain.weight.normal_(1, 0.2)
                layer.bias.weight.normal_(0, 0.2)
    return network


def discriminator(family, condition, shape=SHAPE, **options):
    module, _, widths = FAMILIES[family]
    return module.ConditionalDiscriminator(shape, N_CLASSES, **widths | options, condition=condition)


def tensors(output):
    return [output.logits, output.features, *output.heads.values()]


@every_family
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 8, 32), (3, 48, 64)])
def test_shapes(family, shape):
    z, labels = torch.randn(3, Z_DIM), torch.tensor([0, 2, 1])
    with torch.no_grad():
        for condition in get_args(GeneratorCondition):
            images = generator(family, condition, shape)(z, labels)
            assert images.shape == (3, *shape)
            assert images.abs().max() <= 1
        heads = {}
        for condition in get_args(DiscriminatorCondition):
            output = discriminator(family, condition, shape, embedding_dim=7)(images, labels)
            assert isinstance(output, Output)
            assert output.logits.shape == (3,)
            assert output.features.ndim == 2
            assert len(output.features) == 3
            heads[condition] = {name: tuple(value.shape) for name, value in output.heads.items()}
    assert heads == {
        **{"concat": {}, "projection": {}, "classifier": {"class": (3, N_CLASSES)}},
        "embedding": {"embedding": (3, 7), "proxy": (3, 7)},
    }


@every_family
@every_generator
@pytest.mark.parametrize("training", [True, False])
def test_generators_follow_labels_and_mixtures_of_them(family, condition, training):
    network = generator(family, condition).train(training)
    z = torch.randn(1, Z_DIM).repeat(6, 1)
    weights = one_hot(LABELS, N_CLASSES).float()
    mixed = weights.clone()
    mixed[0] = torch.tensor([0.5, 0.5, 0.0])
    with torch.no_grad():
        images, same, between = (network(z, labels) for labels in (LABELS, weights, mixed))
    scale = images.abs().max()
    images, same, between = images / scale, same / scale, between / scale
    assert torch.allclose(images, same, atol=1e-6)
    assert (images[0] - images[1]).abs().max() > 1e-4  # one latent, two classes
    assert torch.allclose(images[0], images[3], atol=1e-6)
    assert min((between[0] - images[label]).abs().max() for label in (0, 1)) > 1e-4


@every_family
@every_discriminator
def test_discriminators_follow_labels_and_mixtures_of_them(family, condition):
    network = discriminator(family, condition, norm="none").eval()
    images = torch.rand(1, *SHAPE).repeat(6, 1, 1, 1) * 2 - 1
    weights = one_hot(LABELS, N_CLASSES).float()
    mixed = weights.clone()
    mixed[0] = torch.tensor([0.5, 0.5, 0.0])
    said = "proxy" if condition == "embedding" else "logits"
    with torch.no_grad():
        outputs = [network(images, labels) for labels in (LABELS, weights, mixed)]
    for value, same in zip(tensors(outputs[0]), tensors(outputs[1]), strict=True):
        assert torch.allclose(value, same, rtol=1e-4, atol=1e-6)
    value, _, between = (output.heads["proxy"] if said == "proxy" else output.logits for output in outputs)
    distances = [(value[0] - value[1]).abs().max(), *((between[0] - value[label]).abs().max() for label in (0, 1))]
    if condition == "classifier":  # it judges the image alone, and guesses its label
        assert max(distances) == 0
    else:
        assert min(distances) > 1e-6


@every_family
def test_gradients_reach_every_parameter(family):
    images = torch.randn(6, *SHAPE)
    for condition in get_args(GeneratorCondition):
        network = generator(family, condition)
        (network(torch.randn(6, Z_DIM), LABELS) * images).sum().backward()
        assert all(weight.grad.abs().sum() > 0 for name, weight in network.named_parameters() if "bias" not in name)
        assert all(weight.grad is not None for weight in network.parameters())
    for condition in get_args(DiscriminatorCondition):
        network = discriminator(family, condition, norm="spectral")
        sum((value * torch.randn_like(value)).sum() for value in tensors(network(images, LABELS))).backward()
        assert all(weight.grad.abs().sum() > 0 for weight in network.parameters())


@every_family
def test_no_value_decides_what_is_computed(family):
    with torch.device("meta"):  # where a value that is looked at is an error
        for labels in (LABELS.to("meta"), torch.empty(6, N_CLASSES)):
            for condition in get_args(GeneratorCondition):
                images = generator(family, condition)(torch.empty(6, Z_DIM), labels)
                assert images.shape == (6, *SHAPE)
            for condition in get_args(DiscriminatorCondition):
                output = discriminator(family, condition, norm="spectral")(torch.empty(6, *SHAPE), labels)
                assert output.logits.shape == (6,)


@every_family
@every_generator
def test_generators_can_be_exported_for_any_batch_size(family, condition):
    network = generator(family, condition).eval()
    batch = torch.export.Dim("batch", min=2)
    for labels in (LABELS, one_hot(LABELS, N_CLASSES).float()):
        dynamic = ({0: batch}, {0: batch})
        program = torch.export.export(network, (torch.randn(6, Z_DIM), labels), dynamic_shapes=dynamic)
        z = torch.randn(4, Z_DIM)
        with torch.no_grad():
            assert torch.allclose(program.module()(z, labels[:4]), network(z, labels[:4]), atol=1e-6)


@every_family
def test_concat_is_the_plain_network_on_joined_inputs(family):
    _, plain, widths = FAMILIES[family]
    z, images, joined = torch.randn(6, Z_DIM), torch.randn(6, *SHAPE), one_hot(LABELS, N_CLASSES).float()
    conditional = generator(family, "concat")
    network = plain.Generator(Z_DIM + N_CLASSES, SHAPE, **widths)
    network.load_state_dict(conditional.state_dict())
    assert torch.equal(conditional(z, LABELS), network(torch.cat([z, joined], 1)))
    conditional = discriminator(family, "concat", norm="none")
    if family == "mlp":
        network = plain.Discriminator((2 * 16 * 16 + N_CLASSES, 1, 1), norm="none")
        seen = torch.cat([images.flatten(1), joined], 1)
    else:
        network = plain.Discriminator((2 + N_CLASSES, 16, 16), norm="none", **widths)
        seen = torch.cat([images, joined[:, :, None, None].expand(6, N_CLASSES, 16, 16)], 1)
    network.load_state_dict(conditional.state_dict())
    assert torch.equal(conditional(images, LABELS).logits, network(seen))


@every_family
def test_projection_is_equation_6(family):
    """Miyato and Koyama 2018: the logit is psi(phi(x)) + <V y, phi(x)>, with phi(x) the features."""
    _, plain, widths = FAMILIES[family]
    conditional = discriminator(family, "projection", norm="none")
    network = plain.Discriminator(SHAPE, norm="none", **widths)
    weights = {name: value for name, value in conditional.state_dict().items() if not name.startswith("head.")}
    network.load_state_dict(weights)
    images = torch.randn(6, *SHAPE)
    output = conditional(images, LABELS)
    inner = (conditional.head.embedding.weight[LABELS] * output.features).sum(1)
    assert torch.allclose(output.logits, network(images) + inner, rtol=1e-5, atol=1e-6)


@every_family
def test_the_last_layer_sees_the_features(family):
    network = discriminator(family, "classifier", norm="none")
    output = network(torch.randn(6, *SHAPE), LABELS)
    last = network.dense if family == "resnet" else network.layers[-2]
    psi = output.features @ last.weight.flatten() + last.bias
    assert torch.allclose(psi, output.logits, rtol=1e-5, atol=1e-6)
    assert torch.allclose(output.features @ network.head.classifier.weight.T, output.heads["class"], atol=1e-6)


@every_family
def test_embeddings_have_unit_length(family):
    output = discriminator(family, "embedding", embedding_dim=5)(torch.randn(6, *SHAPE), LABELS)
    for name in ("embedding", "proxy"):
        assert torch.allclose(output.heads[name].norm(dim=1), torch.ones(6))
    assert torch.equal(output.heads["proxy"][0], output.heads["proxy"][3])  # of the label alone


@every_family
@pytest.mark.parametrize("condition", ["projection", "classifier", "embedding"])
def test_spectral_normalisation_bounds_the_head(family, condition):
    network = discriminator(family, condition, norm="spectral", embedding_dim=4)
    images = torch.randn(6, *SHAPE)
    with torch.no_grad():
        output = network(images, LABELS)
        for _ in range(300):  # one power iteration a forward
            network.head(output.logits, output.features, LABELS)
    layers = list(network.eval().head.children())
    assert len(layers) == (2 if condition == "embedding" else 1)
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("labels", [torch.tensor([0, 2]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])])
def test_a_forward_is_one_power_iteration_of_the_embedding(labels):
    network = discriminator("dcgan", "projection", norm="spectral")
    normalisation, iterations = network.head.embedding.parametrizations.weight[0], []
    iterate = normalisation._power_method
    normalisation._power_method = lambda *given: (iterations.append(given), iterate(*given))[1]
    network(torch.randn(2, *SHAPE), labels)
    assert len(iterations) == 1


@every_family
def test_batch_norm_becomes_class_conditional(family):
    """The activations of a class are normalised over all classes, and scaled and shifted by its own vectors."""
    network = generator(family, "batch_norm")
    plain = [
        layer for layer in network.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.affine
    ]
    assert len(plain) == (1 if family == "resnet" else 0)  # Miyato and Koyama: not the one before the image
    layer = next(layer for layer in network.modules() if isinstance(layer, ConditionalBatchNorm))
    channels = layer.norm.num_features
    x = torch.randn(6, channels) if family == "mlp" else torch.randn(6, channels, 4, 4)
    axes = [0, *range(2, x.ndim)]
    mean, variance = (x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True))
    gain, bias = (vectors.weight[LABELS].view(6, channels, *[1] * (x.ndim - 2)) for vectors in (layer.gain, layer.bias))
    expected = (x - mean) / (variance + layer.norm.eps).sqrt() * gain + bias
    assert torch.allclose(layer(x, LABELS), expected, atol=1e-5)


def test_mixed_precision_keeps_activations_small_and_unit_vectors_exact():
    layer, x = ConditionalBatchNorm(4, N_CLASSES), torch.randn(6, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.bfloat16(), LABELS)
        output = discriminator("resnet", "embedding")(torch.randn(6, *SHAPE), LABELS)
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), layer(x, LABELS), atol=0.05)
    for vectors in output.heads.values():
        assert torch.allclose(vectors.norm(dim=1), torch.ones(6), atol=1e-5)


def test_conditional_batch_norms_begin_as_plain_ones():
    network = conditional_resnet.ConditionalGenerator(Z_DIM, SHAPE, N_CLASSES, width=4)
    images = network(torch.randn(1, Z_DIM).repeat(6, 1), LABELS)
    assert torch.allclose(images, images[:1].expand_as(images), atol=1e-6)


def test_the_residual_pair_has_the_weights_of_the_official_code():
    """Counted layer by layer in pfnet-research/sngan_projection: gen_models/resnet_32.py, dis_models/snresnet_32.py."""

    def convolution(before, after, kernel):
        return before * after * kernel**2 + after

    shape = (3, 32, 32)
    with torch.device("meta"):
        networks = [
            conditional_resnet.ConditionalGenerator(128, shape, 10),
            conditional_resnet.ConditionalDiscriminator(shape, 10, bias=False),
        ]
    counted = [count(network) for network in networks]
    batch_norm = 2 * 10 * 256
    block = 2 * convolution(256, 256, 3) + convolution(256, 256, 1) + 2 * batch_norm
    generated = (128 + 1) * 16 * 256 + 3 * block + 2 * 256 + convolution(256, 3, 3)
    first = convolution(3, 128, 3) + convolution(128, 128, 3) + convolution(3, 128, 1)
    judged = first + 3 * 2 * convolution(128, 128, 3) + convolution(128, 128, 1) + 128 + 10 * 128
    assert counted == [generated, judged] == [4_304_387, 1_055_104]


@pytest.mark.parametrize("norm", ["spectral", "none"])
def test_the_bias_of_the_residual_logit_is_a_choice(norm):
    network = resnet.Discriminator(SHAPE, 4, norm, bias=False)
    assert network.dense.bias is None
    assert resnet.Discriminator(SHAPE, 4, norm).dense.bias is not None
    images = torch.randn(3, *SHAPE)
    network.eval()
    assert torch.allclose(network(images), network.features(images) @ network.dense.weight[0], atol=1e-6)


@every_family
def test_wrong_conditions_are_refused(family):
    with pytest.raises(UnsupportedError, match=r"condition: 'sum' is not one of concat, batch_norm"):
        generator(family, "sum")
    with pytest.raises(UnsupportedError, match=r"'sum' is not one of concat, projection, classifier, embedding"):
        discriminator(family, "sum")
    with pytest.raises(UnsupportedError, match="batch_norm needs norm: batch"):
        generator(family, "batch_norm", norm="layer")
