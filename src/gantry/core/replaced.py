"""Replaces an attribute of a library within a context; `unittest.mock`, which does so too, imports asyncio."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    """Within this context, let the attribute `name` of a class or module be `new`."""
    before = vars(owner)[name]  # a static method, say, and not what it is called by
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, before)
