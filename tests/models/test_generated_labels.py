"""Labels of generated images: shares, streams, ranks, and refusals."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small import NOISE, bare_trainer

from gantry.core.errors import UserError
from gantry.data.batches import Batches
from gantry.models.consistency import BalancedConsistency, LatentConsistency
from gantry.models.labels import Classes, LabelSource, from_uniform, label_stream, taken_by
from gantry.models.losses import hinge
from gantry.models.networks import dcgan
from gantry.models.objective import objective
from gantry.models.penalties import R1, R2
from gantry.models.play import MIXING, Alone
from gantry.models.step import played
from gantry.models.step_inputs import FAKE_LABELS, Inputs, Order, plan, turns
from gantry.training.model import build_model

SMALL = ["data.image_size=8", "batch_size=6", "model.generator.width=4", "model.discriminator.width=4"]


def test_numbers_become_labels_by_their_share_of_the_interval():
    uniform = np.array([0.0, 0.19, 0.2, 0.49, 0.5, 0.999])
    assert from_uniform(uniform, (0.2, 0.3, 0.5)).tolist() == [0, 0, 1, 1, 2, 2]
    assert from_uniform(uniform, (0.0, 1.0)).tolist() == [1] * 6
    classes = Classes.of(np.array([0, 2, 2, 2]), ("a", "b", "c"))
    assert classes.shares == (0.25, 0.0, 0.75)
    assert classes.shares_of("uniform") == (1 / 3,) * 3
    assert classes.shares_of("data") == classes.shares


def test_a_label_of_a_stream_depends_on_its_number_alone():
    shares = (0.1, 0.6, 0.3)
    whole = label_stream(7, 0, 3000, shares)
    assert np.array_equal(
        np.concatenate([label_stream(7, a, b - a, shares) for a, b in ((0, 1), (1, 513), (513, 3000))]), whole
    )
    assert not np.array_equal(label_stream(8, 0, 3000, shares), whole)
    counts = np.bincount(whole) / 3000
    assert np.abs(counts - shares).max() < 4 * np.sqrt(0.25 / 3000)
    assert LabelSource(shares)(7, 5, 4).tolist() == whole[5:9].tolist()
    assert LabelSource(shares, (2, 0))(7, 3, 4).tolist() == [0, 2, 0, 2]


def test_a_network_says_by_its_signature_that_it_takes_labels():
    assert taken_by(dcgan.Generator(4, (1, 8, 8), 4)) == frozenset()

    class Mixing(torch.nn.Module):
        def forward(self, z, labels, draws=None):
            return z

    assert taken_by(Mixing()) == {"labels", "draws"}


@pytest.fixture
def gan(config):
    def made(*overrides, data=NOISE):
        gan, network = build_model(config("model=cgan", *SMALL, *overrides), data)
        gan.trainer = SimpleNamespace(world_size=1, global_rank=0, precision_plugin=None)
        return gan, network

    return made


def drawn_labels(gan, step):
    planned = plan(gan_terms(gan), step, gan.order)
    values = gan.drawn(planned)
    return {turn.player: values.get(turn.key(FAKE_LABELS)) for turn in planned}


def gan_terms(gan):
    return objective(gan.loss, gan.penalties, gan.terms)


@pytest.mark.parametrize("draw", ["uniform", "data"])
def test_labels_are_the_same_for_any_number_of_ranks(draw, gan):
    made, network = gan(f"model.labels={draw}")
    assert network["n_classes"] == 3
    whole = [drawn_labels(made, step) for step in range(40)]
    for rank in range(3):
        made.trainer = SimpleNamespace(world_size=3, global_rank=rank)
        for step, labels in enumerate(whole):
            for player, part in drawn_labels(made, step).items():
                assert torch.equal(part, labels[player][2 * rank :][:2])
    everything = torch.cat([labels["generator"] for labels in whole]).bincount(minlength=3) / 240
    shares = made.classes.shares_of(draw)
    assert (everything - torch.tensor(shares)).abs().max() < 4 * (0.25 / 240) ** 0.5
    assert not torch.equal(whole[0]["generator"], whole[0]["discriminator"])


def test_paired_labels_are_those_of_the_real_batch(gan):
    made, _ = gan("model.labels=paired", "+model.generator_reals=next")
    batch = next(iter(Batches(NOISE, 6, made.real_batches, 0)))
    assert batch["labels"].shape == (2, 6)
    planned = plan(gan_terms(made), 0, made.order)
    critic, generator = turns(planned, made.inputs, batch | made.drawn(planned), (), torch.contiguous_format)
    assert torch.equal(critic.fake_labels, batch["labels"][0])
    assert torch.equal(generator.fake_labels, batch["labels"][1])
    assert torch.equal(generator.images, batch["images"][1])


def test_each_player_may_have_labels_of_its_own(gan):
    made, _ = gan("model.labels=uniform", "+model.discriminator_labels=paired")
    labels = drawn_labels(made, 0)
    assert labels["discriminator"] is None
    assert labels["generator"].shape == (6,)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=dcgan", "+model.labels=data"], "model.labels: neither network takes labels"),
        (
            ["+model.generator_batches=2", "model.labels=paired"],
            "model.generator_batches=2: model.labels=paired gives each",
        ),
        (
            ["+model.generator_batches=2", "model.loss._target_=gantry.models.losses.relativistic_pairing"],
            "model.generator_batches=2: the loss compares",
        ),
    ],
)
def test_what_cannot_be_paired_or_labelled_is_refused_by_name(overrides, said, gan):
    with pytest.raises(UserError, match=f"^{said}"):
        gan(*overrides)


def test_a_conditional_variant_is_refused_on_data_without_labels(gan):
    with pytest.raises(UserError, match=r"^model\.generator: takes labels, and the data has none: choose data with"):
        gan(data=replace(NOISE, labels=None, classes=None))


def test_a_conditional_variant_is_refused_on_a_single_class(gan):
    with pytest.raises(
        UserError, match=r"^model\.generator: takes labels, and the data has a single class, cat: choose"
    ):
        gan(data=replace(NOISE, labels=0 * NOISE.labels, classes=("cat",)))


@pytest.mark.parametrize("first", ["discriminator", "generator"])
def test_turns_are_taken_in_the_asked_order_on_the_asked_batches(first):
    terms = [
        SimpleNamespace(player=player, every=1, apart=False, name=player, draws={})
        for player in ("generator", "discriminator")
    ]
    taken = {
        reals: [(turn.player, turn.batch, turn.samples) for turn in plan(terms, 4, Order(2, first, 3, reals))]
        for reals in ("last", "next")
    }
    critic = [("discriminator", 0, 1), ("discriminator", 1, 1)]
    last = [("generator", 1 if first == "discriminator" else 0, 3)]
    after, fresh = [("generator", 2, 3)], first == "generator"
    assert taken["last"] == (last + critic if fresh else critic + last)
    assert taken["next"] == (after + critic if fresh else critic + after)
    assert (Order(2, first, 3, "last").real_batches, Order(2, first, 3, "next").real_batches) == (2, 3)


def test_the_generator_may_move_first_on_twice_the_batch_and_new_reals(config):
    cfg = config("model=cgan", *SMALL, "+model.first=generator", "+model.generator_batches=2", "model.n_critic=2")
    gan, _ = build_model(cfg, NOISE)
    seen = []
    gan.generator.register_forward_pre_hook(
        lambda _, given, named: seen.append((len(given[0]), len(named["labels"]))), with_kwargs=True
    )
    bare_trainer(2).fit(gan, Batches(NOISE, 6, gan.real_batches, 0))
    assert seen == [(12, 12), (6, 6), (6, 6)] * 2


def test_real_images_may_be_spread_over_their_grey_levels(config):
    """x / 128 - 1 with x uniform in [k, k + 1) of level k."""
    gan, _ = build_model(config("model=dcgan", *SMALL, "+model.dequantise=true"), NOISE)
    gan.trainer = SimpleNamespace(world_size=1, global_rank=0, precision_plugin=None)
    planned = plan(gan_terms(gan), 0, gan.order)
    batch = next(iter(Batches(NOISE, 6, 1, 0)))
    turn, _ = turns(planned, gan.inputs, batch | gan.drawn(planned), (), torch.contiguous_format)
    shown = played(turn, gan.players, Alone()).real.images
    level = (shown + 1) * 128 - turn.images
    assert level.min() >= 0
    assert level.max() < 1 + 1e-4
    assert abs(float(level.mean()) - 0.5) < 0.05


def test_no_two_draws_of_a_step_have_one_stream():
    """A network's purpose may be called as one of the house is; the same view of the same images is meant."""
    mixing = {"noise": 3, "labels": 2, "view of real": 1, "term 0 change of real": 1}
    draws = {"generator": "uniform", "discriminator": "uniform"}
    terms = objective(hinge, [R1(own_step=True), R2()], [BalancedConsistency(), LatentConsistency()])
    planned = plan(terms, 0, Order(n_critic=2), everything=True)
    streams = []
    for turn in planned:
        drawn = turn.drawn(Inputs(4, mixing, view=2, labels=draws, pixels=5))
        assert MIXING + "noise" in drawn
        again = [] if not turn.apart else ["view of real", "view of fake", "within a grey level"]
        streams += [(d.stream, turn.index) for purpose, d in drawn.items() if purpose not in again]
    assert len(set(streams)) == len(streams)


@pytest.mark.parametrize("augment", ["ada", "r3gan"])
def test_an_augmentation_of_colours_is_refused_on_four_channels(augment, config):
    data = replace(NOISE, images=NOISE.images.repeat(4, 1))
    with pytest.raises(UserError, match=r"^model\.augment: colours are those of .* not 4: choose pipeline=bg"):
        build_model(config("model=dcgan", *SMALL, f"model/augment={augment}"), data)
    build_model(config("model=dcgan", *SMALL, f"model/augment={augment}", "model.augment.pipeline=bg"), data)
    build_model(config("model=dcgan", *SMALL, "model/augment=none"), data)
