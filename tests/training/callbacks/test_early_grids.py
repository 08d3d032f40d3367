"""The first grids of samples: early, the same however often a run was stopped, and no harm to the run."""

import hashlib
import json
import signal

import pytest
import torch

from gantry.core.processes.signals import Stop, Stopped
from gantry.runs import checkpoint_files
from gantry.runs.tracking.folder_tracker import FolderTracker
from gantry.training import build
from gantry.training import run as training
from gantry.training.callbacks import early_grids
from gantry.training.callbacks.early_grids import early_steps
from gantry.training.resume import take_up

TAGS = {"variant": "dcgan", "dataset": "digits"}
NARROW = ["model.generator.width=4", "model.discriminator.width=4"]
SMALL = ["experiment=smoke", "model=dcgan", *NARROW, "steps=6", "metrics.every=4", "log_every=1"]


class StopAt(Stop):
    """Asked to stop at the n-th time it is asked: once a step, and once for each batch that is measured."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def check(self):
        self.left -= 1
        if self.left == 0:
            raise Stopped(signal.SIGTERM)


@pytest.fixture
def train(config, tmp_path, monkeypatch):
    logged = []
    log_image = FolderTracker.log_image
    monkeypatch.setattr(
        FolderTracker,
        "log_image",
        lambda self, image, key, step, text=None: logged.append((key, step)) or log_image(self, image, key, step, text),
    )

    def train(name, early, stop=0, start=None):
        logged.clear()
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setattr(early_grids, "early_steps", lambda every: frozenset(early))
        monkeypatch.setattr(build, "AgreedStop", lambda _: StopAt(stop))
        try:
            training.train(config(*SMALL), tmp_path / name, TAGS, start)
        finally:
            train.logged = [step for key, step in logged if key == "samples"]

    return train


def grids(run):
    return {int(path.stem): path.read_bytes() for path in (run / "samples").iterdir()}


def values(run):
    """What metrics.jsonl says of training and of quality, without what depends on time and memory."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "per_second", "memory", "time")
    return [{key: value for key, value in line.items() if not any(word in key for word in timed)} for line in lines]


def weights(run):
    state = torch.load(checkpoint_files.newest(run).path, weights_only=True)["state_dict"]
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in state.items()}


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        (1, []),
        (10, []),
        (11, [10]),
        (100, [10, 50]),
        (500, [10, 50, 100, 200]),
        (5001, [10, 50, 100, 200, 500, 1000, 2000, 5000]),
    ],
)
def test_the_steps_are_few_and_precede_the_first_evaluation(every, steps):
    assert sorted(early_steps(every)) == steps


def test_early_grids_are_written_once_and_change_nothing_else(train, tmp_path):
    train("without", [])
    assert train.logged == [0, 4, 6]
    train("with", [1, 2, 3, 4, 5, 6, 9])
    assert train.logged == [0, 1, 2, 3, 4, 5, 6]  # those of the evaluations at 4 and 6 once
    with_early, without = grids(tmp_path / "with"), grids(tmp_path / "without")
    assert {step: with_early[step] for step in without} == without
    assert len(set(with_early.values())) == 7
    assert values(tmp_path / "with") == values(tmp_path / "without")
    assert weights(tmp_path / "with") == weights(tmp_path / "without")
    assert sorted(path.name for path in (tmp_path / "with" / "film").iterdir()) == [
        f"{step:07d}.png" for step in range(7)
    ]


@pytest.mark.parametrize(("stop", "before", "after"), [(3, [0, 1, 2], [4, 5, 6]), (2, [0, 1], [2, 4, 5, 6])])
def test_a_resumed_run_has_each_grid_once(train, config, tmp_path, stop, before, after):
    early = [1, 2, 5]
    train("whole", early)
    assert train.logged == [0, 1, 2, 4, 5, 6]
    with pytest.raises(Stopped):
        train("stopped", early, stop)
    assert train.logged == before
    train("stopped", early, 0, take_up(tmp_path / "stopped", config(*SMALL, f"resume={tmp_path}/stopped")))
    assert train.logged == after
    assert grids(tmp_path / "stopped") == grids(tmp_path / "whole")


def test_a_grid_that_a_stop_prevented_is_drawn_at_the_next_start(train, config, tmp_path):
    with pytest.raises(Stopped):
        train("stopped", [2], 3)
    (tmp_path / "stopped" / "samples" / "0000002.png").unlink()
    train("stopped", [2], 0, take_up(tmp_path / "stopped", config(*SMALL, f"resume={tmp_path}/stopped")))
    assert train.logged == [2, 4, 6]
