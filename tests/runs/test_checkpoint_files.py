"""Checkpoints on disk: which there are, which is sound, what happens where one cannot be written."""

import errno
import json
import logging
import os

import pytest

from gantry.runs import checkpoint_files
from gantry.runs.checkpoint_files import BEST, STEP, found, keep, mark_best, newest, write
from gantry.training import run
from gantry.training.callbacks.checkpointing import CheckpointFailed

TAGS = {"variant": "dcgan", "dataset": "digits"}
NARROW = ["model.generator.width=4", "model.discriminator.width=4"]
RUN = ["experiment=smoke", *NARROW, "steps=8", "metrics.every=8", "checkpoint.every=2"]


def steps(folder, kind=None):
    return [checkpoint.step for checkpoint in found(folder, kind)]


def test_the_last_few_and_the_best_are_kept(tmp_path):
    for step in (1000, 2000, 3000, 10_000_000):
        path = write(tmp_path, step, b"%d" % step)
        if step in (1000, 2000):
            mark_best(tmp_path, path)
        keep(tmp_path, 2)
    assert steps(tmp_path, STEP) == [10_000_000, 3000]
    assert steps(tmp_path, BEST) == [2000]
    assert all(checkpoint.is_sound() for checkpoint in found(tmp_path))
    assert newest(tmp_path, BEST).path.read_bytes() == b"2000"


def test_a_step_has_one_checkpoint(tmp_path):
    write(tmp_path, 5, b"killed before it went on")
    path = write(tmp_path, 5, b"as it went on")
    assert [checkpoint.path for checkpoint in found(tmp_path)] == [path]
    mark_best(tmp_path, path)
    mark_best(tmp_path, path)
    assert len(found(tmp_path)) == 2
    assert not (path.parent / checkpoint_files.PART).exists()


def test_what_a_kill_left_half_written_does_not_count(tmp_path):
    write(tmp_path, 5, b"whole")
    (tmp_path / "checkpoints" / checkpoint_files.PART).write_bytes(b"half")
    assert steps(tmp_path) == [5]
    write(tmp_path, 6, b"whole again")
    assert newest(tmp_path).step == 6


def test_a_damaged_one_is_passed_over_and_set_aside(tmp_path, caplog):
    write(tmp_path, 5, b"whole")
    damaged = write(tmp_path, 6, b"whole too")
    damaged.write_bytes(b"altered")
    assert newest(tmp_path).step == 5
    assert damaged.name in caplog.text
    assert steps(tmp_path) == [6, 5]
    assert newest(tmp_path, aside=True).step == 5
    assert steps(tmp_path) == [5]
    assert damaged.with_suffix(".damaged").exists()


@pytest.fixture
def full(monkeypatch):
    """A disk that is full from one checkpoint on, for so many."""

    def full(first, count):
        write, numbers = checkpoint_files.write, []

        def fails(*arguments):
            numbers.append(len(numbers))
            if first <= numbers[-1] < first + count:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(*arguments)

        monkeypatch.setattr(checkpoint_files, "write", fails)

    return full


def test_training_goes_on_where_a_checkpoint_cannot_be_written(config, tmp_path, full, caplog):
    full(2, 2)  # at steps 4 and 6
    run.train(config(*RUN, "checkpoint.max_failures=3"), tmp_path, TAGS)
    assert caplog.text.count("could not be written") == 2
    assert steps(tmp_path, STEP) == [8, 2]
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "FINISHED"


@pytest.mark.parametrize(("most", "failures"), [(3, 3), (9, 4)])
def test_in_the_end_it_fails_and_keeps_what_there_is(most, failures, config, tmp_path, full, caplog):
    """After so many in a row; or at the end of training, which must not be lost without a word."""
    caplog.set_level(logging.WARNING)
    full(1, 99)
    with pytest.raises(CheckpointFailed, match="No space left"):
        run.train(config(*RUN, f"checkpoint.max_failures={most}"), tmp_path, TAGS)
    assert caplog.text.count("could not be written (") == failures + (most == 9)
    assert steps(tmp_path) == [0]
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["status"] == "FAILED"
    assert "could not be written" in status["reason"]


@pytest.mark.parametrize("then", ["write", "mark_best"])
def test_a_kill_while_the_best_is_marked_does_not_have_the_next_write_change_it(tmp_path, then):
    first, second = write(tmp_path, 500, b"first"), write(tmp_path, 1000, b"second")
    os.link(first, first.with_name(checkpoint_files.PART))  # killed before the rename
    if then == "write":
        write(tmp_path, 1500, b"third")
    else:
        mark_best(tmp_path, second)
    assert first.read_bytes() == b"first"
    assert all(one.is_sound() for one in found(tmp_path))


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_of_two_of_a_step_the_later_counts(tmp_path, order):
    first = write(tmp_path, 5, b"first")
    kept = first.read_bytes()
    second = write(tmp_path, 5, b"second")
    first.write_bytes(kept)  # killed before it was removed
    for path, age in zip((first, second), order, strict=True):
        os.utime(path, (age, age))
    assert newest(tmp_path).path == (second if order[1] == 2 else first)
