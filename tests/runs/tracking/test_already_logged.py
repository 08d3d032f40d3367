"""What a run taken up again has not to be told twice."""

from types import SimpleNamespace

import pytest

from gantry.runs.tracking.already_logged import Known, last_rollback
from gantry.runs.tracking.tracker import ROLLED_BACK


class Client:
    """An MLflow client that knows one run, with points (step, time) of one metric."""

    def __init__(self, points, tags=()):
        self.points, self.tags = points, dict(tags)

    def get_run(self, run_id):
        return SimpleNamespace(data=SimpleNamespace(tags=self.tags))

    def list_artifacts(self, run_id, folder):
        return []

    def get_metric_history(self, run_id, key):
        return [SimpleNamespace(step=step, timestamp=time) for step, time in self.points]


def new(points, since=0):
    known = Known(Client(points), "run", since)
    return [step for step in (10, 15, 20, 25) if known.is_new("fid", step)]


@pytest.mark.parametrize("late", [0, 1000])
def test_a_step_that_arrived_is_known_whenever_the_one_before_it_did(late):
    """A kill leaves steps 10 and 20 here and 15 in the folder, from which it is sent when 20 is repeated."""
    assert new([(10, 100), (20, 300), (15, 200 + late)]) == [25]


def test_a_gap_is_filled():
    assert new([(10, 100), (20, 300)]) == [15, 25]


def test_what_was_logged_before_a_rollback_is_logged_again():
    assert new([(10, 100), (15, 200), (20, 300), (15, 500)], since=400) == [10, 20, 25]


@pytest.mark.parametrize(("here", "there", "since"), [(400, 100, 400), (900, 100, 100), (900, None, 0)])
def test_a_rollback_that_is_still_to_be_told_does_not_count_yet(tmp_path, here, there, since):
    """The run was taken up at 500; by the time MLflow hears of it, the folder may tell of a later rollback."""
    (tmp_path / "tags.json").write_text(f'{{"{ROLLED_BACK}": "{here} to step 1"}}')
    tags = {} if there is None else {ROLLED_BACK: f"{there} to step 1"}
    assert last_rollback(Client([], tags), "run", tmp_path, before=500) == since
