"""The options of sample.py, each declared once."""

# ruff: noqa: RUF009  (`option` and its like return `dataclasses.field`)
# No `from __future__ import annotations` here: `declared` reads the annotations as types, not as text.
from dataclasses import dataclass
from typing import Any, Literal

from gantry.core.config.declaration import group, option, text
from gantry.core.config.shared_options import Accelerator, Generator, Paths, Store

DRAWN = ("", "interpolate", "latent_grid", "between", "codes", "project")  # modes that draw images


@dataclass
class Sample(Generator):
    """python sample.py run=... [key=value ...]: images from a trained generator, and ways to hand it on.

    At most one of interpolate, latent_grid, between, codes, project, export, register and ui. Without them n=64 is a
    grid; n=50000 out=folder writes numbered PNG files, out=file.npz an archive, and the same command goes on where it
    was stopped.
    """

    run: Any = text(None, "a run's folder, id or name in MLflow, latest, best, an exported folder, a registered model")
    interpolate: int | None = option(None, "latents to walk through, such as 8: a film, or a strip", least=2)
    latent_grid: int | None = option(None, "points along a side, such as 9: the plane of two directions", least=2)
    between: int | None = option(
        None, "steps from one class to the next, such as 8: a grid with a latent a row", least=1
    )
    codes: int | None = option(
        None, "columns, such as 10: a grid in which each code of the latents is varied, in rows", least=2, most=64
    )
    project: str | None = text(None, "an image, or a folder or .npz of images: the samples nearest to them")
    export: str | None = text(None, "a folder for files that others can load")
    register: str | None = text(None, "a name in MLflow's model registry")
    ui: bool = option(False, "true: a page to look at it")
    n: int = option(64, "images; of a film, walks side by side", modes=("", "interpolate", "between"))
    class_: int | str | None = text(
        None,
        "by name or number, where the generator takes labels; null: as often as in the data, in a grid each in a row",
        least=0,
        modes=("", "interpolate", "latent_grid", "project"),
    )
    classes: list[int | str] = option(
        (),
        "[3,8], [0..9] or names: images are of these in turn, in a grid each in a row",
        typed="texts",
        least=0,
        modes=("", "interpolate", "between", "project"),
    )
    seed: int = option(0, "of the latents", least=0, most=2**63 - 1, modes=DRAWN)
    truncation: float | None = option(
        None,
        "0.7: no latent value beyond it: more typical images, less varied (Brock et al. 2019); null: no bound",
        above=0,
        modes=("", "interpolate", "latent_grid", "between"),
    )
    out: str | None = text(
        None,
        "samples: a .png, an .npz or a folder of PNG files; films: .gif, .webp, .mp4, .png for a strip",
        modes=DRAWN,
    )
    batch_size: int = option(512, "images on the device at a time; changes no image", modes=("",))
    frames: int = option(16, "of a film between two latents", modes=("interpolate",))
    directions: list[int] = option(
        (0, 1), "of a latent_grid, by their effect on the images, the strongest first", least=0, modes=("latent_grid",)
    )
    extent: float = option(
        3.0,
        "how far a latent_grid goes each way, in standard deviations of a latent's values",
        above=0,
        modes=("latent_grid",),
    )
    mask: str | None = text(
        None, "for project: an image, white where the given one is damaged and to be filled in", modes=("project",)
    )
    formats: list[Literal["safetensors", "torch_export", "onnx", "torchscript"]] = option(
        ("safetensors", "torch_export", "onnx"),
        "of an export; and torchscript, which torch phases out",
        modes=("export",),
    )
    licence: str | None = text(
        None, "of the generator, for its model card, such as CC-BY-4.0", modes=("export", "register")
    )
    metric: str | None = text(
        None,
        "by which a registered model becomes champion; null: the run's first; papers/fid: an evaluation's",
        modes=("register",),
    )
    port: int = option(8501, "of the page", modes=("ui",))
    accelerator: Accelerator = option("auto", "auto, cpu, gpu, mps", modes=DRAWN)
    devices: int | Literal["auto"] = option(
        "auto", "processes that share the images out; auto: all GPUs, one process on the processor", modes=("",)
    )
    paths: Paths = group()
    tracking: Store = group(may_be_empty=True)
