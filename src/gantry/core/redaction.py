"""Keeps passwords and tokens out of text, configs, logs and the files that Hydra writes."""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from gantry.core.replaced import replaced

# Passwords may contain / and @ unescaped: after a colon, everything up to the last @ is hidden.
_USERINFO = re.compile(r"://(?:[^\s/:@]*:\S*|[^\s/?#]*)@")
_QUERY = re.compile(r"(?i)([?&](?:password|passwd|pwd|token|secret|access_key)=)[^&\s\"']*")
# Names of environment variables that hold secrets; values shorter than `_LEAST` occur in text by chance.
_SECRET = re.compile(r"(?i)(?:TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?|APIKEY|_KEY|_PWD)(?:_|$)")
_LEAST = 8

HIDDEN = "***"


def redact(text: str) -> str:
    """Return `text` with its secrets replaced by ***.

    Secrets are the user, the password and the secret parameters of every address, and the values of environment
    variables whose names contain words such as TOKEN, PASSWORD, SECRET or KEY.
    """
    for value in _secrets():
        text = text.replace(value, HIDDEN)
    return _QUERY.sub(rf"\1{HIDDEN}", _USERINFO.sub(f"://{HIDDEN}@", text))


def _secrets() -> list[str]:
    """Return the secret values of the environment, longest first, since one may contain another; no file paths."""
    values = {value for name, value in os.environ.items() if len(value) >= _LEAST and _SECRET.search(name)}
    return sorted((value for value in values if not (value[0] in "/~" and Path(value).exists())), key=len, reverse=True)


def brief(error: BaseException, limit: int = 200) -> str:
    """Return an error in one line without passwords, root cause first, since network libraries wrap theirs."""
    root = error
    while (under := root.__cause__ or root.__context__) is not None:
        root = under
    text = " ".join(redact(f"{root}" if root is error else f"{root} ({error})").split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


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

    from hydra.core import utils as hydra_utils

    def save(config: DictConfig, filename: str, output_dir: Path) -> None:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / filename).write_text(as_yaml(config), encoding="utf-8")

    def save_sweep(config: Any, f: Any, resolve: bool = False) -> None:
        whole = config if OmegaConf.is_config(config) else OmegaConf.create(config)
        text = as_yaml(whole, resolve)
        if hasattr(f, "write"):
            f.write(text)
        else:
            Path(f).write_text(text, encoding="utf-8")

    answer = hydra_utils.JobReturn.return_value

    def return_value(self: hydra_utils.JobReturn) -> Any:
        self.overrides = hidden(list(self.overrides or ()))  # Hydra prints them when a job fails
        return answer.fget(self)  # type: ignore[attr-defined]

    plain = logging.Formatter.format

    def format(self: logging.Formatter, record: logging.LogRecord) -> str:
        return redact(plain(self, record))

    with (
        replaced(hydra_utils, "_save_config", save),
        replaced(OmegaConf, "save", staticmethod(save_sweep)),
        replaced(hydra_utils.JobReturn, "return_value", property(return_value, answer.fset)),  # type: ignore[attr-defined]
        replaced(logging.Formatter, "format", format),
    ):
        yield
