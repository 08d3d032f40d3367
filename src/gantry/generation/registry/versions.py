"""Versions of a registered model: their tags, which can be used, and which has the champion's alias."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gantry.core.errors import UserError
from gantry.core.redaction import brief

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


CHAMPION = "champion"  # alias of the version to use
DIGEST, RUN = "sha256", "run_id"  # tags of a version
MODEL = "generator"  # name of the logged model, and of the artifact in it that holds the generator
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's codes for a version or an alias that is none


def versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """The versions of a model that can be used, the newest last; none where there is no such model."""
    found = [one for one in client.search_model_versions(f"name='{name}'") if one.status == "READY"]
    return sorted(found, key=lambda one: int(one.version))


def champion_of(client: MlflowClient, name: str) -> ModelVersion | None:
    """The version with the champion's alias; None where no version has it."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


@contextmanager
def mlflow_errors(what: str) -> Iterator[None]:
    """Raise what MLflow, the network on the way to it or the disk refuse as a `UserError` of one line.

    Args:
        what: the option that asked for it, which the message begins with.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise UserError(f"{what} failed: {brief(error)}") from error
