# ruff: noqa: E402 (torch reads the environment when it is imported)
"""Hashes of what four training steps leave, in float32 on the CPU, by the plainest code that every library has.

    python tests/models/bits.py [> tests/models/bits.json]

So asked, torch, oneDNN and BLAS round alike on every x86-64 processor. The hashes say what training was before a change
of the code around it: write them anew only where a change is meant to change the numbers.
"""

import hashlib
import json
import os
import struct
import sys
import warnings
from pathlib import Path

PLAIN = {
    **{"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    **{"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    **{"CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "0"},
}
if __name__ == "__main__" and any(os.environ.get(name) != value for name, value in PLAIN.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | PLAIN)  # torch reads them when imported

sys.path.insert(0, str(Path(__file__).parents[1]))

from gantry.core.fast_imports import lean_imports

with lean_imports():  # as a run does: seconds less
    import pytorch_lightning  # noqa: F401

import torch
from hydra import compose, initialize_config_dir
from project import ROOT
from small import bare_trainer

from gantry.core.config.instantiate import maker
from gantry.data.batches import Batches
from gantry.training.model import build_model

WIDTHS = ["model.generator.width=8", "model.discriminator.width=8"]
COMMON = ["data=digits", "tracking=none", "paths.root=/none", "paths.cache=/none", "batch_size=16", "steps=4"]
R1_R2 = ",".join(f"{{_target_:gantry.models.penalties.{name},gamma:1.0,every:2}}" for name in ("R1", "R2"))
GP = "{_target_:gantry.models.penalties.GradientPenalty,weight:10.0,every:2}"
CASES = {
    "vanilla": ["model=vanilla"],
    **{name: [f"model={name}", *WIDTHS] for name in ("dcgan", "lsgan", "wgan", "wgan_gp", "sngan", "r3gan")},
    "infogan": ["model=infogan", *WIDTHS],
    "dcgan accumulate=2": ["model=dcgan", *WIDTHS, "accumulate=2"],
    "wgan_gp max_grad_norm=1": ["model=wgan_gp", *WIDTHS, "model.max_grad_norm=1.0"],
    "r3gan every=2": ["model=r3gan", *WIDTHS, f"model.penalties=[{R1_R2}]"],
    "wgan_gp every=2": ["model=wgan_gp", *WIDTHS, f"model.penalties=[{GP}]"],
    "sngan resnet": ["model=sngan", "model/network=resnet", "model.n_critic=2", "data.image_size=16", *WIDTHS],
    "dcgan 32 pixels": ["model=dcgan", *WIDTHS, "data.image_size=32"],
    "dcgan flip seed=3": ["model=dcgan", *WIDTHS, "data.flip=true", "seed=3"],
    "lsgan layer norms": ["model=lsgan", *WIDTHS, "model.generator.norm=instance", "model.discriminator.norm=layer"],
    "dcgan fused=false": ["model=dcgan", *WIDTHS, "+model.optimizer.fused=false"],
    "wgan_gp max_grad_norm=0.1": ["model=wgan_gp", *WIDTHS, "model.max_grad_norm=0.1"],
    "wgan_gp accumulate=2 clip": ["model=wgan_gp", *WIDTHS, "accumulate=2", "model.max_grad_norm=0.1"],
    "dcgan ema off": ["model=dcgan", *WIDTHS, "model.ema.half_life=0"],
    "vanilla spectral": ["model=vanilla", "model.discriminator.norm=spectral", "model.generator.norm=layer"],
}


def digest(value):
    """The first digits of a hash of tensors, numbers and text in dicts and lists."""
    hashed = hashlib.sha256()
    _feed(hashed, "", value)
    return hashed.hexdigest()[:16]


def _feed(hashed, name, value):
    hashed.update(name.encode())
    if isinstance(value, torch.Tensor):
        array = value.detach().contiguous().numpy()
        hashed.update(f"{array.dtype}{array.shape}".encode() + array.tobytes("C"))
    elif isinstance(value, float):
        hashed.update(struct.pack("<d", value))
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            _feed(hashed, f"{name}/{key}", value[key])
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _feed(hashed, f"{name}/{index}", item)
    else:
        hashed.update(repr(value).encode())


def state(network):
    """The state_dict, and the buffers it leaves out."""
    return dict(network.state_dict()) | {f"buffer {name}": value for name, value in network.named_buffers()}


def trained(overrides):
    """Hashes of what the steps of one case leave, by whose they are."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [*COMMON, *overrides])
    data = maker(cfg.data)(cache=Path("/none"))
    gan, _ = build_model(cfg, data)
    initial, records, step = digest([state(gan.generator), state(gan.discriminator)]), [], gan.training_step
    gan.training_step = lambda *batch: (records.append(step(*batch)), records[-1])[1]
    trainer = bare_trainer(cfg.steps, precision="32-true", devices=1)
    trainer.fit(gan, Batches(data, cfg.batch_size * cfg.accumulate, gan.real_batches, cfg.seed))
    generator_optimizer, discriminator_optimizer = (optimizer.state_dict()["state"] for optimizer in trainer.optimizers)
    return {
        "initial": initial,
        "generator": digest(state(gan.generator)),
        "discriminator": digest(state(gan.discriminator)),
        "averaged": digest(state(gan.averaged.module)),
        "whole state_dict": digest(dict(gan.state_dict())),
        "generator optimizer": digest(generator_optimizer),
        "discriminator optimizer": digest(discriminator_optimizer),
        "records": digest([{name: float(value) for name, value in record.items()} for record in records]),
    }


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = False
    torch.backends.nnpack.set_flags(False)
    hashes = {name: trained(overrides) for name, overrides in CASES.items()}
    print(json.dumps({"torch": torch.__version__.partition("+")[0], "cases": hashes}, indent=1))
