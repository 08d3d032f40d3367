"""Training as a tracking server sees it, and the check that the server has all of it once."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient

from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.tracker import DatasetInfo

DIGITS = DatasetInfo("digits", "d" * 64, "sklearn.datasets.load_digits", "train", 1797, (16, 16, 1), 10)
EVERY = 40  # steps between images
STEP = 0.02  # seconds


class Training:
    """Steps that are logged, in the pace of a quick training."""

    def __init__(self, uri: str | Path, folder: Path, **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.steps = 0
        self.folder = folder
        self.tracker = MLflowTracker(
            uri,
            "away",
            folder,
            params={"seed": "0"},
            tags={"gantry.folder": folder},
            dataset=DIGITS,
            **{"close_timeout": 90.0} | options,
        )
        (folder / "config.yaml").write_text("n_critic: 5")
        self.tracker.log_artifact(folder / "config.yaml")

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.steps += 1
            value = float("nan") if self.steps % 100 == 7 else self.steps / 3
            self.tracker.log_metrics({"loss": value, "score": -float(self.steps)}, self.steps)
            if self.steps % EVERY == 0:
                self.tracker.log_image(np.full((8, 8, 3), self.steps % 256, np.uint8), "samples", self.steps)
            time.sleep(STEP)

    def check(self, client: MlflowClient, status: str = "FINISHED") -> None:
        """That the store holds all of it once and in order."""
        (experiment,) = client.search_experiments(filter_string="name = 'away'")
        mine = f"tags.`gantry.folder` = '{self.folder}'"
        (run,) = client.search_runs([experiment.experiment_id], mine)
        run_id = run.info.run_id
        for key in ("loss", "score"):
            points = client.get_metric_history(run_id, key)
            assert [point.step for point in points] == list(range(1, self.steps + 1))
        times = [point.timestamp for point in points]
        assert times == sorted(times)
        assert [point.value for point in points] == [-float(step) for step in range(1, self.steps + 1)]
        names = [Path(file.path).name for file in client.list_artifacts(run_id, "images")]
        pictures = sorted(int(name.split("+")[2]) for name in names if name.endswith(".png"))
        assert pictures == list(range(EVERY, self.steps + 1, EVERY))
        assert len(names) == 2 * len(pictures)  # each has its thumbnail
        assert "config.yaml" in [file.path for file in client.list_artifacts(run_id)]
        run = client.get_run(run_id)
        assert [given.dataset.name for given in run.inputs.dataset_inputs] == ["digits"]
        assert run.data.params == {"seed": "0"}
        assert run.info.status == status
        assert not list(self.folder.glob("undelivered*"))
        assert not (self.folder / "refused.jsonl").exists()
