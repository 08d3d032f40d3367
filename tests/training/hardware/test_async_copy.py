"""Numbers read a step after they were computed, as from a GPU, are those read at once."""

from functools import partial

import pytest
import torch
from pytorch_lightning import Callback
from small import NOISE, bare_trainer

from gantry.data.batches import Batches
from gantry.models.losses import non_saturating
from gantry.models.module import GAN
from gantry.models.networks import dcgan
from gantry.runs.tracking.tracker import Tracker
from gantry.training.callbacks import divergence, logging
from gantry.training.callbacks.divergence import Diverged, Guard
from gantry.training.callbacks.logging import TrainingLog
from gantry.training.distributed.peers import Peers
from gantry.training.hardware.async_copy import Fetched
from gantry.training.stopwatch import Clock

SGD = partial(torch.optim.SGD, lr=1e-3)
ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.9))
NAN = float("nan")


class Late(Fetched):
    """As of a GPU: not to be read before another step has begun."""

    step = 0  # that has begun
    hurried = 0  # how often it was read before

    def __init__(self, values):
        super().__init__(values)
        self.here, self.of = False, Late.step

    def arrived(self):
        return True

    def read(self):
        Late.hurried += Late.step == self.of
        return super().read()


@pytest.fixture
def late(monkeypatch):
    monkeypatch.setattr(Late, "step", 0)
    monkeypatch.setattr(Late, "hurried", 0)
    for module in (logging, divergence):
        monkeypatch.setattr(module, "Fetched", Late)


class Kept(Tracker):
    """Keeps what is logged."""

    def __init__(self):
        self.lines = []

    def log_metrics(self, values, step):
        self.lines.append((step, values))


class Steps(Clock):
    """Counts the steps that have begun for seconds."""

    def read(self):
        return float(Late.step)


def fit(steps, *used, optimizer=ADAM, spoilt=None):
    """Train so many steps, where `spoilt` is one whose generator's gradient is not finite."""
    torch.manual_seed(0)
    networks = dcgan.Generator(6, (1, 8, 8), 4), dcgan.Discriminator((1, 8, 8), 4, "none")
    gan = GAN(*networks, non_saturating, optimizer, z_dim=6, seed=0, batch_size=6)
    step, backward = gan.training_step, gan.manual_backward

    def training_step(batch, batch_idx):
        Late.step = gan.global_step + 1
        return step(batch, batch_idx)

    def manual_backward(loss):
        backward(loss)
        weight = next(gan.generator.parameters())
        if gan.global_step + 1 == spoilt and weight.requires_grad:
            weight.grad.fill_(NAN)

    gan.training_step, gan.manual_backward = training_step, manual_backward
    trainer = bare_trainer(steps, callbacks=list(used))
    trainer.fit(gan, Batches(NOISE, gan.batch_size, gan.n_critic, gan.seed))
    return trainer


def logged(steps):
    tracker = Kept()
    Late.step = 0
    fit(steps, Guard(2), TrainingLog(tracker, Steps(), every=2))
    return tracker.lines


def test_the_same_is_logged_at_the_same_steps_and_waited_for_at_the_last_only(late, monkeypatch):
    later = logged(7)
    assert Late.hurried == 2  # the guard's and the log's of step 7
    monkeypatch.undo()
    assert later == logged(7)
    assert [step for step, _ in later] == [2, 4, 6, 7]
    assert {values["images_per_second"] for _, values in later} == {6.0}


@pytest.mark.parametrize("optimizer", [ADAM, SGD])
@pytest.mark.parametrize(("spoilt", "found"), [(3, 4), (4, 4), (5, 6), (7, 7)])
def test_what_is_not_finite_is_found_by_the_look_that_follows(late, optimizer, spoilt, found, monkeypatch):
    with pytest.raises(Diverged) as later:
        fit(7, Guard(2), optimizer=optimizer, spoilt=spoilt)
    assert later.value.step == found
    monkeypatch.undo()
    with pytest.raises(Diverged, match="generator") as at_once:
        fit(7, Guard(2), optimizer=optimizer, spoilt=spoilt)
    assert str(later.value) == str(at_once.value)  # names what it was, not what has become of it since


def test_what_is_due_is_logged_where_the_next_step_fails(late):
    class Full(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 5:
                raise MemoryError

    tracker = Kept()
    with pytest.raises(MemoryError):
        fit(7, Full(), TrainingLog(tracker, Clock(), every=2))
    assert [step for step, _ in tracker.lines] == [2, 4]


def test_what_is_due_is_logged_before_a_checkpoint_and_not_again(late, tmp_path):
    tracker = Kept()
    log = TrainingLog(tracker, Clock(), every=2)
    trainer = fit(3, log)
    log.due = (2, 0.5, 6, ["loss/generator"], Late(torch.tensor([1.5])), {})
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    assert tracker.lines[-1][1]["loss/generator"] == 1.5
    assert log.due is None
    log.due = (2, 0.5, 6, ["loss/generator"], Late(torch.tensor([1.5])), {})
    log.load_state_dict(torch.load(tmp_path / "half.ckpt")["callbacks"]["TrainingLog"])
    assert log.due is None


def test_a_checkpoint_holds_what_all_ranks_have_summed_up():
    class Two(Peers):
        def __init__(self):
            super().__init__(0, 2)

        def mean(self, values):
            return (values.double() + torch.tensor([7.0, 9.0])) / 2  # the other's

    log = TrainingLog(Kept(), Clock(), 50, Two())
    log.sums = {"loss/generator": torch.tensor(3.0), "score/real": torch.tensor(1.0)}
    log.counts = dict.fromkeys(log.sums, 2)
    state = log.state_dict()
    assert {name: value.item() for name, value in state["sums"].items()} == {"loss/generator": 5.0, "score/real": 5.0}
    assert log.sums["loss/generator"].item() == 3.0  # this rank goes on with its own


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_numbers_are_those_it_had_when_they_were_asked_for():
    values = torch.ones(3, device="cuda")
    work = torch.randn(4096, 4096, device="cuda")
    for _ in range(20):
        work = work @ work / work.norm()
    fetched = Fetched(values + 1)
    values.zero_()
    assert not fetched.here
    assert fetched.read().tolist() == [2.0, 2.0, 2.0]
