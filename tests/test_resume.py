"""A run that was stopped goes on as if it never had been."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from gantry import train as training
from gantry.distributed import peers
from gantry.errors import UserError
from gantry.resume import Start, check_unchanged, parameters, take_up
from gantry.signals import Stop, Stopped
from gantry.tracking.folder import CHECKPOINT

TAGS = {"variant": "wgan", "dataset": "digits"}
VARYING = ("images_per_second", "training_seconds", "evaluation_seconds", "peak_memory_mib", "time")


class StopAt(Stop):
    """Asked to stop at the n-th time it is asked: once a step, and once for each batch that is measured."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def check(self):
        self.left -= 1
        if self.left == 0:
            raise Stopped(143)


@pytest.fixture(scope="module")
def overrides():
    return ["experiment=smoke", "model=wgan", "model/network=mlp", "steps=6", "metrics.every=3", "log_every=2"]


@pytest.fixture
def run(config, overrides, tmp_path, monkeypatch):
    def run(name, stop=None, start=None):
        monkeypatch.setattr(peers, "AgreedStop", lambda _: Stop() if stop is None else StopAt(stop))
        return training.train(config(*overrides), tmp_path / name, TAGS, start)

    (tmp_path / "stopped").mkdir()
    (tmp_path / "whole").mkdir()
    return run


def history(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in VARYING} for line in lines]


# One check measures the untrained generator; then each step asks, and at steps 3 and 6 the measuring before it.
@pytest.mark.parametrize(("n", "step"), [(3, 2), (4, 3), (5, 3), (6, 4), (8, 6)])
def test_a_stopped_run_goes_on_to_the_same_end(run, config, overrides, tmp_path, n, step):
    whole = run("whole")
    stopped = tmp_path / "stopped"
    with pytest.raises(SystemExit) as ended:
        run("stopped", stop=n)
    assert ended.value.code == 143
    status = json.loads((stopped / "status.json").read_text())
    assert (status["status"], status["reason"]) == ("KILLED", "stopped by SIGTERM")
    start = take_up(stopped, config(*overrides))
    assert start.step() == step
    resumed = run("stopped", start=start)
    assert history(stopped) == history(tmp_path / "whole")
    assert (resumed.first, resumed.best, resumed.final) == (whole.first, whole.best, whole.final)
    assert resumed.classes == whole.classes
    for kept in ("best", "last"):
        mine, theirs = (
            load_file(folder / "generator" / kept / "generator.safetensors") for folder in (stopped, tmp_path / "whole")
        )
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert json.loads((stopped / "status.json").read_text())["status"] == "FINISHED"


def test_what_was_written_after_the_checkpoint_is_taken_back(run, config, overrides, tmp_path):
    with pytest.raises(SystemExit):
        run("stopped", stop=6)
    with (tmp_path / "stopped" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "time": 0, "loss/generator": 1}\n{"step": 6, "lo')  # killed while it wrote
    run("stopped", start=take_up(tmp_path / "stopped", config(*overrides)))
    run("whole")
    assert history(tmp_path / "stopped") == history(tmp_path / "whole")


def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path):
    checkpoint = tmp_path / CHECKPOINT
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"last\.ckpt cannot be read"):
        Start(checkpoint).step()


def test_another_config_cannot_go_on(config, overrides, tmp_path):
    before = config(*overrides)
    (tmp_path / "params.json").write_text(json.dumps(parameters(before)))
    check_unchanged(tmp_path, before)
    check_unchanged(tmp_path, config(*overrides, "sweep.jobs=4", "paths.cache=/elsewhere", "log_every=1"))
    with pytest.raises(UserError, match=r"model\.n_critic: was 5, is 2"):
        check_unchanged(tmp_path, config(*overrides, "model.n_critic=2"))
    changed = OmegaConf.merge(before, {"seed": 3, "batch_size": 8})
    with pytest.raises(UserError, match=r"batch_size: was 16, is 8\nseed: was 0, is 3"):
        check_unchanged(tmp_path, changed)
