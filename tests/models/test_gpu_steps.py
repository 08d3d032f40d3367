"""Steps replayed as CUDA graphs on a GPU, against calls of the same function there."""

import gc
import logging

import pytest
import torch
from project import VARIANTS, widths
from pytorch_lightning import Callback
from trained import FLIPPED, NOISE, SMALL, Changing, Odd, assert_equal, train

from gantry.core.cuda_graph import CudaGraphs
from gantry.core.determinism import repeatable
from gantry.data.resident import Resident
from gantry.models.fixed_step import FixedStep
from gantry.models.penalties import R1

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore"),
]
GPU = "cuda"
PRECISIONS = ("32-true", "bf16-mixed")


class Graphs(CudaGraphs):
    """CUDA graphs that are counted."""

    def __init__(self, device):
        super().__init__(device)
        self.made = 0

    def __call__(self, function):
        replay = super().__call__(function)
        self.made += 1
        return replay


class Called(Callback):
    """Has steps called that would be replayed."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pl_module.fixed.graphed.eager = "asked"


class Both(Called, Changing):
    """Has steps called, with an option of the first optimizer that changes."""

    def on_train_batch_start(self, *given):
        Called.on_train_batch_start(self, *given)
        Changing.on_train_batch_start(self, *given)


@pytest.fixture(autouse=True)
def same_algorithms():
    """As training has it."""
    with repeatable():
        yield


def replayed(cfg, change=None, images=True, data=NOISE, **options):
    """A training whose steps are graphs; what came of it, and the number of graphs."""
    captures = []
    fixed = FixedStep(
        lambda device: (captures.append(Graphs(device)), captures[-1])[1],
        Resident(data.images, torch.device(GPU)) if images else None,
    )
    run = train(cfg, fixed, data=data, change=change, accelerator="gpu", **options)
    return run, captures[0].made


def assert_same_as_called(cfg, changing=None, **options):
    """To the bit, and of at least one graph."""
    run, made = replayed(cfg, change=changing and Changing(*changing), **options)
    called, none = replayed(cfg, change=Both(*changing) if changing else Called(), **options)
    assert made > 0
    assert none == 0
    assert_equal(run, called)
    return made


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_graph_does_to_the_bit_what_its_function_does(variant, precision, config):
    cfg = config(f"model={variant}", *SMALL[:2], *widths(variant), f"trainer.precision={precision}")
    assert_same_as_called(cfg, steps=8)


def test_a_residual_network_too(config):
    widths = ["model.generator.width=8", "model.discriminator.width=8", "model.n_critic=2"]
    assert_same_as_called(config("model=sngan", "model/network=resnet", *SMALL[:2], *widths), steps=6)


def test_parts_of_a_batch_and_clipped_gradients_too(config):
    assert_same_as_called(config("model=dcgan", *SMALL, "accumulate=2", "model.max_grad_norm=0.1"), steps=8)


@pytest.mark.parametrize("data", [NOISE, FLIPPED], ids=["as they are", "mirrored at random, with labels"])
def test_images_streamed_from_the_host_give_the_steps_of_resident_ones(data, config):
    cfg = config("model=wgan", "model.n_critic=2", *SMALL)
    streamed, resident = (replayed(cfg, images=images, data=data, steps=12) for images in (False, True))
    assert streamed[1] == resident[1] > 0
    assert_equal(streamed[0], resident[0])


def test_a_learning_rate_changes_at_each_step_without_a_new_graph(config):
    cfg = config("model=dcgan", *SMALL)
    plain = assert_same_as_called(cfg, steps=8)
    assert assert_same_as_called(cfg, changing=("lr", lambda step: 1e-3 / (1 + step)), steps=8) == plain


def test_lazy_penalties_are_one_graph_for_each_set_of_them_due(config):
    cfg = config("model=wgan_gp", "model.n_critic=2", *SMALL)
    assert assert_same_as_called(cfg, steps=14, penalties=[R1(1.0, every=2), R1(0.5, every=3)]) == 5


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_resumed_run_replays_to_the_bit_what_one_never_stopped_does(precision, config, tmp_path):
    cfg = config("model=r3gan", *SMALL, f"trainer.precision={precision}")
    whole, _ = replayed(cfg, steps=20)
    again, _ = replayed(cfg, steps=20)
    assert_equal(again, whole)
    half, _ = replayed(cfg, steps=10)
    half.trainer.save_checkpoint(tmp_path / "half.ckpt")
    rest, _ = replayed(cfg, steps=20, start=10, checkpoint=tmp_path / "half.ckpt")
    rest.records = half.records + rest.records
    assert_equal(rest, whole)


def test_a_step_that_cannot_be_captured_goes_on_eagerly_with_the_reason_of_its_error(config, caplog):
    cfg = config("model=wgan_gp", "model.n_critic=1", *SMALL)
    stream = torch.cuda.current_stream()
    with caplog.at_level(logging.WARNING):
        run, made = replayed(cfg, penalties=[Odd("reads a value")])
    assert made == 0
    (said,) = [record.message for record in caplog.records if "CUDA graph" in record.message]
    assert "the step cannot be captured" in said
    assert "captur" in said.partition("cannot be captured")[2].lower()  # CUDA's own words, not those of a later error
    assert torch.cuda.current_stream() == stream
    assert_equal(run, replayed(cfg, change=Called(), penalties=[Odd("reads a value")])[0])


def test_an_error_within_a_capture_is_the_one_that_is_raised_and_the_stream_is_as_before():
    graphs, stream = CudaGraphs(torch.device(GPU)), torch.cuda.current_stream()
    values = torch.ones(3, device=GPU)

    def fails():
        values.add_(1)
        raise ValueError("the network's own")

    with pytest.raises(ValueError, match="the network's own"):
        graphs(fails)
    assert torch.cuda.current_stream() == stream
    replay = graphs(lambda: values.mul_(2))  # another capture works
    values.fill_(1)
    replay()
    assert values.tolist() == [2.0] * 3


def test_the_memory_of_the_graphs_is_free_after_training(config):
    cfg = config("model=dcgan", "data.image_size=8", "batch_size=32")

    def held():
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()  # one for each stream that has been used, kept for good
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    replayed(cfg)  # libraries keep buffers of their own
    before = held()
    run, made = replayed(cfg)
    assert made > 0
    assert run.gan.fixed.graphed is None
    del run
    assert held() <= before
