"""Decides where metrics compute: on the extractor's GPU where the features fit there, else on the CPU."""

import torch
from torch import Tensor

SHARE = 4  # features may take this part of a GPU's free memory: blocks of distances and products want some too


def computing(device: torch.device) -> torch.device:
    """Return `device` if it is of CUDA, which computes in float64 too; else the CPU."""
    return device if device.type == "cuda" else torch.device("cpu")


def placed(device: torch.device, *features: Tensor) -> tuple[Tensor, ...]:
    """Return the features, each (n, d), on the device that computes with them: all on a GPU, or none."""
    device = computing(device)
    if device.type == "cpu":
        return features
    free, _ = torch.cuda.mem_get_info(device)
    fit = SHARE * sum(one.nbytes for one in features if one.device != device) <= free
    return tuple(one.to(device) for one in features) if fit else tuple(one.cpu() for one in features)
