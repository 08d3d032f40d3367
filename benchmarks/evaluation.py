"""How long an FID takes from two folders of images: evaluate.py, the first time and again, against torch-fidelity.

python benchmarks/evaluation.py [images in each folder] [pixels a side] [rounds]

Every one of the three runs once a round, as a process of its own, in an order that rotates; ratios are taken within
a round. The network has random weights, which take as long as others.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch_fidelity import feature_extractor_inceptionv3 as inception

ROOT = Path(__file__).parents[1]
THEIRS = """
import sys
import torch_fidelity
generated, real, weights = sys.argv[1:]
found = torch_fidelity.calculate_metrics(
    input1=generated, input2=real, fid=True, cuda=False, verbose=False, cache=False,
    feature_extractor_weights_path=weights,
)
print("fid", found["frechet_inception_distance"])
"""


def write_images(folder: Path, count: int, size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + random.integers(-20 - 10 * seed, 21 + 10 * seed, smooth.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06d}.png")


def write_weights(path: Path) -> None:
    inception.FeatureExtractorInceptionV3.load_state_dict = lambda self, state: None
    inception.load_state_dict_from_url = lambda *args, **kwargs: {}
    state = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).state_dict()
    generator = torch.Generator().manual_seed(0)
    for key, value in state.items():
        if key.endswith("conv.weight") or key == "fc.weight":
            state[key] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
    torch.save({key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}, path)


def timed(command: list[str], folder: Path, cache: Path) -> tuple[float, float]:
    """Seconds, and the FID it printed."""
    began = time.perf_counter()
    environment = os.environ | {"GANTRY_CACHE": str(cache)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(done.stderr)
    value = re.search(r"^ *fid\S* +(\S+)", done.stdout, re.MULTILINE)
    assert value is not None, done.stdout
    return seconds, float(value[1])


def main(count: int, size: int, rounds: int) -> None:
    seconds: dict[str, list[float]] = {"torch-fidelity": [], "first": [], "second": []}
    values: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, kind in enumerate(("real", "generated")):
            write_images(folder / kind, count, size, seed)
        write_weights(folder / "weights.pth")
        theirs = [sys.executable, "-c", THEIRS, "generated", "real", "weights.pth"]
        images = ["images=generated", "data=image_folder", f"data.folder={folder}/real", f"data.image_size={size}"]
        how = [f"n={count}", "measures=[fid]", f"extractor.weights={folder}/weights.pth", "tracking=none"]
        ours = [sys.executable, str(ROOT / "evaluate.py"), *images, *how]
        for number in range(rounds):
            order = ["torch-fidelity", "first", "second"]
            for kind in order if number % 2 == 0 else [*order[1:], order[0]]:
                command = theirs if kind == "torch-fidelity" else ours
                taken, values[kind] = timed(command, folder, folder / f"cache{number}")
                seconds[kind].append(taken)
                print(f"round {number + 1}: {kind} {taken:.1f} s, FID {values[kind]:.6g}", file=sys.stderr, flush=True)
    print(
        f"{count} images of {size} pixels a side, {torch.get_num_threads()} threads, medians of {rounds} rounds (range)"
    )
    print(f"| {'':14} | {'seconds':>8} | {'of its time':>18} | {'FID':>10} |")
    print("| --- | --- | --- | --- |")
    for kind, taken in seconds.items():
        ratios = [mine / their for mine, their in zip(taken, seconds["torch-fidelity"], strict=True)]
        share = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"| {kind:14} | {statistics.median(taken):8.1f} | {share:>18} | {values[kind]:10.7g} |")


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    main(*(given + [2200, 32, 3][len(given) :]))
