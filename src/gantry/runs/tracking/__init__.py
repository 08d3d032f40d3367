"""Records a run in its folder and in MLflow. Importing this package imports no MLflow."""

from gantry.core.redaction import redact
from gantry.runs.folder import Status
from gantry.runs.tracking.folder_tracker import FolderTracker
from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.params import flatten
from gantry.runs.tracking.store import check_store, ui_command
from gantry.runs.tracking.tracker import DatasetInfo, Tracker, Trackers, rolled_back

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
