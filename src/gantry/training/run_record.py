"""Opens, continues and closes a run's record: its config, environment, exports, film and status."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from gantry.core.config.overrides import short_keys, split_overrides, swept
from gantry.core.errors import PeerFailed, reason
from gantry.core.files import PACKAGED, ROOT, read_json
from gantry.core.processes import parent_watch
from gantry.core.processes.signals import stoppable, stopped_by, undisturbed
from gantry.core.redaction import as_yaml, brief, redact
from gantry.runs.find_checkpoint import BEGAN
from gantry.runs.folder import CONFIG_FILE, ENVIRONMENT, GENERATOR, STARTED_IN, TAGS_FILE, read_values
from gantry.runs.sweep_record import PARENT_RUN, SWEEP_FILE
from gantry.runs.tracking import variables
from gantry.runs.tracking.deliver import deliver, has_left
from gantry.runs.tracking.environment import environment, git_state
from gantry.runs.tracking.folder_tracker import FolderTracker
from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.params import CHANGED
from gantry.runs.tracking.status import FOLDER
from gantry.runs.tracking.tracker import DatasetInfo, Tracker, Trackers
from gantry.training.resume import Start, parameters

if TYPE_CHECKING:
    from gantry.data.images import ImageSet
    from gantry.training.distributed.peers import Peers


log = logging.getLogger(__name__)
NAMED = ("model", "data", "seed")  # options that a run's name holds anyway
NAME_LIMIT = 240  # characters; MLflow's databases take 250
SUBFOLDERS = 3  # levels of folders, at most, in which a job's folder lies under its sweep's
RESUMED = "gantry.resumed"  # tag: the steps at which a run was resumed, and the changed options


def open_tracker(
    cfg: DictConfig, folder: Path, tags: dict[str, str], data: ImageSet, protocol: dict[str, Any], start: Start
) -> Tracker:
    """Open the record of a run in its folder and, unless `tracking=none`, in MLflow."""
    (folder / CONFIG_FILE).write_text(as_yaml(cfg, resolve=True), encoding="utf-8")
    (folder / ENVIRONMENT).write_text(json.dumps(environment(), indent=2) + "\n")
    params = parameters(cfg)
    tags = (
        tags
        | {"seed": str(cfg.seed), FOLDER: str(folder), STARTED_IN: str(Path.cwd())}
        | ({} if PACKAGED.is_dir() else git_state(ROOT))  # an installed wheel may lie in another project's checkout
        | {f"metrics.{name}": str(value) for name, value in protocol.items()}
    )
    began = {name: value for name, value in read_values(folder / TAGS_FILE).items() if name.startswith(BEGAN)}
    tags |= began
    local = FolderTracker(folder)
    local.log_params(params)
    local.set_tags(tags)
    trackers: list[Tracker] = [local]
    if cfg.tracking:
        channels, height, width = data.shape
        trackers.append(
            MLflowTracker(
                cfg.tracking.uri,
                cfg.tracking.experiment,
                folder,
                run_name=redact(_name(cfg, folder, tags)),
                tags=tags,
                # MLflow's parallel coordinates and scatter plots show params and metrics only.
                params={name: tags[name] for name in ("variant", "dataset")}
                | params
                | {name.removeprefix("gantry."): value for name, value in began.items()},
                dataset=DatasetInfo(
                    name=data.name,
                    digest=data.digest,
                    source=data.source,
                    split=data.split,
                    images=len(data),
                    shape=(height, width, channels),
                    classes=len(data.classes or ()),
                ),
                parent_run_id=os.environ.get(PARENT_RUN),
                close_timeout=cfg.tracking.close_timeout,
                continues=start.run_id,
                goes_on=start.goes_on,
                adopts=None if PARENT_RUN in os.environ else variables.assigned_run(),
            )
        )
    tracker = Trackers(*trackers)
    if start.goes_on:
        tracker.set_tags(_resumed_tags(folder, params, start))
    tracker.log_artifact(folder / CONFIG_FILE)
    tracker.log_artifact(folder / ENVIRONMENT)
    return tracker


def _name(cfg: DictConfig, folder: Path, tags: Mapping[str, str]) -> str:
    """Return the run's name in MLflow: the chosen one; the default one with what else its sweep varies."""
    name = str(cfg.tracking.run_name)
    record = next((found for up in folder.parents[:SUBFOLDERS] if (found := read_json(up / SWEEP_FILE))), None)
    if record is None or name != f"{tags.get('variant')}-{tags.get('dataset')}-{cfg.seed}":
        return name
    options = swept(split_overrides(tags.get("overrides", "")), record["overrides"])
    options = {key: value for key, value in options.items() if key not in NAMED and not key.startswith("tracking")}
    words = [f"{key}={value}" for key, value in zip(short_keys(list(options)), options.values(), strict=True)]
    text = " ".join([name, *words])
    return text if len(text) <= NAME_LIMIT else f"{text[: NAME_LIMIT // 2]}… {folder.name[-NAME_LIMIT // 3 :]}"


def _resumed_tags(folder: Path, params: dict[str, str], start: Start) -> dict[str, str]:
    """Return tags with the step of a resumed run and its changed values, since MLflow's params cannot change."""
    before = read_values(folder / TAGS_FILE)
    here = f"at step {start.step}" + (f" with {', '.join(start.changes)}" if start.changes else "")
    said = {RESUMED: "; ".join(filter(None, [before.get(RESUMED), here]))}
    if start.changes:
        changed = {change.partition(" ")[0] for change in start.changes}
        values = json.loads(before.get(CHANGED, "{}")) | {key: params[key] for key in changed & params.keys()}
        said[CHANGED] = json.dumps(values)
    return said


def deliver_rest(cfg: DictConfig, folder: Path) -> None:
    """Deliver to MLflow what is left of a finished run that was killed while it closed; a failure is only logged."""
    if not cfg.tracking or not has_left(folder):
        return
    try:
        deliver(folder, cfg.tracking.uri)
    except Exception as error:
        log.warning("MLflow has not been told the rest of %s: %s", folder, brief(error))


@contextmanager
def recorded(tracker: Tracker, folder: Path, peers: Peers) -> Iterator[None]:
    """Log the exports and the film of a run and close its record with the right status, however the run ends.

    One rank's failure ends all ranks; where this rank's main thread hangs, another thread closes its record.
    """
    from gantry.training.callbacks.film import film_logged

    def give_up(failure: PeerFailed) -> None:
        print(failure, file=sys.stderr, flush=True)
        tracker.close("FAILED", failure.reason)

    film = film_logged(tracker, folder) if peers.first else nullcontext()
    with closed_truthfully(tracker), generators_logged(tracker, folder), film, peers.blame(give_up):
        yield


@contextmanager
def generators_logged(tracker: Tracker, folder: Path) -> Iterator[None]:
    """Log the exported generators, however the run ends."""
    try:
        yield
    finally:
        for file in sorted((folder / GENERATOR).glob("*/[!.]*")):
            tracker.log_artifact(file, f"{GENERATOR}/{file.parent.name}")


@contextmanager
def closed_truthfully(tracker: Tracker) -> Iterator[None]:
    """Close the record with the run's status: FINISHED, FAILED with the error, or KILLED by a signal."""
    with stoppable():
        try:
            yield
        except BaseException as error:
            with undisturbed():
                number = stopped_by(error)
                if number is None:
                    tracker.close("FAILED", reason(error))
                else:
                    tracker.close("KILLED", parent_watch.reason() or f"stopped by {number.name}")
            if number == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise
        else:
            with undisturbed():
                tracker.close("FINISHED")
