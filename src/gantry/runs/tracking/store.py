"""Locates, checks and opens the tracking store; the first process to open it creates it."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gantry.core.errors import UserError
from gantry.core.redaction import redact
from gantry.runs.tracking.tracker import log

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


PAGE = 1000  # runs per request
LOCK_TIMEOUT = 60.0  # seconds; creating the tables takes about two


@dataclass(frozen=True)
class Location:
    """A store's address for MLflow, and the folder of its lock and artifacts (None: a server stores them)."""

    tracking_uri: str
    folder: Path | None = None
    database: Path | None = None


def locate(uri: str | Path) -> Location:
    """Return the store that `tracking.uri` names.

    Args:
        uri: a folder (holding `mlflow.db` and `artifacts`), `sqlite:///<path>` (artifacts beside it),
            `http(s)://host`, or `postgresql://` or `mysql://` with an optional `+driver` (artifacts in
            `mlruns/artifacts` of the current folder: MLflow stores only rows in the database).

    Raises:
        UserError: it is none of these.
    """
    text = str(uri)
    scheme = text.split(":", 1)[0].lower() if re.match(r"[A-Za-z][\w+.-]*:/", text) else ""
    if scheme in ("http", "https"):
        if not urlsplit(text).hostname:
            raise UserError(f"tracking.uri={redact(text)} names no host; write http://host:5000.")
        return Location(text)
    if scheme.split("+")[0] in ("postgresql", "mysql"):
        return Location(text, folder=Path("mlruns").absolute())
    if scheme == "sqlite":
        path = text[len("sqlite:///") :].split("?")[0]
        if not text.startswith("sqlite:///") or path in ("", ":memory:"):
            raise UserError(f"tracking.uri={text} names no file; write sqlite:////absolute/path/mlflow.db.")
        return _sqlite(Path(path).absolute())
    if scheme:
        raise UserError(
            f"tracking.uri={redact(text)}: '{scheme}' is not a store Gantry can use. Valid: a folder, "
            "sqlite:///path/mlflow.db, http://host:5000, https://..., postgresql://..., mysql://..."
        )
    if not text:
        raise UserError("tracking.uri is empty; name a folder or a server, or use tracking=none.")
    return _sqlite(Path(text).expanduser().absolute() / "mlflow.db")


def _sqlite(database: Path) -> Location:
    if "?" in str(database):
        raise UserError(f"tracking.uri: SQLite cannot open a path with a '?' in it: {database}")
    return Location(f"sqlite:///{database}", folder=database.parent, database=database)


def check_store(uri: str | Path) -> None:
    """Refuse early a store that cannot work, without importing MLflow or contacting a server.

    Raises:
        UserError: MLflow is not installed, the address is malformed, or the folder cannot be written.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise UserError("MLflow is not installed: pip install 'gantry-gan[tracking]', or use tracking=none.")
    location = locate(uri)
    if location.folder is not None:
        try:
            location.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=location.folder).close()
        except OSError as error:
            raise UserError(
                f"Cannot write the tracking folder {location.folder} ({error.strerror}); "
                "name another with tracking.uri=/path, or use tracking=none."
            ) from error
    if location.database is not None and location.database.exists():
        _check_database(location.database)


def _check_database(database: Path) -> None:
    if not database.is_file() or not os.access(database, os.R_OK | os.W_OK):
        raise UserError(f"The tracking database {database} cannot be written; name another with tracking.uri=/path.")
    with database.open("rb") as file:
        head = file.read(16)
    if head and head != b"SQLite format 3\0":
        raise UserError(f"{database} is not an SQLite database; move it away, or name another with tracking.uri=/path.")


def ui_command(uri: str | Path) -> str:
    """Return the command that opens MLflow's UI; for a server, its address."""
    location = locate(uri)
    if location.folder is None:
        return redact(location.tracking_uri)
    return f"mlflow ui --backend-store-uri {shlex.quote(redact(location.tracking_uri))}"


def prepare_store(uri: str | Path, experiment: str) -> tuple[MlflowClient, str]:
    """Open the store; create it and the experiment where they are missing.

    MLflow's creation of tables fails when two processes begin it at once, so a local store is opened under a file
    lock. Artifacts get an absolute path, since MLflow would use the current folder of the first process.

    Returns:
        A client and the experiment's id.
    """
    location = locate(uri)
    _configure_mlflow()
    from filelock import FileLock

    if location.folder is None:
        return _open(location, experiment)
    location.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(location.folder / ".mlflow.lock", timeout=LOCK_TIMEOUT):
        return _open(location, experiment)


def each_run(client: MlflowClient, experiment_id: str, condition: str, order: str | None = None) -> Iterator[Run]:
    """Yield all runs that match a filter, page by page."""
    order_by, token = None if order is None else [order], None
    while True:
        page = client.search_runs([experiment_id], condition, max_results=PAGE, order_by=order_by, page_token=token)
        yield from page
        if not (token := page.token):
            return


def tagged(tag: str, value: str) -> str:
    """Return a filter for the runs with this tag; a value with quotes or backslashes may match other runs too."""
    pattern = re.sub(r"['\\]", "_", value)
    return f"tags.`{tag}` {'=' if pattern == value else 'LIKE'} '{pattern}'"


def _open(location: Location, experiment: str) -> tuple[MlflowClient, str]:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=location.tracking_uri)
    artifacts = None if location.folder is None else (location.folder / "artifacts").as_uri()
    existing = client.get_experiment_by_name(experiment)
    if existing is None:
        try:
            return client, client.create_experiment(experiment, artifact_location=artifacts)
        except MlflowException:
            existing = client.get_experiment_by_name(experiment)  # another machine may have created it meanwhile
            if existing is None:
                raise
    if existing.lifecycle_stage == "deleted":
        log.warning("The MLflow experiment %r had been deleted; it is restored for this run.", experiment)
        client.restore_experiment(existing.experiment_id)
    return client, existing.experiment_id


def _configure_mlflow() -> None:
    """Set MLflow's environment variables for this process, except those the user has set.

    By default each call waits four minutes for an absent server; Gantry has its own queue and retries instead.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # hides its log of creating tables
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # hides a line per retry; Gantry warns once
