"""Reads the versions of a registered model: their tags, which are usable, and which is the champion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gantry.core.errors import UserError
from gantry.core.redaction import brief

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


CHAMPION = "champion"  # alias of the best version
DIGEST, RUN, ALPHA = "sha256", "run_id", "alpha"  # tags of a version; the last only of images that have it
MODEL = "generator"  # name of the logged model, and of the artifact in it that holds the generator
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's error codes for a missing version or alias


def versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return the usable versions of a model, the newest last; empty if there is no such model."""
    ready = [one for one in client.search_model_versions(f"name='{name}'") if one.status == "READY"]
    return sorted(ready, key=lambda one: int(one.version))


def champion_of(client: MlflowClient, name: str) -> ModelVersion | None:
    """Return the version with the champion's alias; None if no version has it."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


@contextmanager
def mlflow_errors(what: str) -> Iterator[None]:
    """Within this context, convert errors of MLflow, the network and the disk to a `UserError` of one line.

    Args:
        what: the option in use, with which the message begins.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise UserError(f"{what} failed: {brief(error)}") from error
