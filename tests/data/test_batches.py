"""The order a run sees its images in: stateless, complete, and the same for any number of ranks."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from gantry.core.errors import UserError
from gantry.data.batches import Batches, check_batch_size
from gantry.data.images import ImageSet


def numbered(n: int, flip: bool = False, labels: bool = True) -> ImageSet:
    """Image i holds i in its left column and 255 elsewhere, and has label i."""
    images = np.full((n, 1, 4, 4), 255, np.uint8)
    images[..., 0] = np.arange(n)[:, None, None]
    classes = tuple(map(str, range(n))) if labels else None
    return ImageSet("numbered", images, np.arange(n) if labels else None, classes, "all", "test", "0", flip)


def take(batches: Batches, steps: int) -> list[dict[str, torch.Tensor]]:
    return list(itertools.islice(batches, steps))


def same(left: list[dict], right: list[dict]) -> bool:
    return all(torch.equal(a[key], b[key]) for a, b in zip(left, right, strict=True) for key in ("images", "labels"))


def test_a_step_holds_n_critic_batches_of_images_with_their_labels():
    batch = take(Batches(numbered(50), 8, 3, seed=0), 1)[0]
    assert (batch["images"].shape, batch["images"].dtype) == ((3, 8, 1, 4, 4), torch.uint8)
    assert (batch["labels"].shape, batch["labels"].dtype) == ((3, 8), torch.int64)
    assert torch.equal(batch["images"][:, :, 0, 0, 0].long(), batch["labels"])
    assert set(take(Batches(numbered(50, labels=False), 8, 3, seed=0), 1)[0]) == {"images"}


@pytest.mark.parametrize(("n", "batch_size", "n_critic"), [(50, 8, 3), (50, 50, 5), (7, 5, 1), (64, 16, 2)])
def test_every_image_comes_exactly_once_an_epoch(n, batch_size, n_critic):
    steps = -(-5 * n // (batch_size * n_critic))
    stream = torch.cat(
        [batch["labels"].flatten() for batch in take(Batches(numbered(n), batch_size, n_critic, 3), steps)]
    )
    epochs = stream[: 5 * n].reshape(5, n)
    assert all(torch.equal(epoch.sort().values, torch.arange(n)) for epoch in epochs)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(epochs, 2))


def test_the_stream_does_not_depend_on_how_it_is_cut():
    def stream(batch_size, n_critic):
        batches = take(Batches(numbered(30), batch_size, n_critic, 3), 120 // (batch_size * n_critic))
        return torch.cat([batch["labels"].flatten() for batch in batches])

    assert torch.equal(stream(8, 5), stream(30, 1))
    assert torch.equal(stream(8, 5), stream(4, 3))


@pytest.mark.parametrize("start", [1, 4, 17])
def test_starting_at_a_step_equals_having_come_that_far(start):
    data = numbered(50, flip=True)
    resumed = take(Batches(data, 8, 3, seed=5, start=start), 6)
    assert same(resumed, take(Batches(data, 8, 3, seed=5), start + 6)[start:])


def test_iterating_again_starts_again():
    batches = Batches(numbered(50, flip=True), 8, 3, seed=5, start=2)
    assert same(take(batches, 4), take(batches, 4))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_batch_of_one_process(world_size):
    data = numbered(50, flip=True)
    whole = take(Batches(data, 8, 3, seed=5), 10)
    ranks = [take(Batches(data, 8, 3, 5, rank=rank, world_size=world_size), 10) for rank in range(world_size)]
    joined = [
        {key: torch.cat([part[key] for part in parts], dim=1) for key in ("images", "labels")}
        for parts in zip(*ranks, strict=True)
    ]
    assert same(joined, whole)


def test_seeds_differ():
    data = numbered(50)
    assert not same(take(Batches(data, 8, 1, seed=0), 3), take(Batches(data, 8, 1, seed=1), 3))


def test_half_of_the_images_are_mirrored_and_nothing_else_changes():
    data = numbered(50, flip=True)
    before = data.images.copy()
    batches = take(Batches(data, 50, 2, seed=0), 20)
    images = torch.cat([batch["images"].flatten(0, 1) for batch in batches])
    labels = torch.cat([batch["labels"].flatten() for batch in batches])
    original = torch.from_numpy(before)[labels]
    mirrored = (images == original.flip(-1)).flatten(1).all(1)
    assert ((images == original).flatten(1).all(1) | mirrored).all()
    assert 0.45 < mirrored.float().mean() < 0.55
    assert mirrored.reshape(-1, 50).float().std(0).min() > 0  # no image position is always or never mirrored
    assert np.array_equal(data.images, before)


def test_data_sets_that_must_not_be_mirrored_are_not():
    batches = take(Batches(numbered(50), 10, 1, seed=0), 20)
    assert all((batch["images"][..., 1:] == 255).all() for batch in batches)


def test_a_read_only_memory_map_serves_as_well(tmp_path):
    data = numbered(50, flip=True)
    np.save(tmp_path / "x.npy", data.images)
    mapped = ImageSet(
        "m", np.load(tmp_path / "x.npy", mmap_mode="r"), data.labels, data.classes, "all", "test", "0", True
    )
    batches = take(Batches(mapped, 8, 3, seed=5), 10)
    assert same(batches, take(Batches(data, 8, 3, seed=5), 10))
    batches[0]["images"].zero_()  # the tensors are the caller's own


def test_a_batch_above_the_data_set_is_refused_with_the_largest_that_fits():
    with pytest.raises(UserError, match=r"batch_size=51 .* 50 images.* largest valid value is 50"):
        Batches(numbered(50), 51, 1, seed=0)
    with pytest.raises(UserError, match="largest valid value is 48"):
        check_batch_size(50, 51, world_size=4)
    check_batch_size(50, 50)


@pytest.mark.parametrize(("batch_size", "world_size", "nearest"), [(10, 4, 8), (3, 4, 4), (0, 1, 1), (-8, 2, 2)])
def test_a_batch_the_ranks_cannot_share_is_refused_with_one_they_can(batch_size, world_size, nearest):
    with pytest.raises(UserError, match=f"batch_size={batch_size} .*such as {nearest}"):
        check_batch_size(50, batch_size, world_size)


def test_the_check_and_the_sources_do_not_import_what_is_slow():
    code = (
        "import sys, gantry.data.batches, gantry.data.sources, gantry.data.image_folder;"
        "print({'torch', 'torchvision', 'sklearn', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
