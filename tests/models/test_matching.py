"""Which layers of a network take the values of a trained one of another size."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from gantry.models.matching import layer_of, match
from gantry.models.networks import dcgan, mlp, resnet


def network(module, role, size, channels=3, **options):
    width = {} if module is mlp else {"width": 4}
    first = (16,) if role == "Generator" else ()
    return getattr(module, role)(*first, image_shape=(channels, size, size), **width | options)


def matched(module, role, now, before, **options):
    mine, trained = network(module, role, now).state_dict(), network(module, role, before, **options).state_dict()
    return match(mine, trained)


@pytest.mark.parametrize("norm", ["batch", "none", "spectral"])
@pytest.mark.parametrize("module", [dcgan, mlp, resnet])
@pytest.mark.parametrize("role", ["Generator", "Discriminator"])
def test_a_network_of_the_same_shape_is_taken_whole(module, role, norm):
    if norm == "spectral" and role == "Generator":
        pytest.skip("for discriminators")
    state = network(module, role, 28, norm=norm).state_dict()
    found = match(state, dict(sorted(state.items())))  # a file may hold the tensors in another order
    assert found.tensors == {name: name for name in state}
    assert (found.fresh, found.unused) == ((), ())


# What of a network for 64 pixels comes from one for 32: by the layer here, the layer there.
@pytest.mark.parametrize(
    ("module", "role", "moved", "fresh"),
    [
        # Channels halve towards the image: the layers nearest it are the same, three numbers further.
        (dcgan, "Generator", {5: 2, 7: 4, 8: 5, 10: 7, 11: 8, 13: 10}, {1, 2, 4}),
        (dcgan, "Discriminator", {0: 0, 2: 2, 3: 3, 5: 5, 6: 6}, {8, 9, 11}),
        (mlp, "Generator", {n: n for n in (0, 1, 3, 4, 6, 7, 9, 10, 16, 17, 19)}, {12, 13}),
        (mlp, "Discriminator", {4: 4, 7: 7, 10: 10}, {1}),
    ],
)
def test_the_layers_for_a_larger_image(module, role, moved, fresh):
    found = matched(module, role, 64, 32)
    assert found.layers == {f"layers.{mine}": f"layers.{there}" for mine, there in moved.items()}
    assert set(found.fresh) == {f"layers.{number}" for number in fresh}


def test_residual_blocks_keep_the_size_they_work_at():
    generator = matched(resnet, "Generator", 64, 32)
    assert (generator.fresh, generator.unused) == (("blocks.3",), ())
    assert all(mine == there for mine, there in generator.layers.items())
    discriminator = matched(resnet, "Discriminator", 64, 32)
    assert discriminator.fresh == ("blocks.2",)  # the last block that halves; those after it do not
    assert discriminator.layers["blocks.3"] == "blocks.2"
    smaller = matched(resnet, "Generator", 32, 64)
    assert (smaller.fresh, smaller.unused) == ((), ("blocks.3",))


def test_a_layer_is_taken_whole_or_not_at_all():
    found = match(network(resnet, "Generator", 32, 3).state_dict(), network(resnet, "Generator", 32, 1).state_dict())
    assert (found.fresh, found.unused) == (("image",), ("image",))  # not its bias alone
    longer = match(network(mlp, "Generator", 32).state_dict(), mlp.Generator(20, (3, 32, 32)).state_dict())
    assert longer.fresh == ("layers.0",)
    assert not any(name.startswith("layers.0.") for name in longer.tensors)


def test_a_layer_that_happens_to_have_the_shape_of_another_is_not_taken_for_it():
    wide, narrow = (network(dcgan, "Generator", 32, width=width).state_dict() for width in (8, 4))
    assert wide["layers.7.weight"].shape == narrow["layers.4.weight"].shape
    assert match(wide, narrow).layers == {}


def test_a_bias_that_the_trained_layer_lacks_begins_fresh():
    mine, trained = network(dcgan, "Discriminator", 32, norm="none"), network(dcgan, "Discriminator", 32)
    found = match(mine.state_dict(), trained.state_dict())  # under BatchNorm a convolution has no bias
    assert found.fresh == ()
    assert "layers.2.weight" in found.tensors
    assert "layers.2.bias" not in found.tensors
    assert set(found.unused) == {"layers.3", "layers.6"}  # BatchNorm


def test_other_layers_of_the_same_shapes_are_not_taken():
    batch, layer = (network(dcgan, "Generator", 32, norm=norm).state_dict() for norm in ("batch", "layer"))
    assert {"layers.2", "layers.5", "layers.8"} <= set(match(layer, batch).fresh)
    assert match(batch, {name: value.long() for name, value in batch.items()}).tensors == {}
    assert match(batch, {name: value.to("meta") for name, value in batch.items()}).layers == {}
    assert match(batch, {name: value.to_sparse() for name, value in batch.items() if value.dim() == 4}).layers == {}
    assert match(batch, {}).layers == {}


def test_a_chain_of_any_length_is_matched_in_order():
    def chain(*widths):
        return nn.Sequential(*[nn.Linear(a, b) for a, b in pairwise(widths)]).state_dict()

    found = match(chain(*range(1, 15)), chain(9, 9, *range(3, 15)))
    assert found.layers == {str(number): str(number) for number in range(2, 13)}  # 10 comes after 9, not after 1
    assert match({"9" * 9999 + ".weight": torch.zeros(1)}, {"1.weight": torch.zeros(1)}).fresh == ()


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("layers.0.weight", "layers.0"),
        ("blocks.0.conv1.parametrizations.weight.0._u", "blocks.0"),
        ("dense.parametrizations.weight.original", "dense"),
        ("dense.bias", "dense"),
        ("constant", "constant"),
        ("0.weight", "0"),
        ("stages.1.blocks.10.mlp.fc.weight", "stages.1.blocks.10"),
    ],
)
def test_the_layer_a_tensor_belongs_to(tensor, layer):
    assert layer_of(tensor) == layer
