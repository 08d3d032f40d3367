"""Objects made from config nodes."""

from collections.abc import Callable
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig


def maker(node: DictConfig | dict[str, Any]) -> Callable[..., Any]:
    """What a node's `_target_` makes of the node's options and of arguments given later.

    Given to `instantiate` itself, objects would be taken for config, and errors wrapped.
    """
    return instantiate(node, _partial_=True, _convert_="all")
