"""Converts a config to MLflow params, with passwords hidden."""

import json
import re
from collections.abc import Mapping
from typing import Any

from gantry.core.redaction import redact

VALUE_LIMIT = 6000  # characters that MLflow accepts in a param's value
KEY_LIMIT = 250
CHANGED = "gantry.changed"  # tag: JSON of the params that changed when the run was resumed


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """Flatten a nested, resolved config to text: `{"model": {"lr": 2e-4}}` becomes `{"model.lr": "0.0002"}`.

    Lists, numbers, booleans and empty mappings are written as JSON; text stays as it is. Passwords in
    addresses are hidden, characters that MLflow refuses in a key become `_`, and keys and values are cut to
    MLflow's limits.
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
