"""Delivers to MLflow the events that runs logged while it was away:

    python -m gantry.runs.tracking.deliver [folder ...] [tracking.uri=http://user:password@host:5000]

The folders are runs, or contain runs; by default `outputs` of the current folder. Delivered events are removed from
`undelivered.jsonl`; a run that the store never created is created. It can be stopped and repeated at any time.
Exit codes: 0 nothing is left, 1 something is, 2 a wrong argument, 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from gantry.core.errors import UserError
from gantry.core.output import shown
from gantry.core.processes.locks import held, is_held
from gantry.core.redaction import brief, redact
from gantry.runs.folder import REFUSED as REFUSED_FILE
from gantry.runs.folder import RUN_FILE, UNDELIVERED, read_status
from gantry.runs.tracking import variables
from gantry.runs.tracking.already_logged import replenish
from gantry.runs.tracking.delivery import Delivery
from gantry.runs.tracking.events import Ended, Image, Metrics
from gantry.runs.tracking.identity import RunPlan, read_plan
from gantry.runs.tracking.journal import Journal
from gantry.runs.tracking.session import RunSession
from gantry.runs.tracking.status import HOST, end_run, last_word, lives_elsewhere
from gantry.runs.tracking.store import check_store, locate

OPTION = "tracking.uri="
USAGE = f"usage: python -m gantry.runs.tracking.deliver [folder ...] [{OPTION}address]"
TRIES, PAUSE = 3, 1.0  # attempts at a batch; seconds between them
DONE, LEFT, REFUSED, INTERRUPTED = 0, 1, 2, 130


def has_left(folder: Path) -> bool:
    """Return True where the run in `folder` has undelivered events, or MLflow has not created it yet."""
    plan = read_plan(folder)
    return plan is not None and (plan.run_id is None or (folder / UNDELIVERED).exists())


def deliver(folder: Path, uri: str | None = None) -> tuple[int, int]:
    """Deliver the remaining events of the run in `folder` and set its final status in MLflow. Waits for the store.

    Args:
        uri: the store's address; None for the one in the run's record.

    Returns:
        The number of events delivered, and the number of those that MLflow refused.

    Raises:
        UserError: the run is running, here or elsewhere, or the address of its store is not known.
        Exception: whatever MLflow raises; undelivered events stay.
    """
    with held(folder, "the run in"):
        plan = read_plan(folder)
        if plan is None or not has_left(folder):
            return 0, 0  # another process has delivered it meanwhile
        if uri is not None:
            plan = replace(plan, uri=uri)
        elif (full := variables.full_address(plan.uri)) is not None:
            plan = replace(plan, uri=full)
        if plan.password_hidden:
            raise UserError(f"the password of {plan.uri} is not kept: give {OPTION}address, or {variables.URI}")
        check_store(plan.uri)
        return _deliver(folder, plan)


def _deliver(folder: Path, plan: RunPlan) -> tuple[int, int]:
    session, journal = RunSession(plan, folder, lives=False), Journal(folder)
    delivery = Delivery(session, journal)
    _tried(session.connect)
    assert session.run_id is not None
    run = session.client.get_run(session.run_id)
    if run.info.status == "RUNNING" and lives_elsewhere(run) and read_status(folder)[0] is None:
        raise UserError(f"the run in {folder} is still running on {run.data.tags[HOST]}")
    count, ended, latest = 0, False, None
    while batch := journal.take(aside=True):
        waits = journal.aside
        _tried(partial(delivery.send, batch, last=journal.waiting == waits))
        count += len(batch) if journal.aside <= waits else 0
        last = batch[-1]
        ended = isinstance(last, Ended)
        latest = last.time if isinstance(last, Metrics | Image) else latest
    session.check_files()
    replenish(session.client, session.run_id, folder)
    if not ended and (read_status(folder)[0] is not None or _is_running(session)):
        end_run(session.client, session.run_id, *last_word(folder), latest)
    journal.clear()
    return count, delivery.refused


def _is_running(session: RunSession) -> bool:
    assert session.run_id is not None
    return bool(session.client.get_run(session.run_id).info.status == "RUNNING")


def _tried(call: Callable[[], None]) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except Exception as error:
            if attempt == TRIES or isinstance(error, UserError):
                raise
            time.sleep(PAUSE)


def find_runs(given: Sequence[str]) -> list[Path]:
    """Return the folders of the runs that the arguments name.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    folders: list[Path] = []
    for folder in [Path(text).expanduser().absolute() for text in given] or [Path("outputs").absolute()]:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; name runs' folders, or one that holds runs\n{USAGE}")
        runs = sorted(file.parent for file in folder.rglob(RUN_FILE))
        if not runs:
            raise UserError(f"{folder} holds no run that MLflow was to hear of, which has a {RUN_FILE}\n{USAGE}")
        folders += [run for run in runs if run not in folders]
    return folders


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    addresses = [text.removeprefix(OPTION) for text in arguments if text.startswith(OPTION)]
    given = [text for text in arguments if not text.startswith(OPTION)]
    try:
        if wrong := [text for text in given if text.startswith("-") or ("=" in text and not Path(text).exists())]:
            raise UserError(f"{redact(wrong[0])}: no such option\n{USAGE}")
        variables.drop_empty()
        address = addresses[-1] if addresses else None
        if address is not None:
            check_store(address)
        runs = [folder for folder in find_runs(given) if has_left(folder)]
    except UserError as error:
        print(error, file=sys.stderr)
        return REFUSED
    left = [folder for folder in runs if not _report_delivery(folder, address, named=bool(given))]
    if not runs:
        print("nothing is left to deliver")
    return LEFT if left else DONE


def _report_delivery(folder: Path, address: str | None, named: bool) -> bool:
    """Deliver a run and print the outcome in a line; return True where MLflow now has all of it."""
    try:
        if is_held(folder):
            raise UserError("it is still running, and delivers itself")
        count, refused = deliver(folder, address if named or _is_recorded(folder, address) else None)
        other = _other_store(folder) if address is None else ""
    except UserError as error:
        print(f"{folder}: {redact(str(error))}", flush=True)
        return False
    except Exception as error:  # whatever MLflow, the network or a server's answer raises
        print(f"{folder}: not delivered: {brief(error)}", flush=True)
        return False
    kept = f", of which MLflow refused {refused}: see {folder / REFUSED_FILE}" if refused else ""
    print(f"{folder}: {count} events delivered{other}{kept}", flush=True)
    return not refused


def _other_store(folder: Path) -> str:
    """Say to which store a run was delivered, where MLflow's variable names another than the one it began in."""
    plan, uri = read_plan(folder), variables.store_uri()
    if plan is None or uri is None or plan.uri == redact(locate(uri).tracking_uri):
        return ""
    return f" to {plan.uri}, in which the run began ({variables.URI} names another; {OPTION}... delivers there)"


def _is_recorded(folder: Path, address: str | None) -> bool:
    """Return True where `address` without its password is the one in the run's record."""
    plan = read_plan(folder)
    return address is not None and plan is not None and plan.uri == redact(locate(address).tracking_uri)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    try:
        with shown():
            sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
