"""Latents with named parts: what each is of the normal vector, what a grid of codes shows, and what is refused."""

import pytest
import torch
from network_checks import assert_every_weight_has_a_gradient, count
from scipy.stats import norm

from gantry.models.code_images import LATENTS, code_images, rows_of
from gantry.models.networks import dcgan, infogan, mlp, resnet
from gantry.models.networks.blocks import UnsupportedError
from gantry.models.networks.latent_map import LatentMap, code_size, latent_map
from gantry.models.networks.structured import Discriminator, Generator
from gantry.models.sampling import generate

CODES = {"kind": 3, "tilt": [-1.0, 1.0], "tint": [0, 4]}
Z_DIM, SHAPE = 9, (1, 8, 8)


def latents(count=64, z_dim=Z_DIM):
    return torch.randn(count, z_dim, generator=torch.Generator().manual_seed(0))


def test_each_part_is_a_function_of_its_own_entries():
    z = latents()
    made = LatentMap(Z_DIM, CODES)(z)
    assert torch.equal(made[:, :4], z[:, :4])
    assert torch.equal(made[:, 4:7], torch.eye(3)[z[:, 4:7].argmax(1)])
    share = torch.from_numpy(norm.cdf(z[:, 7:].double().numpy()))
    assert torch.allclose(made[:, 7].double(), 2 * share[:, 0] - 1, atol=1e-6)
    assert torch.allclose(made[:, 8].double(), 4 * share[:, 1], atol=1e-6)


def test_noise_may_be_uniform():
    z = latents(z_dim=5)
    made = LatentMap(5, prior=[-1, 1])(z)
    assert torch.allclose(made.double(), 2 * torch.from_numpy(norm.cdf(z.double().numpy())) - 1, atol=1e-6)
    assert torch.equal(LatentMap(5)(z), z)


def test_each_value_of_a_code_is_as_likely():
    values = LatentMap(Z_DIM, CODES).categories(latents(30_000))
    assert list(values) == ["kind"]
    shares = torch.bincount(values["kind"], minlength=3) / 30_000
    assert (shares - 1 / 3).abs().max() < 4 * (2 / 9 / 30_000) ** 0.5  # four standard deviations


def test_the_codes_are_those_of_the_structured_latents():
    z, structure = latents(), LatentMap(Z_DIM, CODES)
    made, values = structure(z), structure.code_values(z)
    assert torch.equal(made[:, 4:7].argmax(1), values["kind"])
    assert torch.equal(made[:, 7], values["tilt"])
    assert torch.equal(made[:, 8], values["tint"])
    assert code_size(CODES) == structure.code_size == 5


def test_a_code_is_set_and_the_rest_stays():
    structure = LatentMap(Z_DIM, CODES)
    made = structure(latents(2))
    other = structure.with_code(
        structure.with_code(made, "kind", torch.tensor([2, 0])), "tilt", torch.tensor([2.0, -2.0])
    )
    assert other[:, 4:7].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert other[:, 7].tolist() == [2, -2]
    assert torch.equal(other[:, [0, 1, 2, 3, 8]], made[:, [0, 1, 2, 3, 8]])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"codes": {"kind": 1}}, r"codes\.kind: is a number of values, 2 or more, or an interval .*not 1"),
        ({"codes": {"kind": True}}, "not True"),
        ({"codes": {"tilt": [1, -1]}}, r"codes\.tilt: .*low below high, not \[1, -1\]"),
        ({"codes": {"tilt": [1]}}, r"codes\.tilt"),
        ({"codes": {"kind": 10}}, "codes: take 10 entries, and the latents have z_dim=9"),
        ({"prior": 2}, r"prior: is an interval \[low, high\]"),
    ],
)
def test_parts_that_are_none_are_refused(given, said):
    with pytest.raises(UnsupportedError, match=said):
        LatentMap(Z_DIM, **given)


@pytest.mark.parametrize(("name", "module"), [("infogan", infogan), ("dcgan", dcgan), ("mlp", mlp), ("resnet", resnet)])
@pytest.mark.parametrize("norm", ["batch", "spectral"])
def test_any_pair_has_codes_and_a_head_that_tells_them(name, module, norm):
    width = {} if name == "mlp" else {"width": 4}
    generator = Generator(Z_DIM, SHAPE, name, codes=CODES, **width)
    plain = module.Generator(Z_DIM, SHAPE, **width)
    assert count(generator) == count(plain)
    plain.load_state_dict(generator.network.state_dict())
    z = latents(4)
    assert torch.equal(generator(z), plain(generator.latents(z)))
    discriminator = Discriminator(SHAPE, CODES, name, norm=norm, **width)
    alone = module.Discriminator(SHAPE, norm=norm, **width)
    images = generator(z).detach()
    made = discriminator(images)
    assert made.heads["code"].shape == (4, 5)
    discriminator.eval()
    alone.load_state_dict(discriminator.network.state_dict())
    assert torch.allclose(discriminator(images).logits, alone.eval()(images), atol=1e-6)
    (made.logits.sum() + made.heads["code"].square().sum()).backward()
    assert_every_weight_has_a_gradient(discriminator)


def test_the_networks_are_those_of_the_paper():
    """Appendix C.1: 1024 units, 7 x 7 x 128, 64 channels; a head of 128 units beside the logit."""
    generator = Generator(74, (1, 28, 28), codes={"c1": 10, "c2": [-1, 1], "c3": [-1, 1]})
    dense, to_map = 74 * 1024 + 3 * 1024, 1024 * 6272 + 3 * 6272
    assert count(generator) == dense + to_map + 128 * 64 * 16 + 3 * 64 + 64 * 16 + 1
    discriminator = Discriminator((1, 28, 28), {"c1": 10, "c2": [-1, 1], "c3": [-1, 1]})
    body = 64 * 16 + 64 + 128 * 64 * 16 + 3 * 128 + 6272 * 1024 + 3 * 1024 + 1024 + 1
    assert count(discriminator) == body + 1024 * 128 + 3 * 128 + 128 * 12 + 12


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"network": "sagan"}, "network: 'sagan' is not one of infogan, dcgan, mlp, resnet"),
        ({"network": "mlp", "width": 4}, "width: the networks of mlp have one size"),
        ({"norm": "instance"}, "norm: 'instance' is not one of batch, layer"),
    ],
)
def test_pairs_and_options_that_do_not_exist_are_refused(options, said):
    for network in (Generator, Discriminator):
        given = (Z_DIM, SHAPE) if network is Generator else (SHAPE, CODES)
        with pytest.raises(UnsupportedError, match=said):
            network(*given, **options)


def test_a_grid_varies_one_code_and_leaves_the_rest():
    generator = Generator(Z_DIM, SHAPE, "dcgan", width=4, norm="none", codes=CODES).eval()
    z, structure = latents(6), generator.latents
    with torch.no_grad():
        for weight in generator.parameters():
            weight *= 10  # a fresh one makes images that are nearly alike
    images = code_images(generator, z).view(3 + 2 * LATENTS, 6, *SHAPE)
    assert rows_of(structure, 6) == {"kind": 3, "tilt": LATENTS, "tint": LATENTS}
    own = generate(generator, z)
    kinds = structure.categories(z)["kind"]
    for column, kind in enumerate(kinds):
        assert torch.equal(images[kind, column], own[column])  # the latent's own value
        assert not torch.equal(images[(kind + 1) % 3, column], own[column])
    fourth = structure(z)[3]
    for column, value in enumerate([-2.0, -1.2, -0.4, 0.4, 1.2, 2.0]):
        wanted = structure.with_code(fourth[None], "tilt", torch.tensor([value]))
        assert torch.allclose(images[3 + 3, column].float(), generate(generator.network, wanted)[0].float(), atol=1)
    ends = structure.with_code(structure(z)[:1].expand(2, -1), "tint", torch.tensor([-2.0, 6.0]))
    shown = images[3 + LATENTS, [0, 5]]
    assert torch.allclose(shown.float(), generate(generator.network, ends).float(), atol=1)


def test_a_generator_without_codes_has_no_map():
    assert latent_map(dcgan.Generator(Z_DIM, SHAPE, 4)) is None
    assert latent_map(Generator(Z_DIM, SHAPE, width=4, prior=[-1, 1])) is None
    assert latent_map(Generator(Z_DIM, SHAPE, width=4, codes={"kind": 2})).code_size == 2
