"""Refuses a tracking store that cannot work."""

from collections.abc import Iterator

from gantry.core.config.schema import Config
from gantry.core.errors import UserError
from gantry.runs.tracking.store import locate


def wrong_store(config: Config) -> Iterator[str]:
    """MLflow's stores: a folder, a SQLite file, a server or a data base."""
    if "tracking.uri" in config.options:
        uri = config.value("tracking.uri")
        try:
            locate(uri if isinstance(uri, str) else "")
        except UserError as error:
            yield f"tracking.uri: {str(error).removeprefix('tracking.uri')[1:]}"
