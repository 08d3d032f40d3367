"""Passwords and tokens stay out of what Hydra and logging write."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hydra.core import utils as hydra_utils
from omegaconf import DictConfig, ListConfig, OmegaConf

from gantry.core.text import redact


def hidden(tree: Any) -> Any:
    """Plain nested values with the text in them redacted: before it is written, since YAML and JSON would escape it."""
    if isinstance(tree, dict):
        return {key: hidden(child) for key, child in tree.items()}
    if isinstance(tree, list):
        return [hidden(child) for child in tree]
    return redact(tree) if isinstance(tree, str) else tree


def as_yaml(config: DictConfig | ListConfig, resolve: bool = False) -> str:
    """A config as YAML, redacted; interpolations as they are, unless `resolve`."""
    tree = hidden(OmegaConf.to_container(config, resolve=resolve))
    return OmegaConf.to_yaml(OmegaConf.create(tree, flags={"allow_objects": True}))


def traceback_of(error: BaseException) -> str:
    """As Python prints it, redacted."""
    return redact("".join(traceback.format_exception(error)))


@contextmanager
def kept_out() -> Iterator[None]:
    """Within it Hydra's own records of a run (.hydra/*.yaml, multirun.yaml) and all logs are redacted.

    Hydra writes them before any code of ours runs; what is written in clear and mended later has been on the disk.
    """

    def save(config: DictConfig, filename: str, output_dir: Path) -> None:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / filename).write_text(as_yaml(config), encoding="utf-8")

    def save_sweep(config: Any, f: Any, resolve: bool = False) -> None:
        whole = config if OmegaConf.is_config(config) else OmegaConf.create(config)
        Path(f).write_text(as_yaml(whole, resolve), encoding="utf-8")

    answer = hydra_utils.JobReturn.return_value

    def return_value(self: hydra_utils.JobReturn) -> Any:
        self.overrides = hidden(list(self.overrides or ()))  # of a job that has failed Hydra prints them
        return answer.fget(self)  # type: ignore[attr-defined]

    plain = logging.Formatter.format

    def format(self: logging.Formatter, record: logging.LogRecord) -> str:
        return redact(plain(self, record))

    with (
        patch.object(hydra_utils, "_save_config", save),
        patch.object(OmegaConf, "save", staticmethod(save_sweep)),
        patch.object(hydra_utils.JobReturn, "return_value", property(return_value, answer.fset)),  # type: ignore[attr-defined]
        patch.object(logging.Formatter, "format", format),
    ):
        yield
