"""The schedule by which networks grow."""

import pytest

from gantry.models.growth import Growth, LevelOfDetail
from gantry.models.schedules import Schedule


@pytest.mark.parametrize(
    ("done", "lod"),
    [(0, 2), (600, 2), (601, 1.9975), (900, 1.25), (1000, 1), (1600, 1), (1800, 0.5), (2000, 0), (9e9, 0)],
)
def test_the_level_of_detail_is_that_of_the_official_schedule(done, lod):
    schedule = LevelOfDetail(Growth(stable=600, fade=400), levels=2)
    assert isinstance(schedule, Schedule)
    assert schedule.at(done) == pytest.approx(lod)


def test_without_a_fade_the_next_size_comes_at_once():
    assert [LevelOfDetail(Growth(10, 0), 2).at(done) for done in (0, 9, 10, 19, 20)] == [2, 2, 1, 1, 0]
    assert [LevelOfDetail(Growth(0, 10), 2).at(done) for done in (0, 5, 10, 20)] == [2, 1.5, 1, 0]


@pytest.mark.parametrize(("options", "named"), [({"stable": -1}, "stable"), ({"stable": 0, "fade": 0}, "above 0")])
def test_impossible_growth_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        Growth(**options)
