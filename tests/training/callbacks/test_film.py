"""The film of training: the same frames however often a run was stopped, and no harm to the run."""

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from project import ROOT

from gantry.core.processes.signals import Stop, Stopped
from gantry.runs import checkpoint_files
from gantry.runs.folder import rewind
from gantry.runs.tracking.tracker import Trackers
from gantry.training import build
from gantry.training import run as training
from gantry.training.callbacks import film
from gantry.training.callbacks.film import FRAMES, develop, film_logged, frame, moments
from gantry.training.resume import take_up

TAGS = {"variant": "dcgan", "dataset": "digits"}
NARROW = ["model.generator.width=4", "model.discriminator.width=4"]
SMALL = ["experiment=smoke", "model=dcgan", *NARROW, "steps=6", "metrics.every=3"]


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
    def train(name, stop=0, start=None, *overrides):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setattr(build, "AgreedStop", lambda _: StopAt(stop))
        training.train(config(*SMALL, *overrides), tmp_path / name, TAGS, start)

    return train


def frames(run):
    return {int(path.stem): np.asarray(Image.open(path)) for path in (run / "film").iterdir()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(np.array_equal(picture, other[step]) for step, picture in one.items())


def shown(run):
    with Image.open(run / "samples.gif") as image:
        return image.n_frames


def kept(directory, step, count=8):
    """`count` frames, the last at `step`."""
    for number in range(count):
        path = directory / "film" / f"{step - number:07d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((5, 5), 9 * number, np.uint8)).save(path)


def test_a_stopped_run_ends_with_the_film_of_one_never_stopped(train, config, tmp_path, monkeypatch):
    drawn = []
    draw = film.drawn_grid
    monkeypatch.setattr(film, "drawn_grid", lambda gan: drawn.append(1) or draw(gan))
    train("whole")
    whole = frames(tmp_path / "whole")
    assert sorted(whole) == [0, 1, 2, 3, 4, 5, 6]
    assert len(drawn) == 4  # the others are those of the evaluations at 0, 3 and 6
    for step in (0, 3, 6):
        grid = np.asarray(Image.open(tmp_path / "whole" / "samples" / f"{step:07d}.png"))
        assert np.array_equal(whole[step].repeat(6, 0).repeat(6, 1), grid[..., 0])
    assert shown(tmp_path / "whole") == 7

    with pytest.raises(Stopped):
        train("stopped", 4)  # while it measures at step 3, whose frame is not yet taken
    assert checkpoint_files.newest(tmp_path / "stopped").step == 3
    assert sorted(frames(tmp_path / "stopped")) == [0, 1, 2]
    assert shown(tmp_path / "stopped") == 3
    train("stopped", 0, take_up(tmp_path / "stopped", config(*SMALL, f"resume={tmp_path}/stopped")))
    assert_same(frames(tmp_path / "stopped"), whole)
    assert shown(tmp_path / "stopped") == 7


@pytest.mark.slow
@pytest.mark.parametrize("stop", range(1, 10))
def test_wherever_a_run_is_stopped_its_film_is_whole_in_the_end(train, config, tmp_path, stop):
    train("whole")
    with pytest.raises(Stopped):
        train("stopped", stop)
    train("stopped", 0, take_up(tmp_path / "stopped", config(*SMALL, f"resume={tmp_path}/stopped")))
    assert_same(frames(tmp_path / "stopped"), frames(tmp_path / "whole"))


@pytest.mark.slow
def test_two_ranks_leave_the_film_of_one_run(tmp_path, cache):
    said = ["experiment=smoke", "model=dcgan", "steps=8", "metrics.every=3", "trainer=ddp", "trainer.devices=2"]
    command = [sys.executable, ROOT / "train.py", *said, f"paths.cache={cache}", f"hydra.run.dir={tmp_path}/run"]
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    ended = subprocess.run([*command, "tracking=none"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert sorted(frames(tmp_path / "run")) == list(range(9))
    assert shown(tmp_path / "run") == 9
    assert "samples.gif" in ended.stdout


def test_the_film_has_more_frames_where_more_changes():
    steps = sorted(moments(3000))
    assert (steps[0], steps[-1], len(steps)) == (0, 3000, FRAMES)
    assert (np.diff(steps, 2) >= -1).all()
    assert steps[24] < 3000 / 3
    assert moments(5) == {0, 1, 2, 3, 4, 5}


def test_what_a_run_goes_back_beyond_leaves_its_film(tmp_path):
    kept(tmp_path, 20)
    rewind(tmp_path, 15)
    assert sorted(frames(tmp_path)) == [13, 14, 15]


def test_on_a_full_disk_a_run_ends_as_without_a_film(tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    kept(tmp_path, 20)
    monkeypatch.setattr(film, "save_animation", full)
    with film_logged(Trackers(), tmp_path):
        pass
    assert "No space left on device" in caplog.text
    with pytest.raises(Stopped), film_logged(Trackers(), tmp_path):
        raise Stopped(signal.SIGTERM)


def test_a_damaged_frame_costs_the_film_that_frame(tmp_path, caplog):
    kept(tmp_path, 20)
    whole = (tmp_path / "film" / "0000015.png").read_bytes()
    (tmp_path / "film" / "0000015.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "film" / "0000016.png").write_bytes(b"")
    assert film.develop(tmp_path)
    assert shown(tmp_path) == 6
    assert "0000015.png" in caplog.text
    assert "0000016.png" in caplog.text


def test_a_run_that_ended_before_it_began_has_no_film(tmp_path):
    assert not develop(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("images", "size"),
    [((64, 1, 8, 8), (73, 73, 1)), ((64, 3, 64, 64), (326, 326, 3)), ((64, 3, 256, 512), (160, 316, 3))],
)
def test_a_frame_of_large_images_is_small(images, size):
    picture = frame(torch.full(images, 7, dtype=torch.uint8))
    assert picture.shape == size
    assert set(np.unique(picture)) == {0, 7}
