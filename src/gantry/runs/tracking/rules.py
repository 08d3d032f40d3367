"""Refuses a tracking store that cannot work."""

from collections.abc import Iterator

from gantry.core.config.schema import Config
from gantry.core.errors import UserError
from gantry.runs.tracking import variables
from gantry.runs.tracking.store import locate


def wrong_store(config: Config) -> Iterator[str]:
    """Yield an error where `tracking.uri` is not a folder, an SQLite file, a server or a database."""
    if "tracking.uri" in config.options:
        uri = config.value("tracking.uri")
        by_variable = uri is not None and uri == variables.store_uri()
        try:
            locate(uri if isinstance(uri, str) else "")
        except UserError as error:
            where = f" (from {variables.URI})" if by_variable else ""
            yield f"tracking.uri{where}: {str(error).removeprefix('tracking.uri')[1:]}"
