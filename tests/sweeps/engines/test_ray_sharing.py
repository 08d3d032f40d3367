"""What part of a GPU Ray reserves for a job, and what is refused before Ray starts."""

import contextlib

import pytest
from omegaconf import OmegaConf

from gantry.core.errors import UserError
from hydra_plugins.gantry_ray import FINEST, check_sharing, part_of_a_gpu


@pytest.mark.parametrize("shared", [2, 3, 4, 7, 64])
def test_so_many_parts_of_a_gpu_fill_it_for_ray(shared):
    (part,) = part_of_a_gpu(shared, 2).values()
    parts = round(part * FINEST)  # Ray's own units
    assert parts == pytest.approx(part * FINEST)
    assert FINEST // parts == shared
    assert part_of_a_gpu(1, 2) == {"num_gpus": 1}
    assert part_of_a_gpu(1, 0) == {}


@pytest.mark.parametrize(
    ("shared", "trainer", "remote", "said"),
    [
        (2, {}, {"num_gpus": 1}, "num_gpus: leave it out beside"),
        (2, {"devices": 2}, {}, "under Ray every job has to run on one GPU"),
        (2, {"accelerator": "cpu"}, {}, "under Ray every job has to run on one GPU"),
        (2, {}, {"num_cpus": 4}, None),
        (1, {"devices": 2}, {"num_gpus": 2}, None),
    ],
)
def test_what_ray_could_not_share_is_refused(shared, trainer, remote, said):
    with pytest.raises(UserError, match=said) if said else contextlib.nullcontext():
        check_sharing(shared, [OmegaConf.create({"devices": 1} | trainer)], remote)
