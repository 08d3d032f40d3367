"""Reads MLflow's environment variables, which choose the store, the experiment and the run for its own tools too.

conf/tracking/mlflow.yaml takes the store and the experiment from them where neither the command line nor a config of
the user's names one. `mlflow run` sets the run's id.
"""

from __future__ import annotations

import os

from gantry.core.errors import UserError
from gantry.core.redaction import HIDDEN, redact

URI, NAME, ID, RUN = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"
EXPERIMENT = "gantry"  # where nothing names another
KEPT = "GANTRY_STORE_KEPT"  # set where a run that goes on has set the others, for the processes it starts


def drop_empty() -> None:
    """Remove those that are empty, which MLflow takes for unset."""
    for name in (URI, NAME, ID, RUN):
        if not os.environ.get(name, "").strip():
            os.environ.pop(name, None)


def store_uri() -> str | None:
    """Return the address of the store; None where no variable names one."""
    return os.environ.get(URI) or None


def experiment() -> str | None:
    """Return the name, else the id, of the experiment; None where no variable names one."""
    return os.environ.get(NAME) or os.environ.get(ID) or None


def is_id(name: str) -> bool:
    """Return True if `name` is the experiment's id as its variable gives it."""
    return name == os.environ.get(ID) and not os.environ.get(NAME)


def assigned_run() -> str | None:
    """Return the id of the run that `mlflow run` has begun for this process; None where there is none."""
    return os.environ.get(RUN) or None


def keep(uri: str, name: str | None, by_id: bool = False) -> None:
    """Let this process and those it starts use the store of a run that goes on, if no config names another.

    Args:
        uri: the store's address.
        name: the experiment's name, or its id if `by_id`; None where it is not known.
    """
    os.environ[URI] = uri
    os.environ.pop(ID, None)
    if by_id and name is not None:
        os.environ.pop(NAME, None)
    if name is not None:
        os.environ[ID if by_id else NAME] = name
    os.environ[KEPT] = "true"


def said(uri: str, name: str) -> str:
    """Return the variables that name this store and experiment, for a message; empty where none does."""
    if KEPT in os.environ:
        return ""
    names = [URI] if uri == os.environ.get(URI) else []
    if name == os.environ.get(NAME):
        names.append(NAME)
    elif is_id(name):
        names.append(ID)
    return f" ({' and '.join(names)})" if names else ""


def full_address(redacted: str) -> str | None:
    """Return the store's address with its password, if the variable names the store of a `redacted` address."""
    uri = os.environ.get(URI)
    return uri if uri is not None and redact(uri) == redacted else None


def has_password_of(redacted: str) -> bool:
    """Return True where the variable names the store of an address that was kept without its password.

    Raises:
        UserError: the address lacks its password, and the variable does not name it.
    """
    if HIDDEN not in redacted:
        return False
    if full_address(redacted) is None:
        raise UserError(f"tracking.uri={redacted}: the password was not kept; give tracking.uri=... again, or {URI}")
    return True
