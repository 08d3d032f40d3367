"""What looking at an image with Inception costs: torch-fidelity's extractor, ours plain, and ours fast.

    python benchmarks/extractor.py [images] [sizes] [rounds] [weights]

The three take turns on the same images, and medians over `rounds` count; "times as fast" is the median over the rounds
of the quotient within each. Defaults: 128 32,150 7; on a GPU 2048 32,150 7. Without a file of weights they are random.
Prints Markdown.

`away` is the greatest distance of a feature from torch-fidelity's, over the largest feature. `FID away` is the relative
difference of the distance between the two halves of the images.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as theirs

from gantry.evaluation.extractors.inception import inception
from gantry.evaluation.metrics.fid import fid
from gantry.evaluation.moments import moments

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
THEIR_BATCH = 64  # torch-fidelity's default


def random_weights(path: Path) -> None:
    """Write a state dict that torch-fidelity's network loads."""
    with (
        mock.patch.object(theirs.FeatureExtractorInceptionV3, "load_state_dict", return_value=None),
        mock.patch.object(theirs, "load_state_dict_from_url", return_value={}),
    ):
        network = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    random = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.copy_(torch.randn(module.weight.shape, generator=random) * (2 / fan_in) ** 0.5)
        elif isinstance(module, nn.BatchNorm2d):
            module.running_var.copy_(0.75 + torch.rand(module.running_var.shape, generator=random) / 2)
    torch.save({k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}, path)


def pictures(count: int, size: int) -> Tensor:
    """Smooth random images, uint8 (count, 3, size, size), in their second half darker."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (count, 3, 4, 4), generator=random).float()
    images = nn.functional.interpolate(coarse, (size, size), mode="bilinear").to(torch.uint8)
    return torch.cat([images[: count // 2], images[count // 2 :] // 2])


def compare(count: int, size: int, rounds: int, weights: Path) -> list[str]:
    """The rows of one size of image."""
    network = theirs.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=weights
    ).to(DEVICE)

    def reference(images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([network(batch.to(DEVICE))[0].cpu() for batch in images.split(THEIR_BATCH)])

    plain, fast = (inception(weights=str(weights), fast=fast, device=DEVICE) for fast in (False, True))
    ways = {
        "torch-fidelity": reference,
        "fast: false": lambda images: plain(images).features,
        "fast: true": lambda images: fast(images).features,
    }
    images = pictures(count, size)
    for look in ways.values():
        look(images[:THEIR_BATCH])
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    features = {}
    for number in range(rounds):
        order = list(ways)
        for way in order[number % 3 :] + order[: number % 3]:
            began = time.perf_counter()
            features[way] = ways[way](images)
            seconds[way].append(time.perf_counter() - began)
    distances = {way: fid(moments(f[: count // 2]), f[count // 2 :]) for way, f in features.items()}
    exact, distance = features["torch-fidelity"], distances["torch-fidelity"]
    rows = []
    for way, taken in seconds.items():
        rates = sorted(count / t for t in taken)
        times = statistics.median(a / b for a, b in zip(seconds["torch-fidelity"], taken, strict=True))
        away = ((features[way] - exact).abs().max() / exact.abs().max()).item()
        rows.append(
            f"| {size} | {way} | {statistics.median(rates):.1f} ({rates[0]:.1f} to {rates[-1]:.1f}) | {times:.2f} | "
            f"{away:.0e} | {abs(distances[way] / distance - 1):.0e} |"
        )
    return rows


def main(count: int, sizes: str, rounds: int, weights: str) -> None:
    """Measure and print."""
    on = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"`python benchmarks/extractor.py {count} {sizes} {rounds} {weights}`\n".replace(" `", "`"))
    print(f"torch {torch.__version__}, {on}. {count} images.\n")
    print("| pixels | extractor | images a second (range) | times as fast | away | FID away |")
    print("|" + " --- |" * 6, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(weights) if weights else Path(folder) / "random.pth"
        if not weights:
            random_weights(path)
        for size in map(int, sizes.split(",")):
            print("\n".join(compare(count, size, rounds, path)), flush=True)


if __name__ == "__main__":
    defaults = ["2048" if DEVICE.type == "cuda" else "128", "32,150", "7", ""]
    given = sys.argv[1:] + defaults[len(sys.argv) - 1 :]
    main(int(given[0]), given[1], int(given[2]), given[3])
