"""A config as MLflow params, and text without passwords."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VALUE_LIMIT = 6000  # characters, MLflow's for a param's value
KEY_LIMIT = 250

# Passwords may hold / and @ unescaped: after a colon, all up to the last @ is hidden, rather than too little.
_USERINFO = re.compile(r"://(?:[^\s/:@]*:\S*|[^\s/?#]*)@")
_QUERY = re.compile(r"(?i)([?&](?:password|passwd|pwd|token|secret|access_key)=)[^&\s\"']*")
# Names of environment variables that hold secrets; values shorter than this are too common to be looked for in text.
_SECRET = re.compile(r"(?i)(?:TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?|APIKEY|_KEY|_PWD)(?:_|$)")
_LEAST = 8

HIDDEN = "***"
CHANGED = "gantry.changed"  # tag: JSON of the params that a run was taken up with and did not begin with


def redact(text: str) -> str:
    """`text` with what is secret in it written as ***.

    That is the user and password and the secret parameters of every address, and the values of environment
    variables whose names say that they hold a token, a password, a secret or a key.
    """
    for value in _secrets():
        text = text.replace(value, HIDDEN)
    return _QUERY.sub(rf"\1{HIDDEN}", _USERINFO.sub(f"://{HIDDEN}@", text))


def _secrets() -> list[str]:
    """The longest first, since one may hold another; a file's path is none."""
    values = {value for name, value in os.environ.items() if len(value) >= _LEAST and _SECRET.search(name)}
    return sorted((value for value in values if not (value[0] in "/~" and Path(value).exists())), key=len, reverse=True)


def brief(error: BaseException, limit: int = 200) -> str:
    """An error in a line without passwords; what lies under a network library's is said first."""
    root = error
    while (under := root.__cause__ or root.__context__) is not None:
        root = under
    text = " ".join(redact(f"{root}" if root is error else f"{root} ({error})").split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """A nested, resolved config as flat text: `{"model": {"lr": 2e-4}}` becomes `{"model.lr": "0.0002"}`.

    Lists, numbers, booleans and empty mappings are written as JSON; text stays as it is. Passwords in
    addresses are hidden, characters MLflow does not take in a key become `_`, and what exceeds MLflow's
    lengths is cut.
    """
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = re.sub(r"[^\w\-. :/]", "_", str(key))
        if isinstance(value, Mapping) and value:
            flat |= {f"{name}.{inner}"[:KEY_LIMIT]: text for inner, text in flatten(value).items()}
        else:
            text = redact(value if isinstance(value, str) else json.dumps(value, default=str))
            flat[name[:KEY_LIMIT]] = text if len(text) <= VALUE_LIMIT else text[: VALUE_LIMIT - 1] + "…"
    return flat
