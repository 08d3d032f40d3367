"""Mixed precision: what is chosen, what is skipped, what is clipped, what stays in float32."""

import json

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from small import NOISE, bare_trainer
from torch import nn

from gantry.core.errors import UserError
from gantry.data.batches import Batches
from gantry.models.penalties import R1, GradientPenalty
from gantry.training import run as entry
from gantry.training.callbacks.logging import TrainingLog
from gantry.training.hardware.precision import LossScaling, choose, count_skipped_steps
from gantry.training.model import build_model
from gantry.training.resume import as_begun, check_unchanged
from gantry.training.rules import check_run
from gantry.training.stopwatch import Clock

SGD = ["model.optimizer._target_=torch.optim.SGD", "~model.optimizer.betas", "model.optimizer.lr=1.0"]
SMALL = ["batch_size=6", "data.image_size=8", "model.generator.width=4", "model.discriminator.width=4"]
TAGS = {"variant": "dcgan", "dataset": "digits"}


@pytest.fixture
def gan_of(config):
    return lambda variant, *overrides: build_model(config(f"model={variant}", *SMALL, *overrides), NOISE)[0]


def scaling(scale=1024.0, **options):
    """Float16 on the CPU, where Lightning itself would fall back to bfloat16; torch's own first scale is 65536."""
    return LossScaling("cpu", torch.amp.GradScaler("cpu", scale, **options))


def trainer(steps, plugin=None, callbacks=(), **options):
    return bare_trainer(steps, plugins=[plugin] if plugin else None, callbacks=list(callbacks), **options)


def batches(gan, start=0):
    return Batches(NOISE, gan.batch_size, gan.n_critic, gan.seed, start=start)


def overflowing(gan, *which):
    """The GAN, whose loss at these backward passes, counted from 0, is beyond all bounds."""
    original, count = gan.manual_backward, iter(range(10**6))
    gan.manual_backward = lambda loss: original(loss * (1e38 if next(count) in which else 1.0))
    return gan


def watched(gan):
    """Each optimizer step as it was done: network, gradient before it, and how far the weights moved."""
    steps = []
    configure = gan.configure_optimizers

    def watch():
        optimizers = configure()
        for name, optimizer in zip(("generator", "discriminator"), optimizers, strict=True):
            weights = list(getattr(gan, name).parameters())

            def before(*_, weights=weights):
                steps.append([weight.detach().clone() for weight in weights])

            def after(*_, name=name, weights=weights):
                old = torch.cat([weight.flatten() for weight in steps.pop()])
                gradient = torch.cat([weight.grad.flatten() for weight in weights])
                steps.append((name, gradient, torch.cat([weight.detach().flatten() for weight in weights]) - old))

            optimizer.register_step_pre_hook(before)
            optimizer.register_step_post_hook(after)
        return optimizers

    gan.configure_optimizers = watch
    return steps


# --- which precision ---


@pytest.mark.parametrize(
    ("accelerator", "gpu", "instructions", "chosen"),
    [
        ("auto", None, (True, False), "bf16-mixed"),
        ("cpu", None, (False, True), "bf16-mixed"),
        ("auto", None, (False, False), "32-true"),
        ("auto", True, (False, False), "bf16-mixed"),
        ("gpu", False, (True, True), "32-true"),
        ("cpu", True, (False, False), "32-true"),
    ],
)
def test_auto_is_bfloat16_where_the_device_has_it(accelerator, gpu, instructions, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or gpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions[0])
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: instructions[1])
    precision, reason = choose(accelerator)
    assert precision == chosen
    assert "bfloat16" in reason


def test_auto_is_said_and_recorded_as_what_it_stood_for(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gantry.training.hardware.precision.choose", lambda accelerator: ("bf16-mixed", "told so"))
    cfg = config("experiment=smoke", "steps=1", *SMALL, "trainer.precision=auto")
    entry.train(cfg, tmp_path, TAGS)
    assert "trainer.precision=bf16-mixed: told so\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "params.json").read_text())["trainer.precision"] == "bf16-mixed"
    assert "precision: bf16-mixed" in (tmp_path / "config.yaml").read_text()
    # Taken up on a machine that would choose otherwise, it goes on as it began; a choice of the user's is another run.
    check_unchanged(tmp_path, cfg)
    assert as_begun(tmp_path, cfg).trainer.precision == "bf16-mixed"
    cfg.trainer.precision = "32-true"
    with pytest.raises(UserError, match=r"trainer\.precision: was bf16-mixed, is 32-true"):
        check_unchanged(tmp_path, as_begun(tmp_path, cfg))


# --- the loss scaler ---


def test_each_gradient_is_unscaled_by_the_scale_it_was_made_with(gan_of):
    """The scale doubles at every step here: were both backward passes to precede both steps, one would be off."""
    seen = []
    for scaler in (torch.amp.GradScaler("cpu", enabled=False), torch.amp.GradScaler("cpu", 2.0, growth_interval=1)):
        gan = gan_of("wgan_gp", "model.n_critic=2", *SGD, "model.optimizer.lr=1e-4")
        steps = watched(gan)
        fit = trainer(2, MixedPrecision("16-mixed", "cpu", scaler))
        fit.fit(gan, batches(gan))
        seen.append(steps)
    assert scaler.get_scale() == 2.0 * 2**6
    for (name, plain, _), (same, unscaled, _) in zip(*seen, strict=True):
        assert name == same
        assert (plain - unscaled).norm() < 0.02 * plain.norm()


def test_an_overflowing_step_is_left_out_and_counted(gan_of):
    gan = overflowing(gan_of("wgan_gp", "model.n_critic=2"), 3, 5, 7)  # D D G, D D G, D D G
    steps, plugin = watched(gan), scaling()
    fit = trainer(3, plugin)
    fit.fit(gan, batches(gan))
    d, g = "discriminator", "generator"
    assert [name for name, *_ in steps] == [d, d, g, d, d, g]  # of nine
    assert all(weight.isfinite().all() for weight in gan.parameters())
    assert fit.global_step == 3  # a step left out is one spent
    assert plugin.values() == {"skipped/generator": 1.0, "skipped/discriminator": 2.0, "loss_scale": 128.0}


def test_a_fused_optimizers_steps_are_counted_too(gan_of):
    gan = overflowing(gan_of("dcgan", "+model.optimizer.fused=true"), 2)
    plugin = scaling()
    fit = trainer(2, plugin)
    fit.fit(gan, batches(gan))
    assert plugin.values() == {"skipped/generator": 0.0, "skipped/discriminator": 1.0, "loss_scale": 512.0}


def test_the_log_shows_the_scaler_where_there_is_one(gan_of):
    class Kept:
        def __init__(self):
            self.rows = []

        def log_metrics(self, values, step):
            self.rows.append(values)

    names = {"skipped/discriminator", "skipped/generator", "loss_scale"}
    for plugin, expected in ((scaling(), names), (MixedPrecision("bf16-mixed", "cpu"), set())):
        gan, kept = overflowing(gan_of("dcgan"), 0, 2), Kept()
        trainer(2, plugin, [TrainingLog(kept, Clock(), every=1)]).fit(gan, batches(gan))
        assert names & kept.rows[0].keys() == expected
    assert not torch.cat([weight.flatten() for weight in gan.parameters()]).isfinite().all()  # bfloat16 skips nothing


def test_where_lightning_scales_the_loss_its_skipped_steps_are_counted(gan_of):
    fit = trainer(1, MixedPrecision("16-mixed", "cpu", scaler := torch.amp.GradScaler("cpu")))
    count_skipped_steps(fit)
    assert isinstance(fit.precision_plugin, LossScaling)
    assert fit.precision_plugin.scaler is scaler
    assert fit.precision == "16-mixed"
    count_skipped_steps(plain := trainer(1))
    assert plain.precision == "32-true"


def test_a_resumed_run_has_the_scale_the_counts_and_the_weights_of_one_never_stopped(gan_of, tmp_path):
    def run(steps, resume=None, overflows=(1, 4)):
        gan, plugin = gan_of("r3gan"), scaling(growth_interval=3)
        start = 3 if resume else 0
        fit = trainer(steps, plugin)
        fit.fit(overflowing(gan, *[at - 2 * start for at in overflows]), batches(gan, start), ckpt_path=resume)
        return gan, plugin, fit

    whole, expected, _ = run(6)
    *_, stopped = run(3)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    resumed, plugin, _ = run(6, tmp_path / "half.ckpt")
    assert plugin.state_dict() == expected.state_dict()
    assert plugin.values()["skipped/generator"] == plugin.values()["skipped/discriminator"] == 1.0
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


# --- clipping ---


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_networks_whole_gradient_is_clipped_as_it_is_without_a_scale(scaled, parts, gan_of):
    size = [f"batch_size={6 // parts}", f"accumulate={parts}"]
    gan = gan_of("wgan_gp", "model.n_critic=2", "model.max_grad_norm=0.001", *SGD, *size)
    steps = watched(gan)
    trainer(2, scaling() if scaled else None).fit(gan, batches(gan))
    assert len(steps) == 6
    for name, _, moved in steps:
        assert moved.norm().item() == pytest.approx(0.001, rel=2e-3), name


def test_a_short_gradient_is_not_clipped(gan_of):
    free, bounded = gan_of("dcgan"), gan_of("dcgan", "model.max_grad_norm=1e6")
    for gan in (free, bounded):
        trainer(2).fit(gan, batches(gan))
    assert all(torch.equal(a, b) for a, b in zip(free.parameters(), bounded.parameters(), strict=True))


def test_clipping_what_is_still_scaled_is_refused(gan_of):
    gan = gan_of("dcgan", "model.max_grad_norm=1.0", "+model.optimizer.fused=true")
    with pytest.raises(UserError, match=r"model\.max_grad_norm=1\.0 .* fused .* trainer\.precision=bf16-mixed"):
        trainer(1, scaling()).fit(gan, batches(gan))
    trainer(1, precision="bf16-mixed").fit(gan, batches(gan))


def test_a_gradient_clipped_to_nothing_is_refused(config):
    with pytest.raises(UserError, match=r"model\.max_grad_norm: must be above 0"):
        check_run(config("model.max_grad_norm=0"))


# --- float32 ---


@pytest.mark.parametrize(("dtype", "close"), [(torch.float16, 1e-5), (torch.bfloat16, 1e-2)])
def test_a_penalty_too_large_for_float16_is_taken_right(dtype, close):
    """D(x) = 300 * 300 * sum x: each pixel's gradient is beyond float16, and no number of bfloat16."""
    critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Linear(1, 1))
    for layer in critic[1:]:
        nn.init.constant_(layer.weight, 300.0)
    real, fake = torch.randn(2, 4, 1, 8, 8)
    with torch.autocast("cpu", dtype):
        penalty = GradientPenalty()(critic, real.to(dtype), fake.to(dtype), torch.rand(4))
        r1 = R1()(critic, real.to(dtype), fake.to(dtype), torch.rand(4))
    assert penalty.item() == pytest.approx(10 * (8 * 300**2 - 1) ** 2, rel=close)
    assert r1.item() == pytest.approx(5 * (8 * 300**2) ** 2, rel=close)
    penalty.backward()
    assert critic[1].weight.grad.isfinite().all()


@pytest.mark.parametrize("half", ["16", "bf16"])
def test_losses_are_taken_in_float32(half, gan_of):
    gan, seen = gan_of("wgan_gp"), []
    loss, step = gan.loss, gan.training_step
    gan.loss = lambda real, fake: (seen.extend([real.dtype, fake.dtype]), loss(real, fake))[1]
    gan.training_step = lambda *batch: (record := step(*batch), seen.extend(v.dtype for v in record.values()))[0]
    trainer(1, scaling() if half == "16" else MixedPrecision("bf16-mixed", "cpu")).fit(gan, batches(gan))
    assert set(seen) == {torch.float32}
    assert all(weight.dtype == torch.float32 for weight in gan.parameters())


# --- on a GPU ---


@pytest.mark.gpu
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("variant", ["dcgan", "wgan_gp", "sngan"])
def test_half_precision_trains_on_a_gpu(variant, precision, compile, config, tmp_path):
    chosen = [f"model={variant}", "trainer.accelerator=gpu", f"trainer.precision={precision}", f"compile={compile}"]
    cfg = config("experiment=smoke", "steps=50", "metrics.every=50", "model.max_grad_norm=100", *chosen)
    entry.train(cfg, tmp_path, TAGS | {"variant": variant})
    last = [row for row in map(json.loads, (tmp_path / "metrics.jsonl").open()) if "loss/generator" in row][-1]
    assert all(value is not None for value in last.values())  # null is what is not finite
    assert ("loss_scale" in last) == (precision == "16-mixed")
    assert last.get("skipped/generator", 0) + last.get("skipped/discriminator", 0) < 50
