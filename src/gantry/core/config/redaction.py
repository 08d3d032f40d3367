"""Redacts passwords and tokens in what Hydra and logging write."""

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
    """Redact the text in plain nested values; done before writing, since YAML and JSON escape characters."""
    if isinstance(tree, dict):
        return {key: hidden(child) for key, child in tree.items()}
    if isinstance(tree, list):
        return [hidden(child) for child in tree]
    return redact(tree) if isinstance(tree, str) else tree


def as_yaml(config: DictConfig | ListConfig, resolve: bool = False) -> str:
    """Return a config as redacted YAML; interpolations stay unless `resolve`."""
    tree = hidden(OmegaConf.to_container(config, resolve=resolve))
    return OmegaConf.to_yaml(OmegaConf.create(tree, flags={"allow_objects": True}))


def traceback_of(error: BaseException) -> str:
    """Return the traceback as Python prints it, redacted."""
    return redact("".join(traceback.format_exception(error)))


@contextmanager
def kept_out() -> Iterator[None]:
    """Within this context, redact Hydra's own records of a run (.hydra/*.yaml, multirun.yaml) and all logs.

    Hydra writes them before Gantry's code runs, and a password that is redacted later has already been on the disk.
    """

    def save(config: DictConfig, filename: str, output_dir: Path) -> None:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / filename).write_text(as_yaml(config), encoding="utf-8")

    def save_sweep(config: Any, f: Any, resolve: bool = False) -> None:
        whole = config if OmegaConf.is_config(config) else OmegaConf.create(config)
        Path(f).write_text(as_yaml(whole, resolve), encoding="utf-8")

    answer = hydra_utils.JobReturn.return_value

    def return_value(self: hydra_utils.JobReturn) -> Any:
        self.overrides = hidden(list(self.overrides or ()))  # Hydra prints them when a job fails
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
