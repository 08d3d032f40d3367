"""Locates, checks and opens the tracking store; the first process to open it creates it."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shlex
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from gantry.core.errors import UserError
from gantry.core.redaction import HIDDEN, redact
from gantry.core.text import show
from gantry.runs.tracking import variables
from gantry.runs.tracking.addresses import keep_inside, local_path, location_of, needs_correction, place_default
from gantry.runs.tracking.tracker import log

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run


PAGE = 1000  # runs per request
DATABASE = "mlflow.db"  # in a store's folder
# An address as .env files and shells spoil it, in quotes or after a space, or without its http://.
ADDRESS = re.compile(r"^[^/]*[A-Za-z][\w+.-]*://|^[\w.-]+:\d+(/|$)")
SCHEME = re.compile(r"([A-Za-z][\w+.-]*):")
SERVICES = ("databricks", "databricks-uc", "uc")  # which MLflow takes without a colon too
VALID = "a folder, sqlite:///path/mlflow.db, http://host:5000, https://..., postgresql://..., mysql://..."
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
        uri: a folder (holding `mlflow.db` and `artifacts`), `sqlite:///<path>` (artifacts beside it; `%xx` stands for
            a character, as in any address), `http(s)://host`, or `postgresql://` or `mysql://` with an optional
            `+driver` (artifacts in `mlruns/artifacts` of the current folder: MLflow stores only rows in the database).

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
        path = unquote(text[len("sqlite:///") :].split("?")[0])
        if not text.startswith("sqlite:///") or path in ("", ":memory:"):
            raise UserError(f"tracking.uri={text} names no file; write sqlite:////absolute/path/mlflow.db.")
        return _sqlite(Path(path).absolute())
    if scheme or text in SERVICES:
        raise UserError(_no_store(text, scheme or text))
    if not text.strip():
        raise UserError("tracking.uri is empty; name a folder or a server, or use tracking=none.")
    folder = Path(text).expanduser().absolute()
    if ADDRESS.search(text) and not folder.exists():
        raise UserError(
            f"tracking.uri={redact(text)} looks like an address, and would be taken for a folder: write "
            f"http://host:5000, without quotes or spaces around it; or the absolute path of a folder"
        )
    if (named := SCHEME.match(text)) and not folder.exists():
        raise UserError(f"{_no_store(text, named[1])}; as a folder it is typed ./{text}")
    return _sqlite(folder / DATABASE)


def _no_store(text: str, scheme: str) -> str:
    """Return the message for an address of a kind that Gantry does not use."""
    what = f"the service '{scheme}'" if scheme in SERVICES else f"'{scheme}'"
    return f"tracking.uri={redact(text)}: {what} is not a store Gantry can use. Valid: {VALID}"


def _sqlite(database: Path) -> Location:
    """Return the store of a database file; two slashes at the start, which a path keeps, would name a host."""
    database = Path(re.sub("^//+", "/", str(database)))
    return Location(sqlite_address(database), folder=database.parent, database=database)


def sqlite_address(database: Path) -> str:
    """Return the address of a database file.

    SQLAlchemy decodes `%xx` in an address and ends the path at a question mark, so these two characters are encoded.
    """
    return "sqlite:///" + str(database).replace("%", "%25").replace("?", "%3F")


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
        _correct(location.database)


def _correct(database: Path) -> None:
    """Correct the addresses of files in a folder store that was copied or moved; a failure is only logged."""
    try:
        if needs_correction(database):
            keep_inside(database)
    except (sqlite3.Error, OSError) as error:
        log.warning("The addresses in %s cannot be checked: %s", database, error)


def _check_database(database: Path) -> None:
    if not database.is_file() or not os.access(database, os.R_OK | os.W_OK):
        raise UserError(f"The tracking database {database} cannot be written; name another with tracking.uri=/path.")
    with database.open("rb") as file:
        head = file.read(16)
    if head and head != b"SQLite format 3\0":
        raise UserError(f"{database} is not an SQLite database; move it away, or name another with tracking.uri=/path.")


def ui_command(uri: str | Path, port: int | None = None) -> str:
    """Return the command that opens MLflow's UI, at its own port or another; for a server, its address."""
    location = locate(uri)
    if location.folder is None:
        return redact(location.tracking_uri)
    chosen = f" --port {port}" if port else ""
    return with_secrets(f"mlflow ui --backend-store-uri {shlex.quote(redact(location.tracking_uri))}{chosen}")


def with_secrets(command: str) -> str:
    """Return a command, with a comment that says what to put in place of what is hidden in its addresses."""
    return f"{command}  # {HIDDEN} stands for user:password" if HIDDEN in command else command


def where_tracked(uri: str | Path, experiment: str) -> str:
    """Return a line that says where a run is tracked, which of MLflow's variables say so, and where its files go.

    The files are mentioned only if somebody has put them outside a folder store.
    """
    location = locate(uri)
    place, files = redact(location.tracking_uri), ""
    if location.folder is not None and location.database is not None:
        is_ours = location.database.name == DATABASE
        place = show(location.folder if is_ours else location.database)
        with suppress(sqlite3.Error):  # the database has no tables yet
            address = location_of(location.database, experiment)
            path = local_path(address)
            if address is not None and (path is None or not path.is_relative_to(location.folder)):
                files = f", its files in {redact(address)}"
    return f"tracked in {place}, experiment {experiment}{files}{variables.said(str(uri), experiment)}"


def prepare_store(uri: str | Path, experiment: str, by_id: bool = False) -> tuple[MlflowClient, str]:
    """Open the store; create it and the experiment where they are missing.

    MLflow's creation of tables fails when two processes begin it at once, so a local store is opened under a file
    lock. Artifacts get an absolute path, since MLflow would use the current folder of the first process.

    Args:
        uri, experiment: the store and the experiment.
        by_id: whether `experiment` is an id; one that a variable gives by its id is known for such.

    Returns:
        A client and the experiment's id.
    """
    location = locate(uri)
    _configure_mlflow()
    from filelock import FileLock

    if location.folder is None:
        return _open(location, experiment, by_id)
    location.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(location.folder / ".mlflow.lock", timeout=LOCK_TIMEOUT), _no_stray_folder(location):
        is_new = location.database is not None and not location.database.exists()
        opened = _open(location, experiment, by_id)
        if location.database is not None:
            (place_default if is_new else _correct)(location.database)
            if "%" in location.tracking_uri:
                opened[0].search_registered_models(max_results=1)  # opens the registry, which makes that folder too
        return opened


@contextmanager
def _no_stray_folder(location: Location) -> Iterator[None]:
    """Remove the empty folder that MLflow makes for an SQLite address, in which it does not decode %25 and %3F."""
    written = Path(location.tracking_uri.removeprefix("sqlite:///")).parent
    made = [] if location.database is None or written == location.folder else [written, *written.parents]
    made = [folder for folder in made if not folder.exists()]
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # it is not empty, or was never made
                folder.rmdir()


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


def _open(location: Location, experiment: str, by_id: bool) -> tuple[MlflowClient, str]:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=location.tracking_uri)
    artifacts = None if location.folder is None else (location.folder / "artifacts").as_uri()
    existing = find_experiment(client, experiment, by_id)
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


def find_experiment(client: MlflowClient, name: str, by_id: bool = False) -> Experiment | None:
    """Return the experiment of this name, deleted or not, or of this id if `by_id`, or if a variable gives it.

    Raises:
        UserError: there is no experiment of that id.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None or not (by_id or variables.is_id(name)):
        return found
    try:
        return client.get_experiment(name)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise UserError(
            f"{variables.ID}={name}: no such experiment in {redact(client.tracking_uri)}; {variables.NAME} names one"
        ) from error


def _configure_mlflow() -> None:
    """Set MLflow's environment variables for this process, except those the user has set.

    By default each call waits four minutes for an absent server; Gantry has its own queue and retries instead.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # its "View run" among Gantry's own lines
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # hides its log of creating tables
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # hides a line per retry; Gantry warns once
