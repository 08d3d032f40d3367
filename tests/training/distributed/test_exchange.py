"""A GAN on several gloo ranks: what they exchange, what is the same on all of them, and the same as in one process.

`NetworkwiseDDP` is held to each; where Lightning's own strategy gets it wrong, that is shown too.
"""

import functools
import os
import subprocess
import sys

import gan_ranks
import pytest
import torch
from filelock import FileLock
from gan_ranks import CASES, SLOW, train
from gan_variants import BATCH, VARIANTS

from gantry.core.errors import UserError
from gantry.training.distributed.strategy import NetworkwiseDDP

FOUR = pytest.param(4, marks=pytest.mark.slow)
WORLDS = [2, FOUR]

IN_PARTS = pytest.param("wgan_gp in parts", marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What the ranks of a world saw of a case, in order. Started once, also for tests side by side."""
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    root = tmp_path_factory.getbasetemp() if alone else tmp_path_factory.getbasetemp().parent

    @functools.cache
    def of(world, slow):
        folder = root / f"gan_ranks_{world}{'_slow' * slow}"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                folder.mkdir()
                start(world, folder, SLOW if slow else CASES)
        return folder, [torch.load(folder / f"{rank}.pt") for rank in range(world)]

    def seen(name, world=2):
        return [rank[name] for rank in of(world, name in SLOW)[1]]

    def checkpoint(name):
        return torch.load(of(2, False)[0] / f"{name}.ckpt", weights_only=True)["state_dict"]

    seen.checkpoint = checkpoint
    return seen


def start(world, folder, cases):
    """Train the cases on new ranks, to their end."""
    children = [
        subprocess.Popen(
            [sys.executable, gan_ranks.__file__, str(rank), str(world), str(folder), *cases],
            env=os.environ | {"LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(world)
    ]
    try:
        assert [child.wait(timeout=240) for child in children] == [0] * world
    finally:
        for child in children:
            child.kill()


@functools.cache
def alone(name):
    """What one process sees of a case."""
    return vars(train((CASES | SLOW)[name]))


# What is exchanged


def gradients(case, sizes):
    """Theory: in a generator step, what each network's gradients take, in bytes of float32."""
    n_critic = VARIANTS[CASES[case].variant].get("n_critic", 1)
    return [(name, {name: 4 * sizes[name]}) for name in ["discriminator"] * n_critic + ["generator"]]


@pytest.mark.parametrize("name", ["wgan_gp", "sngan", "dcgan", "dcgan, plain", IN_PARTS])
def test_each_step_exchanges_its_own_networks_gradients_once(name, ranks):
    for seen in ranks(name):
        assert seen["error"] is None
        assert seen["exchanged"] == gradients(name, seen["sizes"]) * CASES[name].steps


@pytest.mark.parametrize("name", ["wgan_gp", "sngan", "dcgan, plain", IN_PARTS])
def test_nothing_else_is_summed_over_ranks_but_the_buffers(name, ranks):
    (seen, _) = ranks(name)
    theory = sum(sum(counted.values()) for _, counted in gradients(name, seen["sizes"]))
    theory += 8 * seen["sizes"]["buffers"]  # in float64
    assert seen["totals"] == [theory] * CASES[name].steps


@pytest.mark.parametrize("variant", ["wgan_gp", "sngan", "dcgan"])
def test_lightnings_strategy_exchanges_both_networks_gradients_in_each(variant, ranks):
    for seen in ranks(f"{variant}, Lightning"):
        both = 4 * (seen["sizes"]["generator"] + seen["sizes"]["discriminator"])
        assert {counted["both"] for _, counted in seen["exchanged"]} == {both}


def test_lightnings_default_strategy_cannot_train_a_gan(ranks):
    for seen in ranks("wgan_gp, Lightning's default"):
        assert "parameters that were not used in producing the loss" in seen["error"]
        assert seen["digests"] == []


def test_a_static_graph_under_which_nothing_is_exchanged_is_refused():
    with pytest.raises(UserError, match="static_graph"):
        NetworkwiseDDP(static_graph=True)


# What is the same on all ranks


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.strategy != "default"])
def test_parameters_are_the_same_to_the_bit(name, ranks):
    first, *others = ranks(name)
    assert len(set(first["digests"])) == CASES[name].steps
    for other in others:
        assert other["digests"] == first["digests"]


@pytest.mark.parametrize(
    ("ours", "lightnings"),
    [
        ("wgan_gp", "wgan_gp, Lightning"),
        ("sngan", "sngan, Lightning"),
        ("dcgan, plain", "dcgan, Lightning"),  # in training, BatchNorm's buffers change nothing
    ],
)
def test_the_parameters_are_those_of_lightnings_strategy(ours, lightnings, ranks):
    (mine, _), (theirs, _) = ranks(ours), ranks(lightnings)
    assert mine["digests"][: len(theirs["digests"])] == theirs["digests"]


def agreed(states):
    """Whether every rank holds the same state, buffers and averaged generator included."""
    first, *others = states
    return all(torch.equal(state[name], first[name]) for state in others for name in first)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    "name", ["dcgan, plain", "dcgan", "generator first", "stylegan2", "progan", "sngan", "sngan, jolted", IN_PARTS]
)
def test_every_rank_evaluates_the_same_networks(name, world, ranks):
    seen = ranks(name, world)
    steps = seen[0]["states"].keys()
    assert CASES[name].steps in steps
    assert all(agreed([rank["states"][step] for rank in seen]) for step in steps)


@pytest.mark.parametrize("name", ["dcgan, plain", "dcgan", "generator first", "sngan"])
def test_the_checkpoint_holds_what_every_rank_evaluates(name, ranks):
    last = [rank["states"][CASES[name].steps] for rank in ranks(name)]
    assert agreed([ranks.checkpoint(name), *last])


@pytest.mark.parametrize("name", ["dcgan, Lightning", "sngan, jolted, Lightning"])
def test_with_lightnings_strategy_ranks_evaluate_different_networks(name, ranks):
    seen = ranks(name)
    states = [rank["states"][CASES[name].steps] for rank in seen]
    assert not agreed(states)
    assert not agreed([ranks.checkpoint(name), *states])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("name", "kinds"), [("dcgan, plain", {"running_mean", "running_var"}), ("sngan, jolted", {"_u"})]
)
def test_buffers_are_the_mean_over_ranks(name, kinds, world, ranks):
    seen = ranks(name, world)
    differed = set()
    for step, state in seen[0]["states"].items():
        for key in seen[0]["own"][step - 1]:
            own = torch.stack([rank["own"][step - 1][key] for rank in seen])
            assert torch.equal(state[key], own.double().mean(0).to(own.dtype)), (step, key)
            if not torch.equal(own[0], own[1]):
                differed.add(key.rpartition(".")[2])
            if key.startswith("generator"):
                assert torch.equal(state[key.replace("generator", "averaged.module", 1)], state[key])
    assert kinds <= differed


# What differs between ranks: slices of one global draw


def check_slices(seen, whole, kind, dim):
    """What the ranks were given differs, and one after the other is what one process is given."""
    for *parts, expected in zip(*(rank[kind] for rank in seen), whole[kind], strict=True):
        assert torch.equal(torch.cat(parts, dim), expected)
        assert expected.shape[dim] == BATCH
        assert not torch.equal(parts[0], parts[1])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("kind", "dim"), [("noise", 0), ("mixing", 0), ("real", 1)])
def test_ranks_see_slices_of_one_global_draw(kind, dim, world, ranks):
    check_slices(ranks("wgan_gp", world), alone("wgan_gp"), kind, dim)


@pytest.mark.parametrize("kind", ["noise", "mixing"])
def test_a_global_generator_gives_every_rank_the_same(kind, ranks):
    seen = ranks("wgan_gp, same draws")
    assert torch.equal(seen[0][kind][0], seen[1][kind][0])
    with pytest.raises(AssertionError):
        check_slices(seen, alone("wgan_gp, same draws"), kind, 0)


# The same run on any number of ranks


def distances(state, expected, floor=1e-12):
    """Of each tensor, the length of the difference as a share of its own length, or of `floor` where that is less."""
    lengths = {name: tensor.double().norm().clamp_min(floor) for name, tensor in expected.items()}
    return {name: float((state[name].double() - expected[name].double()).norm() / lengths[name]) for name in expected}


# Of a tensor's length. In dcgan, with BatchNorm over all ranks, the worst is the discriminator's last bias, near zero.
TOLERANCE = {"wgan_gp": 1e-5, "wgan_gp in parts": 1e-5, "sngan": 1e-5, "vanilla": 1e-5, "dcgan": 1e-4}
# Neither a relativistic loss nor a penalty depends on the last bias; Adam makes steps of its gradient's rounding.
FREE = {"relativistic": "discriminator.layers.5.bias"}
# Those of labels, further terms, augmentation, turns in another order, schedules.
WIDER = ("acgan", "acgan, lazily", "reacgan", "adaptive", "paired", "stylegan2")
WIDER += ("relativistic", "improved", "infogan", "progan")
TOLERANCE |= dict.fromkeys(WIDER, 1e-4)
# In a Wasserstein critic the gradients of biases of real and of generated images cancel, and Adam divides what is left.
TOLERANCE["progan"] = 5e-4


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    "name", ["wgan_gp", IN_PARTS, "sngan", "dcgan", *WIDER, pytest.param("vanilla", marks=pytest.mark.slow)]
)
def test_the_weights_are_those_of_one_process(name, world, ranks):
    """In dcgan by BatchNorm over all ranks; the batches of 12 of 50 images straddle epochs."""
    whole = alone(name.removesuffix(" in parts"))["states"]
    for step, state in ranks(name, world)[0]["states"].items():
        # Biases and averages of logits are near zero after so few steps.
        found = distances(state, whole[step], 1e-2 if name in WIDER else 1e-12)
        found.pop(FREE.get(name), None)
        assert max(found.values()) < TOLERANCE[name], (step, found)


def test_plain_batch_norm_trains_another_network(ranks):
    found = distances(ranks("dcgan, plain")[0]["states"][20], alone("dcgan")["states"][20])
    assert max(found.values()) > 0.05
