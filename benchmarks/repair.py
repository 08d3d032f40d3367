"""Damaged images that a GAN has not seen, repaired by it: how far from the true ones, against filling with a mean.

    OMP_NUM_THREADS=1 python benchmarks/repair.py [run's folder] [images]

Without a folder it trains DCGAN on 1500 of the 1797 digits, which takes two minutes; a run's folder must be of one
trained with data=digits max_images=..., which leaves some out. The held-out ones, all or so many, are damaged in three
ways and repaired, the first 100 of them also with one thing changed. Prints Markdown, writes repair-cpu.png beside
itself.
"""

import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.utils import save_image

from gantry.core.randomness import draws
from gantry.data.sources import digits
from gantry.generation.latent import projection
from gantry.runs.generator_files import load_generator
from gantry.runs.tracking.environment import git_state

ROOT = Path(__file__).parents[1]
TRAINED_ON = 1500
COMPARED = 100
SHOWN = 10
CHANGES = {  # what is changed in projection.py or in the call
    "as above": {},
    "one start": dict(starts=1),
    "100 steps": dict(steps=100),
    "no expected value where the damage is": dict(CONSENSUS=0.0),
    "an expected value of three times the weight": dict(CONSENSUS=0.3),
    "no prior": dict(PRIOR=0.0),
    "a prior of three times the weight": dict(PRIOR=0.01),
}


def train(folder: Path) -> None:
    """A run of DCGAN on a part of the digits."""
    arguments = [f"max_images={TRAINED_ON}", "tracking=none", f"hydra.run.dir={folder}"]
    subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], check=True, stdout=sys.stderr)


def divided(count: int) -> tuple[Tensor, Tensor]:
    """The digits a run with max_images=count is trained on, and the others: uint8 (n, 1, 8, 8)."""
    data = digits(cache=Path())
    part = {image.tobytes() for image in data.part(count).images}
    others = [image for image in data.images if image.tobytes() not in part]  # a twin of a trained one is not held out
    return torch.from_numpy(data.part(count).images), torch.from_numpy(np.stack(others))


def masks(count: int, size: int) -> dict[str, Tensor]:
    """Bool (count, 1, size, size) each, True where damaged."""
    square, lower = (torch.zeros(1, 1, size, size, dtype=torch.bool) for _ in range(2))
    square[..., size // 4 : -(size // 4), size // 4 : -(size // 4)] = True
    lower[..., size // 2 :, :] = True
    scattered = torch.from_numpy(draws(0, 0, "damage").random((count, 1, size, size)) < 0.5)
    return {
        "central quarter": square.expand(count, -1, -1, -1),
        "lower half": lower.expand(count, -1, -1, -1),
        "half of the pixels": scattered,
    }


def distance(images: Tensor, true: Tensor, where: Tensor) -> float:
    """Root mean squared difference, grey levels, over the pixels of all images where the mask is."""
    return float((images.float() - true.float())[where].square().mean().sqrt())


def mean_of_known(images: Tensor, mask: Tensor) -> Tensor:
    known = (~mask).float()
    mean = (images * known).sum((1, 2, 3), keepdim=True) / known.sum((1, 2, 3), keepdim=True)
    return torch.where(mask, mean, images.float())


def repair(network: nn.Module, z_dim: int, images: Tensor, mask: Tensor, **changes: float) -> Tensor:
    constants = {name: value for name, value in changes.items() if name.isupper()}
    options = {name: value for name, value in changes.items() if not name.isupper()}
    with patch.dict(vars(projection), constants):
        found = projection.project(network, z_dim, torch.where(mask, 0, images), mask, **options)
    assert found.repaired is not None
    return found.repaired


def draw(path: Path, rows: list[Tensor]) -> None:
    """Rows of images, uint8 (n, 1, H, W) each, enlarged."""
    tiles = torch.cat([row.float() / 255 for row in rows]).repeat_interleave(6, 2).repeat_interleave(6, 3)
    save_image(tiles, path, nrow=len(rows[0]), padding=4, pad_value=0.5)


def main(folder: Path, count: int | None) -> None:
    trained_on = OmegaConf.load(folder / "config.yaml").max_images
    exported = folder / "generator" / "best"
    network = load_generator(exported)
    z_dim = OmegaConf.load(exported / "generator.json").z_dim
    train_images, images = divided(trained_on)
    images = images[:count]
    average = train_images.float().mean(0).expand_as(images)
    tags = git_state(ROOT)
    dirty = " with changes" if tags["git.dirty"] == "true" else ""
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, ", end="")
    print(f"{torch.get_num_threads()} threads, commit {tags['git.commit'][:7]}{dirty}; {len(images)} held-out images\n")
    print("| damage | the known pixels' mean | the training set's mean image | projection |\n| --- | --- | --- | --- |")
    rows = [images[:SHOWN]]
    for name, mask in masks(len(images), images.shape[-1]).items():
        mean = mean_of_known(images, mask)
        repaired = repair(network, z_dim, images, mask)
        shown = [f"{distance(filled, images, mask):.1f}" for filled in (mean, average, repaired)]
        print(f"| {name} | {' | '.join(shown)} |", flush=True)
        damaged = torch.where(mask, 128, images)
        by_average = torch.where(mask, average.round().byte(), images)
        rows += [row[:SHOWN] for row in (damaged, repaired, by_average)]
    draw(Path(__file__).with_name("repair-cpu.png"), rows)

    some = images[:COMPARED]
    damages = masks(len(images), images.shape[-1])
    print(f"\n| the first {len(some)} | {' | '.join(damages)} |\n| --- {'| --- ' * len(damages)}|")
    for name, changes in CHANGES.items():
        shown = []
        for mask in damages.values():
            own = mask[: len(some)]
            shown.append(f"{distance(repair(network, z_dim, some, own, **changes), some, own):.1f}")
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    count = int(sys.argv[2]) if len(sys.argv) > 2 else None
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), count)
    else:
        with tempfile.TemporaryDirectory() as made:
            train(Path(made) / "run")
            main(Path(made) / "run", count)
