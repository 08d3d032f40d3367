"""What an evaluation costs on a GPU, by part: Inception in each of its forms, drawing, and the metrics.

    PYTHONPATH=src python benchmarks/gpu_evaluation.py [images] [batches] [rounds] [count] [dimensions]

Defaults: 1000 50,250,500 3 50000 2048 on a GPU, in about two minutes; 8 4 1 400 64 on a CPU, to see that it runs. It
needs torch, torchvision and numpy. The rows of Inception need torch-fidelity too (`pip install --no-deps
torch-fidelity` and tqdm), as does the Inception Score; they are left out without. The weights are the official file if
torch.hub's folder has it, else random. Prints Markdown.

Forms of Inception take turns on the same images; "times" is the median over the rounds of the quotient with
torch-fidelity's own in IEEE float32 within each. "away" is the greatest distance of a feature from its features, over
the largest; "FID away", of the first batch size, is the relative difference of the distance between the two halves of
the images, which differ.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from gantry.core.captured import Captured
from gantry.core.determinism import Products, float32_products, whole_float32
from gantry.evaluation.extractors import folded_inception
from gantry.evaluation.extractors.extractor import Colour, NetworkExtractor
from gantry.evaluation.extractors.inception import INCEPTION, inception, plain
from gantry.evaluation.metrics.fid import fid_spread, frechet
from gantry.evaluation.metrics.fid_infinity import fid_infinity
from gantry.evaluation.metrics.inception_score import inception_score
from gantry.evaluation.metrics.kid import kid
from gantry.evaluation.metrics.precision_recall import manifold, radii
from gantry.evaluation.moments import moments, reference
from gantry.models.networks.dcgan import Generator
from gantry.models.sampling import generate

SIZE = 32  # pixels
Look = Callable[[Tensor], Tensor]


def package(error: ModuleNotFoundError) -> str:
    return str(error.name).partition(".")[0]


def waited(device: torch.device) -> float:
    """The time once the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    began = waited(device)
    call()
    return waited(device) - began


def forms(weights: Path, batch: int, products: Products, device: torch.device) -> Iterator[tuple[str, Look]]:
    """Name and function of each form of Inception, which maps uint8 images to features on the CPU."""
    content = weights.read_bytes()
    theirs = plain(content, 2048).to(device).eval()

    def reference_look(images: Tensor) -> Tensor:
        with torch.no_grad(), float32_products(products):
            return torch.cat([theirs(part.to(device))[0].cpu() for part in images.split(batch)])

    yield "torch-fidelity", reference_look
    made: dict[str, NetworkExtractor] = {}
    ours = inception(weights=str(weights), device=device)
    made["Gantry, plain, graph"] = replace(inception(weights=str(weights), fast=False, device=device), graph=True)
    made["Gantry, form for CPUs"] = replace(ours, network=Colour(folded_inception.Folded(plain(content, 2048), 2048)))
    merged = Colour(folded_inception.Merged(plain(content, 2048), 2048))
    made["Gantry, form for GPUs"] = replace(ours, network=merged)
    made["Gantry, form for GPUs, graph"] = replace(ours, network=merged, graph=True)
    made["the same, bias apart"] = made["Gantry, form for GPUs, graph"]
    for name, one in made.items():
        extractor = replace(one, batch_size=batch, products=products, graph="graph" in name or "same" in name)
        apart = mock.patch.object(folded_inception, "_one_kernel", return_value=None)

        def look(images: Tensor, extractor: NetworkExtractor = extractor, apart=apart if "apart" in name else None):
            if apart is None:
                return extractor(images).features
            with apart:
                return extractor(images).features

        yield name, look


def halves_apart(features: Tensor, device: torch.device) -> float:
    """The Frechet distance between the two halves of features (n, d)."""
    first, second = (moments(half, copy=half.to(device)) for half in features.chunk(2))
    return frechet(reference(first), second)


def extractors(count: int, batches: list[int], rounds: int, device: torch.device) -> list[str]:
    """The table of Inception's forms; one line that says why where torch-fidelity is missing."""
    try:
        from extractor import pictures, random_weights
    except ModuleNotFoundError as error:
        return [f"(Inception: left out, since {package(error)} is not installed)"]
    images = pictures(count, SIZE).to(device)
    rows = ["| products | batch | form | images a second | times | away | FID away |", "|" + " --- |" * 7]
    with tempfile.TemporaryDirectory() as folder:
        weights = INCEPTION.path
        if not weights.exists():
            weights = Path(folder) / "random.pth"
            random_weights(weights)
        exact: Tensor | None = None
        distance, apart = 0.0, ""
        kinds: tuple[Products, ...] = ("ieee", "tf32") if has_tf32(device) else ("ieee",)
        for batch in batches:
            base: list[float] = []
            for products in kinds:
                looks = dict(forms(weights, batch, products, device))
                features = {name: look(images) for name, look in looks.items()}  # the first call captures
                if exact is None:
                    exact = features["torch-fidelity"]
                    distance = halves_apart(exact, device)
                taken = turns(looks, images, rounds, device)
                base = base or taken["torch-fidelity"]
                for name, seconds in taken.items():
                    away = ((features[name] - exact).abs().max() / exact.abs().max()).item()
                    if batch == batches[0]:
                        apart = f"{abs(halves_apart(features[name], device) / distance - 1):.0e}"
                    times = statistics.median(a / b for a, b in zip(base, seconds, strict=True))
                    rate = count / statistics.median(seconds)
                    rows.append(f"| {products} | {batch} | {name} | {rate:.1f} | {times:.2f} | {away:.0e} | {apart} |")
            apart = ""
    return rows if len(kinds) > 1 else [*rows, "", f"(TF32: left out, since this {device.type} device has none)"]


def turns(looks: dict[str, Look], images: Tensor, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """The seconds of each function, by round; they take turns, in an order that rotates."""
    taken: dict[str, list[float]] = {name: [] for name in looks}
    names = list(looks)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            taken[name].append(seconds_of(lambda look=looks[name]: look(images), device))
    return taken


def has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def drawing(count: int, device: torch.device) -> list[str]:
    """How many images a DCGAN draws, 512 at a time, called and as a graph."""
    generator = Generator(z_dim=128, image_shape=(3, SIZE, SIZE)).eval().to(device)
    z = torch.randn(512, 128)
    ways: dict[str, Callable[[], object]] = {"drawing": lambda: generate(generator, z)}
    rows = []
    try:
        captured = Captured(lambda z: generate(generator, z), z.to(device))
        ways["drawing, graph"] = lambda: captured(z)
    except RuntimeError as error:
        rows.append(f"| drawing, graph | | left out: {str(error).splitlines()[0]} |")
    times = -(-count // 512)
    for name, draw in ways.items():
        draw()
        seconds = seconds_of(lambda draw=draw: [draw() for _ in range(times)], device)
        rows.append(f"| {name} | {seconds:.2f} | {512 * times / seconds:.0f} images a second |")
    return rows


def metrics(count: int, dimensions: int, device: torch.device) -> list[str]:
    """The seconds of the metrics of `count` real and as many generated images' features, on the device."""
    random = torch.Generator().manual_seed(0)
    deviations = torch.arange(1, dimensions + 1) ** -0.7
    real, generated = (torch.randn(count, dimensions, generator=random) * scale * deviations for scale in (1, 1.1))

    def keep(name: str, call: Callable[[], object]) -> str:
        return f"| {name} | {seconds_of(call, device):.2f} | |"

    rows = [keep("features to the device", lambda: [side.to(device) for side in (real, generated)])]
    real_there, there = real.to(device), generated.to(device)
    known, mine = moments(real, copy=real_there), moments(generated, copy=there)
    rows.append(keep("moments", lambda: moments(generated, copy=there)))
    for place in dict.fromkeys((device, torch.device("cpu"))):
        rows.append(keep(f"distance: root, on {place.type}", lambda place=place: reference(known.to(place))))
        root = reference(known.to(place))
        rows.append(keep(f"distance, on {place.type}", lambda root=root: frechet(root, mine)))
    root = reference(known)
    rows.append(keep("spread", lambda: fid_spread(root, there, mine)))
    rows.append(keep("fid_infinity", lambda: fid_infinity(root, generated, 0, there)))
    rows.append(keep("neighbours of real images", lambda: radii(real_there)))
    radii_there = radii(real_there)
    rows.append(keep("neighbours", lambda: manifold(real_there, there, radii_there)))
    for name, call in (("kid", lambda: kid(real_there, there)), ("inception_score", lambda: inception_score(there))):
        try:
            rows.append(keep(name, call))
        except ModuleNotFoundError as error:
            rows.append(f"| {name} | | left out, since {package(error)} is not installed |")
    return rows


def table(
    device: torch.device, images: int, batches: list[int], rounds: int, count: int, dimensions: int
) -> Iterator[str]:
    """Yield all lines, in Markdown; for `benchmarks/gpu.py` too."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    yield f"torch {torch.__version__}, {name}. Inception: {images} images of {SIZE} pixels.\n"
    with whole_float32():
        yield from extractors(images, batches, rounds, device)
        yield f"\n{count} images; features ({count}, {dimensions}) on either side.\n"
        yield "| part | seconds | |"
        yield "| --- | --- | --- |"
        yield from drawing(count, device)
        yield from metrics(count, dimensions, device)


def main() -> None:
    """Measure, and print as it goes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    defaults = ["1000", "50,250,500", "3", "50000", "2048"] if device.type == "cuda" else ["8", "4", "1", "400", "64"]
    images, batches, rounds, count, dimensions = sys.argv[1:] + defaults[len(sys.argv) - 1 :]
    sizes = [int(size) for size in batches.split(",")]
    for line in table(device, int(images), sizes, int(rounds), int(count), int(dimensions)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
