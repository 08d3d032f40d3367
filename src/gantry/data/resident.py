"""Keeps a data set on the device, so that a step takes indices of images instead of images."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gantry.core.processes.devices import jobs_sharing

SHARE = 0.25  # of the device's free memory, above which a data set stays in the host's
PIECE = 2**26  # bytes copied to the device at a time


def fits(images: np.ndarray, device: torch.device) -> bool:
    """Return True where the images take at most `SHARE` of the free memory of a CUDA device; False on any other.

    Jobs of a sweep that share the device count with their part of what is free.
    """
    return device.type == "cuda" and images.nbytes <= SHARE * torch.cuda.mem_get_info(device)[0] / jobs_sharing()


class Resident:
    """A data set's images on a device.

    Args:
        images: uint8 (N, C, H, W), perhaps a memory map.
        device: where they are copied to.
    """

    def __init__(self, images: np.ndarray, device: torch.device) -> None:
        self.images = torch.empty(images.shape, dtype=torch.uint8, device=device)
        count = max(1, PIECE // max(1, images[:1].nbytes))
        for begin in range(0, len(images), count):
            piece = np.ascontiguousarray(images[begin : begin + count])
            self.images[begin : begin + count] = torch.from_numpy(piece.copy() if not piece.flags.writeable else piece)

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the images of a batch, uint8 (n_critic, B, C, H, W), on the device.

        Args:
            batch: on the device: `chosen`, indices of images, int64 (n_critic, B), and where some are mirrored,
                `mirrored`, bool (n_critic, B).
        """
        chosen = batch["chosen"]
        images = self.images.index_select(0, chosen.flatten()).unflatten(0, chosen.shape)
        if "mirrored" in batch:
            images = torch.where(batch["mirrored"][..., None, None, None], images.flip(-1), images)
        return images
