"""DiffAugment, the view of consistency regularisation, and how pixels are read, by hand."""

import pytest
import torch
from torch.nn.functional import grid_sample, pad
from views import check_gradients, check_reads_no_value

from gantry.models.augment.diffaugment import DiffAugment, FlipTranslate, color, cutout, translation
from gantry.models.augment.pixels import bilinear, read, summed
from gantry.models.augment.uniform import chosen, integers, standard_normal

POLICIES = [["color"], ["translation"], ["cutout"], ["color", "translation", "cutout"]]


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def images():
    return random(4, 3, 8, 12) * 2 - 1


def test_uniform_numbers_become_integers_normal_numbers_and_choices():
    assert integers(torch.tensor([0.0, 0.33, 0.34, 1 - 2**-24]), 3).tolist() == [0, 0, 1, 2]
    normal = standard_normal(torch.tensor([0.5, 0.8413447, 0.0227501, 0.0]))
    assert normal[:3].tolist() == pytest.approx([0.0, 1.0, -2.0], abs=1e-5)
    assert normal[3].isfinite()
    coin, p = torch.tensor([0.29, 0.3, 0.31]), torch.tensor(0.3)
    assert chosen(coin, p, torch.full((3,), 5.0), 1).tolist() == [5, 1, 1]


def test_values_between_pixels_are_those_of_grid_sample(images):
    places = random(4, 50, 2) * 3 - 1.5  # some lie outside
    expected = grid_sample(images, places[:, None], mode="bilinear", padding_mode="zeros", align_corners=False)[:, :, 0]
    x, y = ((places[..., axis] + 1) * size / 2 - 0.5 for axis, size in ((0, 12), (1, 8)))
    assert torch.allclose(bilinear(images, x, y), expected, atol=1e-5)


def test_the_gradients_of_reading_between_pixels_are_those_of_differences(images):
    x, y = (random(4, 20, seed=seed) * size - 1 for seed, size in ((1, 14), (2, 10)))

    def values(pixels):
        return bilinear(pixels, x, y).square()  # so that the second derivative is not 0

    pixels = images.double().requires_grad_()
    assert torch.autograd.gradcheck(values, pixels)
    assert torch.autograd.gradgradcheck(values, pixels)


def test_sums_of_whole_numbers_are_the_sums_and_do_not_depend_on_the_order():
    index = (random(2, 4000) * 5).long()
    values = (
        torch.randn(2, 3, 4000, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1e-9])[:, None, None]
    )
    sums = summed(values, index, 5)
    exact = torch.zeros(2, 3, 5, dtype=torch.float64).scatter_add_(2, index[:, None].expand(-1, 3, -1), values.double())
    assert torch.allclose(sums.double(), exact, rtol=1e-6, atol=0)
    other = torch.randperm(4000, generator=torch.Generator().manual_seed(3))
    assert torch.equal(summed(values[..., other], index[:, other], 5), sums)
    plain = torch.zeros(2, 3, 5).scatter_add_(2, index[:, None].expand(-1, 3, -1), values)
    swapped = torch.zeros(2, 3, 5).scatter_add_(2, index[:, other][:, None].expand(-1, 3, -1), values[..., other])
    assert not torch.equal(plain, swapped)  # as those of float32 do


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_sums_of_an_image_with_a_value_that_is_not_finite_are_not_finite(bad):
    values = torch.ones(2, 1, 3)
    values[0, 0, 1] = bad
    sums = summed(values, torch.zeros(2, 3, dtype=torch.long), 2)
    assert not sums[0].isfinite().any()
    assert sums[1].tolist() == [[3, 0]]


def test_sums_of_zeros_are_zero():
    assert not summed(torch.zeros(1, 1, 3), torch.zeros(1, 3, dtype=torch.long), 2).any()


@pytest.mark.gpu
def test_on_a_gpu_the_gradient_of_reading_is_that_of_the_cpu_and_the_same_every_time():
    index = (random(8, 200_000) * 64).long()
    gradient = torch.randn(8, 3, 200_000, generator=torch.Generator().manual_seed(0))
    found = []
    for device in ("cpu", "cuda", "cuda", "cuda"):
        images = torch.zeros(8, 3, 8, 8, device=device, requires_grad=True)
        read(images, index.to(device)).backward(gradient.to(device))
        found.append(images.grad.cpu())
    assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-3)
    assert torch.equal(found[1], found[2])
    assert torch.equal(found[1], found[3])


def test_brightness_saturation_and_contrast_by_hand(images):
    def colored(*uniform):
        return color(images, torch.tensor([uniform]).expand(4, 3))

    assert torch.allclose(colored(0.5, 0.5, 0.5), images, atol=1e-6)
    assert torch.allclose(colored(0.9, 0.5, 0.5), images + 0.4, atol=1e-6)
    grey = images.mean(1, keepdim=True)
    assert torch.allclose(colored(0.5, 0.0, 0.5), grey.expand_as(images), atol=1e-6)
    assert torch.allclose(colored(0.5, 0.75, 0.5), grey + 1.5 * (images - grey), atol=1e-6)
    mean = images.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(colored(0.5, 0.5, 0.0), mean + 0.5 * (images - mean), atol=1e-6)


def test_each_image_has_its_own_numbers(images):
    brighter = color(images, torch.tensor([[u, 0.5, 0.5] for u in (0.0, 0.25, 0.5, 0.75)]))
    assert torch.allclose((brighter - images).mean((1, 2, 3)), torch.tensor([-0.5, -0.25, 0.0, 0.25]), atol=1e-6)


def test_translation_by_hand(images):
    # The sides 8 and 12 shift by up to int(1.5) = 1 and int(2.0) = 2 pixels, each way equally likely.
    down_left = translation(images, torch.tensor([[0.1, 0.99]]).expand(4, 2))  # reads row i - 1, column j + 2
    expected = torch.zeros_like(images)
    expected[:, :, 1:, :-2] = images[:, :, :-1, 2:]
    assert torch.equal(down_left, expected)
    assert torch.equal(translation(images, torch.tensor([[0.5, 0.5]]).expand(4, 2)), images)


@pytest.mark.parametrize(
    ("uniform", "rows", "columns"),
    [
        ((0.5, 0.5), slice(2, 6), slice(3, 9)),  # about pixel (4, 6)
        ((0.0, 0.99), slice(0, 2), slice(9, 12)),  # about (0, 12): half of it, and a row more, lies outside
    ],
)
def test_cutout_by_hand(uniform, rows, columns):
    kept = torch.ones(1, 3, 8, 12)
    kept[:, :, rows, columns] = 0
    assert torch.equal(cutout(torch.ones(1, 3, 8, 12), torch.tensor([uniform])), kept)


def test_a_policy_is_done_in_its_order(images):
    uniform = random(4, 7, seed=1)
    shown = DiffAugment(["cutout", "color", "translation"])(images, uniform)
    expected = translation(color(cutout(images, uniform[:, :2]), uniform[:, 2:5]), uniform[:, 5:])
    assert torch.equal(shown, expected)


@pytest.mark.parametrize("policy", [["colour"], ["color", "color"], []])
def test_a_policy_with_unknown_words_or_one_twice_is_refused(policy):
    with pytest.raises(ValueError, match="policy: must be some of color, translation, cutout, each once"):
        DiffAugment(policy)


@pytest.mark.parametrize("policy", POLICIES, ids="+".join)
@pytest.mark.parametrize("channels", [1, 3])
def test_diffaugment_has_both_gradients_and_reads_no_value(policy, channels):
    view = DiffAugment(policy)
    check_gradients(view, random(3, channels, 8, 12, seed=4) * 2 - 1, random(3, view.width, seed=5))
    check_reads_no_value(view, (3, channels, 8, 12))


def test_a_mirror_image_is_shown_by_chance_of_a_half_and_shifts_reflect(images):
    view = FlipTranslate(ratio=0.25)  # by up to 2 rows and 3 columns
    assert torch.equal(view(images, torch.tensor([[0.5, 0.5, 0.5]]).expand(4, 3)), images)
    assert torch.equal(view(images, torch.tensor([[0.49, 0.5, 0.5]]).expand(4, 3)), images.flip(3))
    shifted = view(images, torch.tensor([[0.49, 0.0, 0.99]]).expand(4, 3))  # reads row i - 2, column j + 3
    assert torch.equal(shifted, pad(images.flip(3), (3, 3, 2, 2), mode="reflect")[:, :, :8, 6:])


def test_the_consistency_view_has_both_gradients_and_reads_no_value(images):
    check_gradients(FlipTranslate(), images, random(4, 3, seed=5))
    check_reads_no_value(FlipTranslate(), (4, 3, 8, 12))


@pytest.mark.parametrize("view", [DiffAugment(POLICIES[-1]), FlipTranslate()])
def test_images_keep_their_type(view, images):
    assert view(images.bfloat16(), random(4, view.width)).dtype == torch.bfloat16
