"""ADA: each transformation by hand, how often each is done, and the controller of p."""

import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.nn.functional import pad
from views import check_gradients, check_reads_no_value

from gantry.models.augment.ada import ADA, PIPELINES
from gantry.models.augment.geometry import Placement, geometry

CONF = Path(__file__).parents[2] / "conf"
COIN = 0.25  # below a probability of a half; all other coins are above it
COLUMNS = {  # of each pipeline: the columns of an operation, its coin last
    "blit": {"mirror": (0, 1), "turn": (2, 3), "shift": (4, 5, 6)},
    "geom": {"scale": (0, 1), "first turn": (2, 3), "stretch": (4, 5), "last turn": (6, 7), "shift": (8, 9, 10)},
    "color": {"brightness": (0, 1), "contrast": (2, 3), "luma": (4, 5), "hue": (6, 7), "saturation": (8, 9)},
    "cutout": {"cutout": (1, 2, 0)},
}
ONE = 0.8413447  # the uniform number whose standard normal one is 1


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def shown(images, pipeline, operation, *values):
    """Show images by one operation alone."""
    view = ADA(pipeline, p=0.5, target=None)
    uniform = torch.full((len(images), view.width), 0.9)
    for column, value in zip(COLUMNS[pipeline][operation], (*values, COIN), strict=True):
        uniform[:, column] = value
    return view(images, uniform)


@pytest.fixture
def images():
    return random(2, 3, 16, 16) * 2 - 1


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_images_are_shown_as_they_are_at_p_0(images, pipeline):
    view = ADA(pipeline)
    assert torch.allclose(view(images, random(2, view.width)), images, atol=2e-6)


@pytest.fixture
def smooth():
    """An image of a few waves. As the authors' filter is not symmetric, what is turned lies 0.1 pixels further."""
    x, y = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="xy")
    waves = [torch.cos(0.2 * x + 0.1 * y), torch.sin(0.15 * x - 0.2 * y), torch.cos(0.1 * x) * torch.sin(0.2 * y)]
    return torch.stack(waves)[None]


def test_mirroring_and_quarter_turns(smooth):
    def close(found, expected):
        return torch.allclose(found, expected, atol=0.05)

    assert not close(smooth.flip(3), smooth)
    assert close(shown(smooth, "blit", "mirror", 0.6), smooth.flip(3))
    assert close(shown(smooth, "blit", "mirror", 0.4), smooth)
    for turns, drawn in enumerate((0.1, 0.3, 0.6, 0.8)):
        assert close(shown(smooth, "blit", "turn", drawn), torch.rot90(smooth, turns, (2, 3)))
    assert close(shown(smooth, "geom", "first turn", 0.0), torch.rot90(smooth, 2, (2, 3)))  # by -180 degrees


def test_a_shift_by_whole_pixels_reflects_the_border():
    images = random(2, 3, 16, 24)  # by up to 2 rows and 3 columns
    right_and_up = shown(images, "blit", "shift", 0.99, 0.01)
    assert torch.allclose(right_and_up, pad(images, (3, 3, 2, 2), mode="reflect")[:, :, 4:, :24], atol=1e-5)


def ramp(horizontal, vertical):
    place = torch.arange(16.0) - 7.5
    return (horizontal * place + vertical * place[:, None]).expand(2, 1, 16, 16) / 16


@pytest.mark.parametrize(
    ("operation", "values", "expected"),
    [
        ("scale", (ONE,), ramp(2**-0.2, 2**-0.2)),  # larger, so less steep
        ("stretch", (ONE,), ramp(2**-0.2, 2**0.2)),
        ("last turn", ((1 + 1 / 4) / 2,), ramp(math.sqrt(2), 0)),  # by 45 degrees
        ("shift", (ONE, 1 - ONE), ramp(1, 1)),  # 2 pixels to the right and 2 up
    ],
)
def test_a_ramp_is_scaled_turned_and_shifted(operation, values, expected):
    middle = (..., slice(6, 10), slice(6, 10))  # the border, which is reflected, is not part of a ramp
    assert torch.allclose(shown(ramp(1.0, 1.0), "geom", operation, *values)[middle], expected[middle], atol=2e-3)


def test_a_shift_by_a_normal_number_moves_to_the_right():
    moved = shown(ramp(1.0, 0.0), "geom", "shift", ONE, 0.5)
    assert torch.allclose(moved[..., 6:10, 6:10], ramp(1.0, 0.0)[..., 6:10, 6:10] - 2 / 16, atol=1e-4)


def test_colours_by_hand(images):
    def close(operation, drawn, expected):
        return torch.allclose(shown(images, "color", operation, drawn), expected, atol=1e-5)

    luma = images.mean(1, keepdim=True)
    assert close("brightness", ONE, images + 0.2)
    assert close("contrast", ONE, images * 2**0.5)
    assert close("luma", 0.6, images - 2 * luma)
    assert close("luma", 0.4, images)
    assert close("hue", (1 + 2 / 3) / 2, images.roll(1, 1))  # a third of the circle: red becomes green
    assert close("saturation", ONE, luma + 2 * (images - luma))


def test_colours_of_a_grey_image_are_its_luma():
    images = random(2, 1, 8, 8)
    expected = {"brightness": images + 0.2, "contrast": images * 2**0.5, "luma": -images, "hue": images}
    for operation, grey in expected.items():
        assert torch.allclose(shown(images, "color", operation, ONE), grey, atol=1e-5), operation
    assert torch.allclose(shown(images, "color", "saturation", ONE), images, atol=1e-5)


def test_operations_follow_one_another_in_the_papers_order(images, smooth):
    view = ADA("color", p=0.5, target=None)
    uniform = torch.full((2, view.width), 0.9)
    uniform[:, 0], uniform[:, 2] = ONE, ONE
    uniform[:, 1], uniform[:, 3] = COIN, COIN
    assert torch.allclose(view(images, uniform), (images + 0.2) * 2**0.5, atol=1e-5)  # brightness before contrast
    view = ADA("blit", p=0.5, target=None)
    uniform = torch.full((1, view.width), 0.9)
    uniform[:, :4] = torch.tensor([0.6, COIN, 0.3, COIN])
    assert torch.allclose(view(smooth, uniform), torch.rot90(smooth.flip(3), 1, (2, 3)), atol=0.01)  # first mirrored


def test_a_cutout_is_half_as_high_and_half_as_wide(images):
    kept = torch.ones(16, 16)
    kept[2:10, 6:14] = 0  # about row 6, column 10
    assert torch.equal(shown(images, "cutout", "cutout", 10 / 16, 6 / 16), images * kept)


def test_images_with_two_channels_have_no_colours():
    view = ADA("bgc")
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        view(torch.zeros(1, 2, 8, 8), random(1, view.width))


def test_coins_below_p_are_taken_and_coins_at_p_are_not(images):
    view = ADA("cutout", p=0.25, target=None)
    uniform = torch.tensor([[0.25 - 2**-24, 0.5, 0.5], [0.25, 0.5, 0.5]])
    assert (view(images, uniform) == images).flatten(1).all(1).tolist() == [False, True]


def test_at_p_0_6_three_of_ten_images_are_mirrored(smooth):
    image = smooth[:, :, 4:12, 4:12]
    view = ADA("blit", p=0.6, target=None)
    uniform = random(4000, view.width)
    uniform[:, [3, 6]] = 0.9  # neither turned nor shifted
    found = view(image.expand(4000, -1, -1, -1), uniform)
    mirrored, kept = ((found - expected).abs().amax((1, 2, 3)) < 0.05 for expected in (image.flip(3), image))
    assert (mirrored ^ kept).all()
    assert mirrored.float().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 4000))


def test_colours_of_r3gan_have_half_the_probability(images):
    image = images[:1].expand(4000, -1, -1, -1)[:, :, :4, :4]
    view = ADA("r3gan", p=0.6, target=None)
    uniform = torch.full((4000, view.width), 0.9)
    uniform[:, 18], uniform[:, 19] = ONE, random(4000)  # brightness
    brighter = (view(image, uniform) - image).mean((1, 2, 3)) > 0.1
    assert brighter.float().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 4000))


def test_either_of_two_turns_is_done_with_probability_p():
    uniform = random(4000, 11)
    uniform[:, [1, 5, 10]] = 0.9  # neither scaled, stretched nor shifted
    placement = Placement(4000, torch.device("cpu"))
    geometry(placement, uniform, torch.tensor(0.6), 16, 16)
    turned = (placement.x - torch.tensor([1.0, 0.0])).norm(dim=1) > 1e-3
    assert turned.float().mean().item() == pytest.approx(0.6, abs=4 * math.sqrt(0.24 / 4000))


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("channels", [1, 3])
def test_both_gradients_are_right_and_no_value_is_read(pipeline, channels):
    view = ADA(pipeline, p=0.7, target=None)
    check_gradients(view, random(2, channels, 8, 12, seed=1) * 2 - 1, random(2, view.width, seed=2))
    check_reads_no_value(view, (2, channels, 8, 12))


def test_autocast_does_not_change_it_and_images_keep_their_type(images):
    view = ADA(p=0.8, target=None)
    uniform = random(2, view.width)
    plain = view(images, uniform)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(view(images, uniform), plain)
    assert view(images.bfloat16(), uniform).dtype == torch.bfloat16


SIGNS = [1.0, 0.5, 0.75, 0.5, 0.25, 0.5, 1.0, 0.5, 0.75, 1.0, 1.0, 0.5]  # means over 4 steps: 0.6875, 0.5625, 0.8125


def test_the_controller_over_12_steps_by_hand():
    view, found = ADA(p=0.1, target=0.6, interval=4, kimg=500), []
    for sign in SIGNS:
        view.observe(torch.tensor(sign), batch=64)
        found.append(view.logged()["augment/p"].item())
    step = 64 * 4 / 500_000
    expected = [0.1] * 3 + [0.1 + step] * 4 + [0.1] * 4 + [0.1 + step]
    assert found == pytest.approx(expected, abs=1e-7)


def test_p_rests_at_the_target_and_is_never_below_0_but_may_pass_1():
    for first, sign, expected in ((0.5, 0.5, 0.5), (0.001, 0.0, 0.0), (0.999, 1.0, 1.001)):
        view = ADA(p=first, target=0.5, interval=1, kimg=1)
        view.observe(torch.tensor(sign), batch=2)
        assert view.p.item() == pytest.approx(expected, abs=1e-6)


def test_a_controller_goes_on_within_an_interval_where_it_was_saved():
    whole, before, after = (ADA(p=0.2, kimg=1) for _ in range(3))
    for number, sign in enumerate(SIGNS):
        whole.observe(torch.tensor(sign), batch=8)
        if number == 5:
            after.load_state_dict(before.state_dict())
        (before if number < 5 else after).observe(torch.tensor(sign), batch=8)
        if number == 4:
            after.load_state_dict(before.state_dict())
    assert torch.equal(after.p, whole.p)
    assert whole.p != 0.2


def test_without_a_target_p_is_that_of_the_config():
    view = ADA(p=0.3, target=None)
    view.observe(torch.tensor(1.0), batch=64)
    assert view.logged()["augment/p"].item() == pytest.approx(0.3)
    assert view.state_dict() == {}  # so that a resumed run takes a changed config's


def test_p_may_be_a_schedule_whose_value_takes_its_place(images):
    schedule = object()
    view, fixed = ADA("cutout", p=schedule, target=None), ADA("cutout", p=0.4, target=None)
    assert vars(view)["p"] is schedule  # where schedules are looked for
    vars(view)["p"] = torch.tensor(0.4)
    uniform = random(2, 3)
    assert torch.equal(view(images, uniform), fixed(images, uniform))
    with pytest.raises(ValueError, match="p: a schedule sets it, so target must be null"):
        ADA(p=schedule)


def test_an_unknown_pipeline_is_refused():
    with pytest.raises(ValueError, match="pipeline: must be one of blit, geom, color, cutout, bg, bgc, r3gan, not abc"):
        ADA("abc")


@pytest.mark.parametrize(("name", "kind"), [("ada", "ADA"), ("diffaugment", "DiffAugment")])
def test_one_line_of_config_adds_an_augmentation_and_without_it_there_is_none(name, kind, images):
    with initialize_config_dir(str(CONF), version_base=None):
        assert "augment" not in compose("train", ["model=dcgan"]).model
        view = instantiate(compose("train", ["model=dcgan", f"model/augment={name}"]).model.augment)
    assert type(view).__name__ == kind
    assert view(images, random(2, view.width)).shape == images.shape


@pytest.mark.gpu
def test_on_a_gpu_it_does_not_wait_and_its_gradient_is_that_of_the_cpu_and_the_same_every_time(images):
    uniform, found = random(2, 28), []
    for device in ("cpu", "cuda", "cuda"):
        view = ADA(p=0.8).to(device)
        there, drawn = images.to(device).requires_grad_(), uniform.to(device)
        view(there, drawn)  # what is made once may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            view(there, drawn).square().sum().backward()
            view.observe(torch.ones((), device=device), batch=64)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found.append(there.grad.cpu())
    assert torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-3)
    assert torch.equal(found[1], found[2])


@pytest.mark.parametrize("options", [{"p": 1.5}, {"target": 3.0}, {"interval": 0}, {"kimg": 0.0}])
def test_numbers_out_of_range_are_refused_by_name(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}.*must be"):
        ADA(**options)
