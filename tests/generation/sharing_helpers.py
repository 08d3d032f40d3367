"""What tests of exports share: small generators with weights of their own, and interpreters with little installed."""

import importlib.util
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement

from gantry.models.labels import Classes
from gantry.models.networks import conditional_dcgan, conditional_mlp, conditional_resnet, dcgan, mlp, resnet
from gantry.runs.generator_files import save_generator

Z_DIM = 6
WITH_LABELS = {
    "conditional_mlp": conditional_mlp.ConditionalGenerator,
    "conditional_dcgan": conditional_dcgan.ConditionalGenerator,
    "conditional_resnet": conditional_resnet.ConditionalGenerator,
}
NETWORKS = {
    "mlp": (mlp.Generator, {"norm": "layer"}, [1, 8, 8]),
    "dcgan": (dcgan.Generator, {"width": 4, "norm": "batch"}, [3, 16, 16]),
    "resnet": (resnet.Generator, {"width": 4, "norm": "instance"}, [1, 12, 12]),
}
LATENTS = f"torch.randn(5, {Z_DIM}, generator=torch.Generator().manual_seed(1))"


def exported(folder, kind, step=7, classes=None, **arguments):
    """An exported generator in eval mode whose statistics and weights are not those of a fresh one; returns it."""
    network = kind(**arguments)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(0, 0.3)  # as they begin, images are all but flat
        labels = [] if classes is None else [torch.arange(16) % len(classes)]
        network.train()(torch.randn(16, arguments["z_dim"]), *labels)
    config = {"_target_": f"{kind.__module__}.{kind.__qualname__}"} | arguments
    save_generator(folder, network, config, step, classes)
    return network.eval().requires_grad_(False)


CLASSES = Classes(("cat", "dog", "a, b"), (0.5, 0.25, 0.25))


def small_with_labels(folder, name="conditional_dcgan", classes=CLASSES, **more):
    """One of our networks that take labels, exported to `folder`; returns it."""
    shape = {"image_shape": [1, 8, 8], "z_dim": Z_DIM, "n_classes": len(classes)}
    width = {} if name == "conditional_mlp" else {"width": 4}
    return exported(folder, WITH_LABELS[name], classes=classes, **width | shape | more)


def small(folder, name="dcgan"):
    """One of our networks, exported to `folder`; returns it."""
    kind, arguments, shape = NETWORKS[name]
    return exported(folder, kind, z_dim=Z_DIM, image_shape=shape, **arguments)


def images_of(network, *labels):
    """What it makes of `LATENTS`, and of five labels where it takes them."""
    with torch.inference_mode():
        return network(eval(LATENTS, {"torch": torch}), *map(torch.tensor, labels))


def required(*packages):
    """The top-level modules and packages of distributions and of all they require, but for numpy's."""
    waiting, known, found = list(packages), set(), set()
    while waiting:
        name = waiting.pop().lower()
        if name in known:
            continue
        known.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found |= {file.parts[0] for file in distribution.files or () if file.suffix in (".py", ".so")}
        for text in distribution.requires or ():
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                waiting.append(need.name)
    return {name for name in found if not name.startswith(("_", "..")) and name != "tests"}


def python_with(folder: Path, *packages: str):
    """`run(code)` in a fresh interpreter to which only these packages and what they require are installed."""
    folder.mkdir()
    for name in required(*packages):
        spec = importlib.util.find_spec(name.removesuffix(".py"))
        place = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
        if place:
            path = Path(place)
            path = path.parent if path.name == "__init__.py" else path
            (folder / path.name).symlink_to(path)

    def run(code: str) -> str:
        prepared = f"import sys; sys.path.append({str(folder)!r})\n{code}"
        # -I and -S: neither this environment's packages nor PYTHONPATH.
        command = [sys.executable, "-I", "-S", "-W", "ignore", "-c", prepared]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
