"""Objects made from config nodes."""

from collections.abc import Callable
from functools import partial
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig


def maker(node: DictConfig | dict[str, Any]) -> Callable[..., Any]:
    """What a node's `_target_` makes of the node's options and of arguments given later.

    Given to `instantiate` itself, objects would be taken for config, and errors wrapped.
    """
    return instantiate(node, _partial_=True, _convert_="all")


def called_often(made: Callable[..., Any]) -> Callable[..., Any]:
    """What a node with `_partial_: true` stands for, for calls in a loop.

    Hydra examines at every call of its own kind of partial whether it may, which takes half a millisecond: so call
    that once before.
    """
    return partial(made.func, *made.args, **made.keywords) if isinstance(made, partial) else made
