"""Creates objects from config nodes."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from gantry.core.errors import UserError


def maker(node: DictConfig | dict[str, Any]) -> Callable[..., Any]:
    """Return a function that calls a node's `_target_` with the node's options and arguments given later.

    Arguments passed to `instantiate` itself would be converted to config, and errors would be wrapped.

    Raises:
        UserError: a `_target_` cannot be imported.
    """
    try:
        return instantiate(node, _partial_=True, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ImportError):  # a name in a user's own module, which was not read
            why = " ".join(str(error.__cause__).split())
            named = re.search(r"'(.+?)'", why)  # Hydra names the one, which may lie deeper in `node`
            raise UserError(f"{named[1]} cannot be made: {why}" if named else why) from error
        raise


def called_often(made: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that a node with `_partial_: true` wraps, for calls in a loop.

    Hydra's own partial checks at every call whether its target is allowed, which takes half a millisecond; call it
    once before the loop to make that check.
    """
    return partial(made.func, *made.args, **made.keywords) if isinstance(made, partial) else made
