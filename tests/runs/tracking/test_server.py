"""Against a real `mlflow server`."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.store import prepare_store

pytestmark = pytest.mark.slow  # some twenty seconds to start


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    options = getattr(request, "param", ("--artifacts-destination", str(tmp_path / "kept")))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = f"mlflow server --workers 1 --port {port} --backend-store-uri sqlite:///{tmp_path}/mlflow.db"
    process = subprocess.Popen([sys.executable, "-m", *command.split(), *options])
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, "mlflow server did not start"
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def test_a_run_on_a_server(server: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    tracker = MLflowTracker(server, "gantry", folder, params={"seed": "0"})
    tracker.log_metrics({"fid": 2.0}, 100)
    tracker.log_image(np.zeros((8, 8, 3), dtype=np.uint8), "samples", 100)
    (folder / "config.yaml").write_text("n_critic: 5")
    tracker.log_artifact(folder / "config.yaml")
    tracker.close("FINISHED")
    client, _ = prepare_store(server, "gantry")
    assert tracker.run_id is not None
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "0"}
    assert [m.step for m in client.get_metric_history(tracker.run_id, "fid")] == [100]
    assert {item.path for item in client.list_artifacts(tracker.run_id)} == {"config.yaml", "images"}
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "mlflow_run.json"}


@pytest.mark.parametrize(
    "server", [("--no-serve-artifacts", "--default-artifact-root", "mlflow-artifacts:/")], indirect=True
)
def test_a_server_that_serves_no_files_gets_the_numbers(
    server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    tracker = MLflowTracker(server, "gantry", folder)
    tracker.log_image(np.zeros((8, 8, 3), dtype=np.uint8), "samples", 100)
    tracker.log_metrics({"fid": 2.0}, 100)
    assert tracker.wait_for_run(60) is not None
    began = time.monotonic()
    tracker.close("FINISHED")
    assert time.monotonic() - began < 15
    assert "the server serves no files; start the server with --serve-artifacts" in caplog.text
    run = prepare_store(server, "gantry")[0].get_run(tracker.run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"fid": 2.0})
    assert (folder / "undelivered.jsonl").exists()
