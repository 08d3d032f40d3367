"""Makes the real batches of a run as a function of (seed, step), without worker processes or state to save."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gantry.core.errors import UserError
from gantry.core.randomness import draws
from gantry.data.images import ImageSet
from gantry.data.read_ahead import ReadAhead

if TYPE_CHECKING:
    import torch


def check_batch_size(n_images: int, batch_size: int, world_size: int = 1, accumulate: int = 1) -> None:
    """Refuse a global batch, or `accumulate` of them in a step, that the data set or the ranks cannot fill.

    Raises:
        UserError: `batch_size` is below `world_size` or not a multiple of it, or what a step takes is above `n_images`.
    """
    largest = n_images - n_images % world_size
    if batch_size > n_images:
        raise UserError(
            f"batch_size={batch_size} is larger than the data set, which has {n_images} images; "
            f"the largest valid value is {largest}"
        )
    if batch_size < 1 or batch_size % world_size:
        nearest = min(max(round(batch_size / world_size), 1) * world_size, largest)
        raise UserError(
            f"batch_size={batch_size} cannot be shared by {world_size} processes: it counts the images "
            f"of all of them and must be a positive multiple of {world_size}, such as {nearest}"
        )
    if batch_size * accumulate > n_images:
        raise UserError(
            f"batch_size={batch_size} times accumulate={accumulate} is larger than the data set, which has "
            f"{n_images} images; the largest valid value of accumulate is {n_images // batch_size}"
        )


class Batches:
    """An endless iterable over generator steps, one item per step, which Lightning accepts as a train dataloader.

    The run sees one endless stream of images: every image once in a random order, then again in another.
    Critic batch b = step * n_critic + k takes positions [b * batch_size, (b + 1) * batch_size) of it, so no
    image is left out or repeated within an epoch, whatever the batch size. Order and mirroring depend on
    (seed, step) alone: a run resumed at step k sees the same images as one never stopped, and the ranks' slices
    make up the same global batch for any number of ranks.

    Each item is {"images": uint8 (n_critic, batch_size / world_size, C, H, W), 0 to 255} and, where the data
    set has labels, "labels": int64 (n_critic, batch_size / world_size). With `indices`, the item has in place of the
    images "chosen", their indices in the data set, int64, and where images are mirrored at random "mirrored", bool;
    both (n_critic, batch_size / world_size).

    Args:
        data: the images.
        batch_size: images in one critic batch, over all ranks.
        n_critic: critic batches in one generator step.
        seed: the run's seed.
        rank: this process, 0 to world_size - 1.
        world_size: the number of processes that share the batch.
        start: the first generator step, counted from 0.
        indices: whether to give indices of images, for images that are on a device.

    Raises:
        UserError: see `check_batch_size`.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        n_critic: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        indices: bool = False,
    ) -> None:
        check_batch_size(len(data), batch_size, world_size)
        self.data = data
        self.batch_size = batch_size
        self.n_critic = n_critic
        self.seed = seed
        self.start = start
        self.indices = indices
        share = batch_size // world_size
        self._mine = slice(rank * share, (rank + 1) * share)
        self._images = np.asarray(data.images)  # fancy indexing of a plain array is faster than of np.memmap
        self._orders: dict[int, np.ndarray] = {}
        self._ahead = ReadAhead(data.images)

    def __iter__(self) -> Iterator[dict[str, "torch.Tensor"]]:
        step, chosen = self.start, self._chosen(self.start)
        while True:
            batch = self._step(step, chosen)
            step, chosen = step + 1, self._chosen(step + 1)
            yield batch

    def _chosen(self, step: int) -> np.ndarray:
        """Return this rank's image indices of the step, (n_critic, batch_size / world_size), and prefetch them."""
        chosen = np.stack([self._indices(number) for number in self._numbers(step)])
        if not self.indices:
            self._ahead.ask(chosen.flat)
        return chosen

    def _numbers(self, step: int) -> range:
        """Return the numbers of a step's critic batches."""
        return range(step * self.n_critic, (step + 1) * self.n_critic)

    def _step(self, step: int, chosen: np.ndarray) -> dict[str, "torch.Tensor"]:
        import torch

        flip = self.data.flip
        mirrored = np.stack([self._mirrored(number) for number in self._numbers(step)]) if flip else None
        if self.indices:
            batch = {"chosen": torch.from_numpy(chosen)}
            if mirrored is not None:
                batch["mirrored"] = torch.from_numpy(mirrored)
        else:
            images = self._images[chosen]
            if mirrored is not None:
                images[mirrored] = images[mirrored][..., ::-1]
            batch = {"images": torch.from_numpy(images)}
        if self.data.labels is not None:
            batch["labels"] = torch.from_numpy(self.data.labels[chosen])
        return batch

    def _indices(self, number: int) -> np.ndarray:
        """Return this rank's images of critic batch `number` as indices into the data set."""
        epoch, begin = divmod(number * self.batch_size, len(self.data))
        end = begin + self.batch_size
        chosen = self._order(epoch)[begin:end]
        if end > len(self.data):
            chosen = np.concatenate([chosen, self._order(epoch + 1)[: end - len(self.data)]])
        return chosen[self._mine]

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {epoch - 1: self._orders[epoch - 1]} if epoch - 1 in self._orders else {}
            self._orders[epoch] = draws(self.seed, epoch, "order").permutation(len(self.data))
        return self._orders[epoch]

    def _mirrored(self, number: int) -> np.ndarray:
        """Return the mirroring mask of this rank's images of critic batch `number`: bool (batch_size / world_size,)."""
        return draws(self.seed, number, "flip").random(self.batch_size)[self._mine] < 0.5
