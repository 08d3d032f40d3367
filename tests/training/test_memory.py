"""The memory of a step, computed before the first one and compared with what there is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small import NOISE, bare_trainer

from gantry.core.errors import OUT_OF_MEMORY, RunFailed, UserError
from gantry.core.processes import host_memory as host
from gantry.data import sources
from gantry.data.batches import Batches
from gantry.training import memory
from gantry.training.memory import Counted, Need, There, need, report
from gantry.training.model import build_model

SMALL = ["model.generator.width=8", "model.discriminator.width=8", "trainer.precision=32-true", "batch_size=8"]
GIB = 2**30


def of_size(height, width, channels=3):
    return replace(NOISE, images=np.zeros((16, channels, height, width), np.uint8))


def weights(network):
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(("optimizer", "values"), [("model=dcgan", 2), ("model=wgan", 1)])
def test_weights_gradients_and_the_optimizers_state_are_counted(config, optimizer, values):
    cfg, data = config(optimizer, *SMALL), of_size(32, 48)
    gan, _ = build_model(cfg, data)
    generator, both = weights(gan.generator), weights(gan.generator) + weights(gan.discriminator)
    estimate = need(cfg, data)
    assert estimate.weights == pytest.approx(4 * (2 * both + generator + values * both), rel=1e-3)


@pytest.mark.parametrize("variant", ["vanilla", "dcgan", "lsgan", "wgan", "wgan_gp", "sngan", "r3gan"])
def test_activations_are_those_of_a_real_step(config, variant):
    """The same counter around a real step on the processor, whose second step has gradients and state."""
    options = SMALL if variant != "vanilla" else SMALL[2:]
    cfg, data = config(f"model={variant}", "model.n_critic=1", *options), of_size(32, 32)
    estimate = need(cfg, data)
    gan, _ = build_model(cfg, data)
    peaks = []

    class Watched(Counted):
        def __enter__(self):
            for tensor in [*gan.parameters(), *gan.buffers()]:
                self.add(tensor)
            return super().__enter__()

    step = gan.training_step

    def watched(*batch):
        for optimizer in gan.trainer.optimizers:
            for state in optimizer.state.values():
                kept.extend(value for value in state.values() if isinstance(value, torch.Tensor))
        kept.extend(weight.grad for weight in gan.parameters() if weight.grad is not None)
        with Watched() as counted:
            for tensor in kept:
                counted.add(tensor)
            kept.clear()
            result = step(*batch)
        peaks.append(counted.peak)
        return result

    kept = []
    gan.training_step = watched
    bare_trainer(2, precision="32-true", devices=1).fit(gan, Batches(data, 8, 1, 0))
    assert estimate.total == pytest.approx(peaks[-1], rel=0.05)


def test_activations_follow_from_the_batch_on_a_device(config):
    data = of_size(32, 32)
    whole = need(config("model=dcgan", *SMALL[:3], "batch_size=32"), data)
    parts = need(config("model=dcgan", *SMALL[:3], "batch_size=8", "accumulate=4"), data)
    ranks = need(config("model=dcgan", *SMALL[:3], "batch_size=32"), data, world_size=4)
    assert whole.weights == parts.weights == ranks.weights
    assert whole.activations > 3 * parts.activations
    assert parts.activations == pytest.approx(ranks.activations, rel=0.1)  # all its images are there


def test_mixed_precision_needs_half_the_activations(config):
    data, options = of_size(64, 64), ["model=dcgan", *SMALL[:2], "batch_size=32"]
    whole, half = (need(config(*options, f"trainer.precision={p}"), data) for p in ("32-true", "bf16-mixed"))
    assert half.activations < 0.65 * whole.activations
    assert half.weights > whole.weights


def test_training_begins_with_the_same_weights_after_it(config):
    cfg, data = config("model=sngan", *SMALL), of_size(16, 16)
    before = [each.clone() for each in build_model(cfg, data)[0].parameters()]
    state = torch.get_rng_state()
    need(cfg, data)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, before, build_model(cfg, data)[0].parameters()))


def test_gigabytes_are_counted_without_being_allocated(config):
    cfg = config("model=vanilla", "trainer.precision=32-true", "batch_size=4")
    estimate = need(cfg, of_size(512, 512))
    assert estimate.weights > 60 * GIB
    with pytest.raises(RunFailed, match="it cannot fit") as refused:
        report(estimate, There("this machine", 16 * GIB, 12 * GIB), cfg, 1)
    assert refused.value.kind == OUT_OF_MEMORY
    assert "model/network=dcgan, batch_size=2 accumulate=2" in str(refused.value)


@pytest.mark.parametrize(
    ("free", "total", "sharing", "said"),
    [
        (60, 80, 1, "H100 has 60.0 GiB free of 80.0 GiB"),
        (4, 80, 1, "it may not fit. What lowers it: batch_size=4 accumulate=2, model.generator.width=4"),
        (60, 80, 8, "24.0 GiB for 8 processes; "),
    ],
)
def test_the_line_says_what_is_needed_and_what_there_is(config, free, total, sharing, said):
    line = report(Need(GIB, 2 * GIB), There("H100", total * GIB, free * GIB), config("model=dcgan", *SMALL), 1, sharing)
    assert line.startswith(
        "memory: 3.0 GiB for a step of 8 images (weights, gradients and optimizer 1.0 GiB, activations 2.0 GiB)"
    )
    assert said in line
    assert "\n" not in line


def test_a_network_of_ones_own_that_needs_values_is_not_estimated(config, monkeypatch):
    cfg = config("model=dcgan", *SMALL)

    def refuses(*_):
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr(memory, "_measured", refuses)
    assert need(cfg, of_size(16, 16)) is None


def test_the_memory_of_a_container_counts(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 1048576 kB\nMemFree: 5 kB\nMemAvailable: 524288 kB\n")
    monkeypatch.setattr(host, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    assert host.host_memory() == (2**30, 2**29)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{2**27}\n")
    assert host.host_memory() == (2**30, 2**29)
    (tmp_path / "memory.max").write_text(f"{2**28}\n")
    assert host.host_memory() == (2**28, 2**27)
    (tmp_path / "meminfo").unlink()
    assert host.host_memory() is None


def test_a_data_set_that_would_not_fit_is_refused_before_it_is_resized(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "host_memory", lambda: (2**28, 2**27))
    with pytest.raises(UserError, match=r"digits would take 0\.4 GiB .* 0\.2 GiB: choose a smaller data\.image_size"):
        sources.digits(cache=tmp_path, image_size=512)
