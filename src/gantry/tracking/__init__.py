"""Where a run's numbers, images and files go. Importing this package imports no MLflow."""

from gantry.tracking.base import DatasetInfo, Status, Tracker, Trackers, rolled_back
from gantry.tracking.folder import FolderTracker
from gantry.tracking.mlflow_run import MLflowTracker
from gantry.tracking.params import flatten, redact
from gantry.tracking.store import check_store, ui_command

__all__ = [
    "DatasetInfo",
    "FolderTracker",
    "MLflowTracker",
    "Status",
    "Tracker",
    "Trackers",
    "check_store",
    "flatten",
    "redact",
    "rolled_back",
    "ui_command",
]
