from pathlib import Path

import pytest
from compared import SHARES
from report_helpers import PARAMS, PROTOCOL, log_run, make_job, make_sweep

from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.sweep_run import open_parent


@pytest.fixture(scope="session")
def mlruns(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests, since creating its tables takes seconds."""
    return str(tmp_path_factory.mktemp("here") / "mlruns")


@pytest.fixture(scope="session")
def tracked(mlruns: str) -> tuple[Path, str, Path]:
    """A sweep in MLflow with one job's folder here, one's elsewhere, and one that never began."""
    here = Path(mlruns).parent
    folder = here / "outputs" / "2026-01-01" / "10-00-00_sweep"
    parent = open_parent(mlruns, "gantry", "sweep outputs/2026-01-01/10-00-00_sweep", ["model=wgan,dcgan"], folder)
    assert parent is not None
    for variant, place in (("dcgan", folder / "0_dcgan"), ("wgan", here / "another machine" / "1_wgan")):
        make_job(place, variant, classes=SHARES)
        tags = {"variant": variant, "seed": "0", "gantry.folder": str(folder / place.name)} | PROTOCOL
        tracker = MLflowTracker(
            mlruns, "gantry", place, run_name=variant, tags=tags, params=PARAMS, parent_run_id=parent
        )
        log_run(tracker, final=1.0 if variant == "wgan" else 2.0)
        tracker.close("FINISHED")
    jobs = {"0_dcgan": ["model=dcgan"], "1_wgan": ["model=wgan"], "2_sngan": ["model=sngan"]}
    return make_sweep(folder, jobs, parent, mlruns), parent, here
