"""What a run taken up again has not to be told twice."""

from types import SimpleNamespace

import pytest

from gantry.tracking.base import ROLLED_BACK
from gantry.tracking.known import Known


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


def new(points, tags=()):
    known = Known(Client(points, tags), "run")
    return [step for step in (10, 15, 20, 25) if known.is_new("fid", step)]


@pytest.mark.parametrize("late", [0, 1000])
def test_a_step_that_arrived_is_known_whenever_the_one_before_it_did(late):
    """A kill leaves steps 10 and 20 here and 15 in the folder, from which it is sent when 20 is repeated."""
    assert new([(10, 100), (20, 300), (15, 200 + late)]) == [25]


def test_a_gap_is_filled():
    assert new([(10, 100), (20, 300)]) == [15, 25]


def test_what_was_logged_before_a_rollback_is_logged_again():
    assert new([(10, 100), (15, 200), (20, 300), (15, 500)], {ROLLED_BACK: "400 to step 10"}) == [10, 20, 25]
