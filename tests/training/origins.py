"""Weights that a run begins with, as tests write and find them."""

import io

import torch

from gantry.training.init_from.origin import find_origin

SMALL = ["experiment=smoke", "model=dcgan", "data.image_size=16", "model.z_dim=4"]


def written(gan, step=7, **more):
    content = io.BytesIO()
    torch.save({"state_dict": gan.state_dict(), "global_step": step} | more, content)
    return content.getvalue()


def nowhere():
    """No store."""


def found(word, tmp_path):
    return find_origin(str(word), nowhere, tmp_path / "cache")
