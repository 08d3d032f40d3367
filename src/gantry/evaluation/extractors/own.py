"""Uses a network of the user as the extractor."""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from gantry.core.errors import UserError
from gantry.data.images import ImageSet
from gantry.evaluation.extractors.extractor import NetworkExtractor
from gantry.evaluation.extractors.weights import design_of, digest_of, read, state_of, understood


def own(
    *,
    network: nn.Module,
    name: str,
    data: ImageSet,
    weights: str | None = None,
    batch_size: int = 64,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> NetworkExtractor:
    """Return an extractor around a network of yours.

    Its digest, which identifies cached features and scores, is that of its weights and of its modules' plain attributes
    (numbers, text, lists of them). After a change of its code, choose another `name`.

    Args:
        network: maps uint8 (n, C, H, W), the data set's own images (with alpha, three channels on their ground), to
            float features (n, d), or to the pair of them and logits (n, k). It does its own resizing and scaling.
        name: its part of the scores' names: `fid_<name>-<first digits of its digest>_5k`.
        data: the images to be measured.
        weights: file of its state dict, a dict of tensors; without it the network is used as built.
        batch_size: images at a time.
        cache: unused; every extractor accepts it.
        device: where the network runs.

    Raises:
        UserError: the file cannot be read, or is not of this network; the network does not map two of the images
            to features of that shape.
    """
    if weights:
        path, content, _ = read(weights)
        with understood(path, f"the state dict of {type(network).__name__}"):
            network.load_state_dict(state_of(content))
    extractor = NetworkExtractor(
        network=network,
        name=name,
        digest=hashlib.sha256(f"{digest_of(network)} {design_of(network)}".encode()).hexdigest(),
        resize="its own",
        device=torch.device(device),
        batch_size=batch_size,
    )
    shown = torch.from_numpy(data.images[:2].copy())
    try:
        features, logits = extractor(shown)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"extractor.network: {name} cannot look at images {tuple(shown.shape)}: {error}") from error
    for what, seen in (("features", features), ("logits", logits)):
        if seen.ndim != 2 or len(seen) != len(shown):
            raise UserError(f"extractor.network: {name} must give {what} (n, d), not {tuple(seen.shape)} for n=2")
    return replace(extractor, has_logits=logits.shape[1] > 0)
