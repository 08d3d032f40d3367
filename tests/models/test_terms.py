"""Terms of both players, labels and views in a turn, against closed forms and by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from gantry.core.errors import UserError
from gantry.models.ema import AveragedGenerator
from gantry.models.losses import hinge, non_saturating
from gantry.models.networks.blocks import Output
from gantry.models.objective import objective
from gantry.models.penalties import R1, R2
from gantry.models.play import Alone, Play, Players
from gantry.models.step import Plain, Turn, due, played, step
from gantry.models.terms import AuxiliaryClassifier, DataToData, Drift
from gantry.models.without_autocast import without_autocast

BATCH, CLASSES, SHAPE = 6, 3, (1, 4, 4)


def outputs(seed, **heads):
    return Output(torch.randn(BATCH, generator=torch.Generator().manual_seed(seed)), None, heads)


def play(player, real, fake, labels, fake_labels):
    made = Play(player, None, labels, None, fake_labels, None, {})
    made.outputs.update(real=real, fake=fake)
    return made


def test_the_auxiliary_classifier_weighs_real_and_generated_images_in_each_turn():
    drawn = torch.Generator().manual_seed(0)
    logits = [torch.randn(BATCH, CLASSES, generator=drawn) for _ in range(2)]
    labels = [torch.randint(0, CLASSES, (BATCH,), generator=drawn) for _ in range(2)]
    real, fake = (outputs(0, **{"class": each}) for each in logits)
    term = AuxiliaryClassifier(real=0.5, fake=0.25, generator=0.1)
    expected = [cross_entropy(each, asked) for each, asked in zip(logits, labels, strict=True)]
    by_hand = -torch.log_softmax(logits[0], 1)[range(BATCH), labels[0]].mean()
    assert torch.isclose(expected[0], by_hand)
    assert torch.isclose(term(play("discriminator", real, fake, *labels)), 0.5 * expected[0] + 0.25 * expected[1])
    assert torch.isclose(term(play("generator", real, fake, *labels)), 0.1 * expected[1])
    assert term.needs_of("generator") == {"fake"}


def test_drift_is_the_mean_square_of_the_logits_of_real_images():
    made = play("discriminator", Output(torch.tensor([1.0, -3.0])), None, None, None)
    assert Drift(0.5)(made).item() == 0.5 * (1 + 9) / 2
    assert Drift().players == ("discriminator",)
    assert Drift().needs_of("discriminator") == {"real"}


def test_data_to_data_cross_entropy_is_the_papers_equation():
    drawn = torch.Generator().manual_seed(1)
    h, v = (normalize(torch.randn(BATCH, 5, generator=drawn)) for _ in range(2))
    asked = torch.tensor([0, 1, 2, 0, 1, 1])
    term = DataToData(weight=2.0, margin=0.9, temperature=0.5)
    total = 0.0
    for i in range(BATCH):
        positive = torch.exp(torch.clamp(h[i] @ v[i] - 0.9, max=0.0) / 0.5)
        others = [j for j in range(BATCH) if asked[j] != asked[i]]
        negative = sum(torch.exp(torch.clamp(h[i] @ h[j] - (1 - 0.9), min=0.0) / 0.5) for j in others)
        total -= torch.log(positive / (positive + negative)) / BATCH
    made = outputs(0, embedding=h, proxy=v)
    assert torch.isclose(term(play("discriminator", made, None, asked, None)), 2.0 * total)
    assert torch.isclose(term(play("generator", None, made, None, asked)), 2.0 * total)


@pytest.mark.parametrize(("term", "head"), [(AuxiliaryClassifier(), "classifier"), (DataToData(), "embedding")])
def test_a_discriminator_without_what_a_term_reads_is_refused_by_name(term, head):
    labels = torch.zeros(BATCH, dtype=torch.int64)
    with pytest.raises(UserError, match=rf"{type(term).__name__} needs a discriminator .*condition={head}"):
        term(play("generator", outputs(0), outputs(1), labels, labels))
    heads = {name: torch.ones(BATCH, CLASSES) for name in ("class", "embedding", "proxy")}
    with pytest.raises(UserError, match="needs labels"):
        term(play("generator", outputs(0, **heads), outputs(1, **heads), None, None))


class Labelled(nn.Module):
    """A critic whose logit and classes depend on images and labels."""

    def __init__(self):
        super().__init__()
        self.dense, self.bias = nn.Linear(16, 1), nn.Embedding(CLASSES, 1)
        self.classes = nn.Linear(16, CLASSES)

    def forward(self, images, labels):
        flat = images.flatten(1)
        return Output((self.dense(flat) + self.bias(labels)).flatten(), flat, {"class": self.classes(flat)})


class Making(nn.Module):
    """A generator of images that depend on the label."""

    def __init__(self):
        super().__init__()
        self.dense, self.labels = nn.Linear(3, 16), nn.Embedding(CLASSES, 16)

    def forward(self, z, labels):
        return torch.tanh(self.dense(z) + self.labels(labels)).unflatten(1, SHAPE)


class Shifted(nn.Module):
    """A view that adds each image's number, and halves its contrast; told of signs."""

    width = 1

    def __init__(self, differentiate="before"):
        super().__init__()
        self.differentiate, self.told = differentiate, []

    def forward(self, images, uniform):
        return 0.5 * images + uniform[..., None, None]

    def observe(self, signs, batch):
        self.told.append((float(signs), batch))

    def logged(self):
        return {"augment/p": torch.tensor(0.25)}


def game(loss=non_saturating, penalties=(), terms=(), view=None):
    torch.manual_seed(0)
    generator, critic = Making(), Labelled()
    takes = {"generator": frozenset({"labels"}), "discriminator": frozenset({"labels"})}
    average = AveragedGenerator(generator)
    players = Players(generator, critic, average, generator, critic, takes, view)
    optimizers = {
        "generator": torch.optim.SGD(generator.parameters(), lr=0.1),
        "discriminator": torch.optim.SGD(critic.parameters(), lr=0.1),
    }
    return players, objective(loss, penalties, terms), optimizers


def turns(terms, samples=1, apart=True):
    drawn = torch.Generator().manual_seed(4)
    images = torch.randint(0, 256, (BATCH, *SHAPE), generator=drawn, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (BATCH,), generator=drawn)
    made = []
    for player, alone in (("discriminator", False), ("discriminator", True), ("generator", False)):
        if not (mine := due(terms, player, 0, alone)) or (alone and not apart):
            continue
        count = samples * BATCH if player == "generator" else BATCH
        draws = {f"view of {name}": torch.rand(n, 1) for name, n in (("real", BATCH), ("fake", count))}
        draws |= {purpose: torch.rand(count) for term in mine for purpose in term.draws}
        fake = torch.randint(0, CLASSES, (count,), generator=drawn)
        z = torch.randn(count, 3, generator=drawn)
        made.append(Turn(player, mine, images, z, draws, labels=labels, fake_labels=fake, apart=alone))
    return made


def test_labels_reach_both_networks_and_every_term():
    players, terms, optimizers = game(hinge, [R1(1.0), R2(1.0)], [AuxiliaryClassifier()])
    before = {name: value.clone() for name, value in players.discriminator.named_parameters()}
    record = step(players, turns(terms), optimizers, 0.5)
    assert {"penalty/0_R1", "term/0_AuxiliaryClassifier/discriminator", "term/0_AuxiliaryClassifier/generator"} <= {
        *record
    }
    assert all(not torch.equal(value, before[name]) for name, value in players.discriminator.named_parameters())
    (turn, _) = turns(terms)
    seen = played(turn, players, Alone())
    real = players.discriminator(seen.real.images, turn.labels).logits
    assert torch.equal(seen.outputs["real"].logits, real)
    assert torch.equal(seen.fake.images, players.generator(turn.z, turn.fake_labels))
    assert torch.equal(seen.critic("fake")(seen.fake.images).logits, seen.outputs["fake"].logits)


def test_the_generators_turn_may_have_more_images():
    players, terms, optimizers = game(hinge)
    made = turns(terms, samples=2)
    assert len(made[-1].z) == 2 * BATCH
    step(players, made, optimizers, 0.5, accumulate=3)
    parts = list(made[-1].parts(3))
    assert [(len(part.images), len(part.z), len(part.fake_labels)) for part in parts] == [(2, 4, 4)] * 3
    assert torch.equal(torch.cat([part.z for part in parts]), made[-1].z)


@pytest.mark.parametrize(("differentiate", "scale"), [("before", 0.25), ("after", 1.0)])
def test_a_penalty_is_differentiated_before_or_after_the_view(differentiate, scale):
    """The view halves contrast: through it, the squared gradient is a quarter."""
    view = Shifted(differentiate)
    players, terms, _ = game(hinge, [R1(2.0), R2(2.0)], view=view)
    (turn, _) = turns(terms)
    seen = played(turn, players, Alone())
    weight = players.discriminator.dense.weight
    for term in turn.terms[1:]:
        assert torch.isclose(term(seen), scale * weight.square().sum())
    shown = 0.5 * seen.real.images + turn.draws["view of real"][..., None, None]
    assert torch.equal(seen.viewed("real"), shown)
    assert torch.equal(seen.outputs["real"].logits, players.discriminator(shown, turn.labels).logits)


def test_the_view_is_told_how_real_images_were_judged_and_is_logged():
    view = Shifted()
    players, terms, optimizers = game(view=view)
    made = turns(terms)
    seen = played(made[0], players, Alone())
    expected = seen.outputs["real"].logits.sign().mean()
    record = step(players, made, optimizers, 0.5)
    assert view.told == [(float(expected), BATCH)]
    assert record["augment/p"] == 0.25
    assert torch.isclose(record["score/real_sign"], expected)


def test_a_penalty_apart_is_a_step_of_its_own_without_generated_images():
    players, terms, optimizers = game(hinge, [R1(1.0, every=4, own_step=True)])
    calls, stepped = [], []
    players.generator.register_forward_pre_hook(lambda *_: calls.append(1))
    optimizers["discriminator"].register_step_post_hook(lambda *_: stepped.append(1))
    weight = players.discriminator.dense.weight.detach().clone()
    made = turns(terms)
    assert [[term.name for term in turn.terms] for turn in made] == [
        ["loss/discriminator"],
        ["penalty/0_R1"],
        ["loss/generator"],
    ]
    record = step(players, made[:2], optimizers, 0.5, Plain())
    assert len(stepped) == 2
    assert len(calls) == 1  # for the loss alone
    after_loss = game(hinge, [R1(1.0, every=4, own_step=True)])
    step(after_loss[0], turns(after_loss[1])[:1], after_loss[2], 0.5)
    moved = after_loss[0].discriminator.dense.weight.detach()
    assert not torch.equal(moved, weight)
    # gamma / 2 |w|^2, four times: the gradient is 4 w.
    torch.testing.assert_close(players.discriminator.dense.weight.detach(), moved - 0.1 * 4 * moved)
    assert torch.isclose(record["penalty/0_R1"], 0.5 * moved.square().sum())


def test_spectral_weights_move_once_a_turn_or_at_every_pass():
    counted = SimpleNamespace(turn=0, passes=0)
    for name, every in (("turn", False), ("passes", True)):
        players, terms, optimizers = game(hinge)
        nn.utils.parametrizations.spectral_norm(players.discriminator.dense)
        (norm,) = players.discriminator.dense.parametrizations.weight
        norm.register_forward_hook(lambda *_, name=name: setattr(counted, name, getattr(counted, name) + 1))
        step(players, turns(terms)[:1], optimizers, 0.5, at_every_pass=every)
    assert (counted.turn, counted.passes) == (1, 2)  # of real and of generated images


def test_a_gradient_is_computed_outside_autocast():
    """Within it the matrix products of a float32 part's gradient would be computed in bfloat16."""

    class Turned(Shifted):
        """A view that is a matrix product in float32, as that of ADA."""

        def forward(self, images, uniform):
            with without_autocast(images.device):
                return images.float() @ matrix

    matrix = torch.randn(4, 4, generator=torch.Generator().manual_seed(2))
    gradients = []
    for enabled in (False, True):
        players, terms, _ = game(hinge, [R1(2.0)], view=Turned())
        (turn, _) = turns(terms)
        (penalty,) = [term for term in terms if term.name == "penalty/0_R1"]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled, cache_enabled=False):
            gradients.append(penalty(played(turn, players, Alone())))
    # The weights are rounded to bfloat16, what they are multiplied by is not.
    weight = game(hinge)[0].discriminator.dense.weight.bfloat16().double().view(4, 4)
    exact = (weight @ matrix.double().T).square().sum()
    assert abs(float(gradients[1]) / float(exact) - 1) < 1e-5
    assert abs(float(gradients[0]) / float(gradients[1]) - 1) < 1e-2

    inside = []

    class Engine(Plain):
        def backward(self, loss):
            inside.append(torch.is_autocast_enabled("cpu"))
            super().backward(loss)

    players, terms, optimizers = game(hinge)
    with torch.autocast("cpu", torch.bfloat16):
        step(players, turns(terms), optimizers, 0.5, Engine())
    assert inside == [False, False]


def test_a_head_that_no_term_due_reads_has_a_gradient_of_zero_and_not_none():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(1, SHAPE))
    discriminator = Labelled()
    players = Players(
        generator,
        discriminator,
        AveragedGenerator(generator),
        generator,
        discriminator,
        takes={"discriminator": frozenset({"labels"})},
    )
    optimizers = {
        name: torch.optim.SGD(network.parameters(), lr=0.0)
        for name, network in (("generator", generator), ("discriminator", discriminator))
    }
    images = torch.randint(0, 256, (BATCH, *SHAPE), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (BATCH,))
    gradients = []
    for terms in ([], [AuxiliaryClassifier(every=2)]):
        made = objective(non_saturating, [], terms)
        for turn in (0, 1):
            asked = due(made, "discriminator", turn)
            one = Turn("discriminator", asked, images, torch.ones(BATCH, 2), {}, labels=labels, fake_labels=labels)
            step(players, [one], optimizers, 0.5)
            assert discriminator.dense.weight.grad.any()
            gradients.append(discriminator.classes.weight.grad)
    assert all(gradient is not None for gradient in gradients)
    assert [bool(gradient.any()) for gradient in gradients] == [False, False, True, False]
