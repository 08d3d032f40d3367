"""Callbacks and loggers that a config names: what they see, what is refused, and how one that fails ends the run."""

import csv
import json

import pytest
from hydra import compose, initialize_config_dir
from project import ROOT
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import CSVLogger

from gantry.core.errors import RunFailed, UserError
from gantry.core.processes.signals import Stop, Stopped
from gantry.training import build, rules
from gantry.training import run as training
from gantry.training.extension_rules import REFUSED
from gantry.training.resume import check_unchanged, take_up

SMALL = ("experiment=smoke", "model.generator.width=4", "model.discriminator.width=4", "log_every=2")
TAGS = {"variant": "dcgan", "dataset": "digits"}
HERE = __name__


class Steps(Callback):
    """Keeps the generator steps that it has seen, over all attempts, and the step that was measured last by then."""

    last: "Steps"

    def __init__(self):
        self.steps, self.measured = [], []
        Steps.last = self

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert outputs["loss/generator"].isfinite()
        self.steps.append(trainer.global_step)
        (evaluation,) = [callback for callback in trainer.callbacks if type(callback).__name__ == "Evaluation"]
        self.measured.append(evaluation.last)
        self.log("seen", float(trainer.global_step))

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state_dict):
        self.steps = state_dict["steps"]


class Guard(Callback):
    """Has the state_key of one of the run's own."""

    def state_dict(self):
        return {"mine": 1}


class Fails(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            raise ValueError("the callback has had enough")


class Lambda(Callback):
    def state_dict(self):
        return {"f": lambda: 1}


class Unreadable(Callback):
    def state_dict(self):
        return {"self": Steps}


class Early(EarlyStopping):
    def __init__(self):
        super().__init__("fid")


class FullDisk(CSVLogger):
    def save(self):
        raise OSError(28, "No space left on device")


class StopAt(Stop):
    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def check(self):
        self.calls -= 1
        if self.calls == 0:
            raise Stopped(15)


def named(option, *targets, **options):
    """The override that names these targets, such as `+trainer.callbacks=[{_target_: ...}]`."""
    more = "".join(f", {name}: {value}" for name, value in options.items())
    return f"+trainer.{option}=[{', '.join(f'{{_target_: {target}{more}}}' for target in targets)}]"


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def rows(folder):
    (file,) = folder.glob("lightning_logs/version_*/metrics.csv")
    with file.open() as opened:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(opened)]


def test_a_callback_sees_every_generator_step_before_it_is_measured(config, tmp_path):
    cfg = config(*SMALL, "model.n_critic=2", named("callbacks", f"{HERE}.Steps"))
    rules.check_run(cfg)
    training.train(cfg, tmp_path, TAGS)
    assert Steps.last.steps == [1, 2, 3, 4]
    assert Steps.last.measured == [0, 0, 2, 2]
    assert [(line["step"], line["seen"]) for line in lines(tmp_path) if "seen" in line] == [(2, 2), (4, 4)]


@pytest.mark.parametrize(("calls", "done"), [(2, 1), (3, 2), (6, 4)])  # asked after a step, or while it measures
def test_a_callbacks_state_is_that_of_the_step_wherever_the_run_is_stopped(calls, done, config, tmp_path, monkeypatch):
    cfg = config(*SMALL, named("callbacks", f"{HERE}.Steps"))
    with monkeypatch.context() as patch:
        patch.setattr(build, "AgreedStop", lambda _: StopAt(calls))
        with pytest.raises(Stopped):
            training.train(cfg, tmp_path, TAGS)
    assert Steps.last.steps == list(range(1, done + 1))
    training.train(cfg, tmp_path, TAGS, take_up(tmp_path, config(*SMALL, named("callbacks", f"{HERE}.Steps"))))
    assert Steps.last.steps == [1, 2, 3, 4]


def test_lightnings_loggers_get_what_is_logged_and_its_callbacks_log_here_too(config, tmp_path):
    monitor = named("callbacks", "pytorch_lightning.callbacks.LearningRateMonitor")
    cfg = config(*SMALL, monitor, named("logger", "pytorch_lightning.loggers.CSVLogger", save_dir="."))
    rules.check_run(cfg)
    training.train(cfg, tmp_path, TAGS)
    logged = rows(tmp_path)
    assert [int(row["step"]) for row in logged if "loss/generator" in row] == [2, 4]
    assert [int(row["step"]) for row in logged if "fid_classifier" in row] == [0, 2, 4]
    assert "final/fid_classifier" in logged[-1]
    assert "batch_size: '16'" in next(tmp_path.glob("lightning_logs/*/hparams.yaml")).read_text()
    for record in (logged, lines(tmp_path)):
        rates = [row for row in record if "lr-Adam" in row]
        assert [float(row["lr-Adam"]) for row in rates] == [pytest.approx(2e-4)] * len(rates)
        assert [int(row["step"]) for row in rates] == [0, 1, 3]
    assert not any("epoch" in line for line in lines(tmp_path))


def test_a_logger_that_fails_does_not_hurt(config, tmp_path, caplog):
    training.train(config(*SMALL, named("logger", f"{HERE}.FullDisk", save_dir=".")), tmp_path, TAGS)
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "FINISHED"
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("Fails", ValueError, "the callback has had enough"),
        ("Unreadable", RunFailed, r"Unreadable.state_dict\(\) must hold tensors and plain values"),
        ("Lambda", RunFailed, r"Lambda.state_dict\(\) must hold tensors and plain values"),
        ("Guard", UserError, "more than one has the state_key Guard"),
    ],
)
def test_a_callback_that_fails_ends_the_run_and_is_its_reason(name, error, said, config, tmp_path):
    with pytest.raises(error, match=said):
        training.train(config(*SMALL, named("callbacks", f"{HERE}.{name}")), tmp_path, TAGS)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["status"] == "FAILED"
    assert status["reason"].startswith(name if error is RunFailed else error.__name__)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (named("callbacks", f"{HERE}.Early"), f"EarlyStopping, which {HERE}.Early is, looks at validation epochs"),
        (named("callbacks", "torch.nn.Identity"), "torch.nn.Identity is no pytorch_lightning Callback"),
        (named("callbacks", f"{HERE}.rows"), "rows cannot be made: TypeError"),
        (named("callbacks", f"{HERE}.Earlie"), r"trainer.callbacks.0: .*'Earlie'"),
    ],
)
def test_what_is_found_out_only_when_it_is_made_is_refused_before_anything_is_written(override, said, config, tmp_path):
    with pytest.raises(UserError, match=said):
        training.train(config(*SMALL, override), tmp_path / "run", TAGS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_break_a_promise_is_refused_with_its_reason(name, config):
    option, module = ("logger", "loggers") if name.endswith("Logger") else ("callbacks", "callbacks")
    cfg = config(named(option, f"pytorch_lightning.{module}.{name}"))
    with pytest.raises(UserError) as refusal:
        rules.check_run(cfg)
    assert f"trainer.{option}.0: {name} {REFUSED[name]}" in str(refusal.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+trainer.callbacks={_target_: a.B}", "trainer.callbacks: takes a list"),
        ("+trainer.logger=true", "trainer.logger: takes a list"),
        ("+trainer.callbacks=[verbose]", r"trainer.callbacks.0: takes a _target_ .* not verbose"),
        (named("callbacks", "pytorch_lightning.callbacks.LearningRateMonito"), "trainer.callbacks.0._target_"),
        (named("callbacks", "pytorch_lightning.callbacks.LearningRateMonitor", every=2), "every: no such option"),
        (named("logger", "pytorch_lightning.loggers.CSVLogger"), "trainer.logger.0.save_dir: missing"),
    ],
)
def test_another_shape_is_refused(override, said, config):
    with pytest.raises(UserError, match=said):
        rules.check_run(config(override))


def test_a_run_may_go_on_with_another_logger_not_with_another_callback(config, tmp_path):
    def begun(*overrides):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose("train", [f"paths.root={tmp_path}", "tracking=none", *overrides])

    (tmp_path / "params.json").write_text(json.dumps(training.parameters(begun())))
    check_unchanged(tmp_path, begun(named("logger", "pytorch_lightning.loggers.CSVLogger", save_dir=".")))
    with pytest.raises(UserError, match=r"trainer\.callbacks: was absent"):
        check_unchanged(tmp_path, begun(named("callbacks", f"{HERE}.Steps")))
