"""What a run leaves in MLflow, read back with MLflow's own client."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.store import prepare_store
from gantry.runs.tracking.tracker import DatasetInfo

DIGITS = DatasetInfo("digits", "d" * 64, "sklearn.datasets.load_digits", "train", 1797, (16, 16, 1), 10)


@pytest.fixture(scope="module")
def client(store: Path) -> MlflowClient:
    return prepare_store(store, "gantry")[0]


def tracked(store: Path, folder: Path, **options: object) -> MLflowTracker:
    return MLflowTracker(store, "gantry", folder, **options)  # type: ignore[arg-type]


def read(client: MlflowClient, tracker: MLflowTracker) -> Run:
    assert tracker.run_id is not None
    return client.get_run(tracker.run_id)


@pytest.fixture(scope="module")
def whole_run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[MLflowTracker, Path, np.ndarray]:
    """A run that uses everything, ended well."""
    folder = tmp_path_factory.mktemp("run")
    tracker = tracked(
        store,
        folder,
        run_name="dcgan-digits-0",
        tags={"variant": "dcgan", "overrides": "tracking.uri=http://me:secret@host:5000"},
        params={f"option.{i}": str(i) for i in range(130)},
        dataset=DIGITS,
    )
    for step in range(0, 3000, 50):
        tracker.log_metrics({"loss/generator": 1 / (1 + step), "score/real": float(step)}, step)
    tracker.log_metrics({"fid_classifier": math.nan}, 100)
    tracker.log_metrics({"fid_classifier": math.inf}, 200)
    tracker.log_metrics({"fid_classifier": 12.5}, 300)
    tracker.set_tags({"seed": 0})
    image = np.random.default_rng(0).integers(0, 256, (40, 24, 1), dtype=np.uint8)
    shown = image.copy()
    tracker.log_image(shown, "samples", 300, {"zoom": 12})
    shown[:] = 0  # the caller's buffer is the caller's again
    config = folder / "config.yaml"
    config.write_text("n_critic: 5")
    tracker.log_artifact(config, "config")
    config.write_text("n_critic: 1")
    tracker.close("FINISHED")
    return tracker, folder, image


def test_params_and_tags(client: MlflowClient, whole_run: tuple) -> None:
    run = read(client, whole_run[0])
    assert run.data.params == {f"option.{i}": str(i) for i in range(130)}
    assert run.info.run_name == "dcgan-digits-0"
    assert run.data.tags["variant"] == "dcgan"
    assert run.data.tags["seed"] == "0"
    assert "mlflow.source.name" in run.data.tags
    assert run.data.tags["overrides"] == "tracking.uri=http://***@host:5000"


def test_metrics_stand_in_order_on_the_step_axis(client: MlflowClient, whole_run: tuple) -> None:
    history = client.get_metric_history(whole_run[0].run_id, "loss/generator")
    assert [m.step for m in history] == list(range(0, 3000, 50))
    assert [m.value for m in history] == [1 / (1 + m.step) for m in history]
    assert [m.timestamp for m in history] == sorted(m.timestamp for m in history)


def test_metrics_that_are_not_finite_leave_a_gap(client: MlflowClient, whole_run: tuple) -> None:
    history = client.get_metric_history(whole_run[0].run_id, "fid_classifier")
    assert [m.step for m in history] == [100, 200, 300]
    assert [math.isnan(m.value) for m in history] == [True, True, False]
    run = read(client, whole_run[0])
    assert run.data.tags["gantry.infinite"] == "fid_classifier inf at step 200"
    assert run.data.metrics["fid_classifier"] == 12.5


def test_the_image_is_under_its_key_and_step(client: MlflowClient, whole_run: tuple, tmp_path: Path) -> None:
    from PIL import Image

    tracker, _, image = whole_run
    names = [item.path for item in client.list_artifacts(tracker.run_id, "images")]
    (png,) = [name for name in names if name.endswith(".png")]
    assert png.startswith("images/samples+step+300+")
    stored = Image.open(client.download_artifacts(tracker.run_id, png, str(tmp_path)))
    assert np.array_equal(np.asarray(stored.convert("L")), image[..., 0])
    assert stored.info["zoom"] == "12"
    assert read(client, tracker).data.tags["mlflow.loggedImages"] == "True"


def test_an_artifact_is_the_file_as_it_was_when_logged(client: MlflowClient, whole_run: tuple, tmp_path: Path) -> None:
    path = client.download_artifacts(whole_run[0].run_id, "config/config.yaml", str(tmp_path))
    assert Path(path).read_text() == "n_critic: 5"


def test_the_dataset_is_an_input_mlflow_understands(client: MlflowClient, whole_run: tuple) -> None:
    from mlflow.data.schema import TensorDatasetSchema

    (given,) = read(client, whole_run[0]).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("digits", "d" * 36)
    assert {tag.key: tag.value for tag in given.tags} == {"mlflow.data.context": "train"}
    assert json.loads(given.dataset.source) == {"uri": "sklearn.datasets.load_digits"}
    schema = TensorDatasetSchema.from_dict(json.loads(given.dataset.schema))
    assert schema.features.inputs[0].shape == (-1, 16, 16, 1)
    assert json.loads(given.dataset.profile)["num_rows"] == 1797


def test_a_delivered_run_leaves_only_its_id_in_its_folder(whole_run: tuple) -> None:
    assert {path.name for path in whole_run[1].iterdir()} == {"config.yaml", "mlflow_run.json"}
    assert json.loads((whole_run[1] / "mlflow_run.json").read_text())["run_id"] == whole_run[0].run_id


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_the_status_is_true(store: Path, client: MlflowClient, tmp_path: Path, status: str) -> None:
    tracker = tracked(store, tmp_path)
    assert tracker.wait_for_run(30) == tracker.run_id
    assert read(client, tracker).info.status == "RUNNING"
    tracker.close(status, None if status == "FINISHED" else "out of memory at http://a:b@c")  # type: ignore[arg-type]
    tracker.close("FINISHED")
    run = read(client, tracker)
    assert run.info.status == status
    assert run.info.end_time >= run.info.start_time
    reason = None if status == "FINISHED" else "out of memory at http://***@c"
    assert run.data.tags.get("gantry.reason") == reason


def test_a_run_goes_on_without_gap_or_repetition(store: Path, client: MlflowClient, tmp_path: Path) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    before = tracked(store, tmp_path, params={"seed": 0})
    for step in (1, 2, 3):
        before.log_metrics({"loss": step}, step)
    before.log_image(picture, "samples", 2)
    before.close("KILLED", "stopped by SIGTERM")
    after = tracked(store, tmp_path, params={"seed": 0}, continues=before.run_id)
    for step in (2, 3, 4):  # from a checkpoint of step 1
        after.log_metrics({"loss": 10 * step, "new": step}, step)
    for step in (2, 4):
        after.log_image(picture, "samples", step)
    after.close("FINISHED")
    assert after.run_id == before.run_id
    assert read(client, after).info.status == "FINISHED"
    assert "gantry.reason" not in read(client, after).data.tags
    history = client.get_metric_history(after.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    assert [point.step for point in client.get_metric_history(after.run_id, "new")] == [2, 3, 4]
    pictures = [file.path for file in client.list_artifacts(after.run_id, "images") if file.path.endswith(".png")]
    assert sorted(path.split("+")[2] for path in pictures) == ["2", "4"]
    assert not (tmp_path / "undelivered.jsonl").exists()


def test_an_attempt_that_a_later_one_replaces_says_so(store: Path, client: MlflowClient, tmp_path: Path) -> None:
    tags = {"gantry.folder": "/sweep/3"}
    failed, other = (
        tracked(store, tmp_path / name, parent_run_id="a sweep", tags=tags | extra)
        for name, extra in (("failed", {}), ("other", {"gantry.folder": "/sweep/4"}))
    )
    failed.close("FAILED", "on purpose")
    other.close("FINISHED")
    again = tracked(store, tmp_path / "again", parent_run_id="a sweep", tags=tags)
    again.close("FINISHED")
    assert not {"gantry.superseded"} & (read(client, again).data.tags.keys() | read(client, other).data.tags.keys())
    assert read(client, failed).data.tags["gantry.superseded"] == "true"
    assert read(client, failed).info.status == "FAILED"


def test_what_mlflow_refuses_is_kept_and_the_rest_arrives(
    store: Path, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = tracked(store, tmp_path)
    tracker.log_metrics({"good": 1.0}, 1)
    tracker.log_metrics({"50% of it": 1.0}, 2)
    tracker.log_metrics({"good": 3.0}, 3)
    tracker.log_metrics({"50% of it": 1.0}, 4)
    tracker.close("FINISHED")
    assert [m.step for m in client.get_metric_history(tracker.run_id, "good")] == [1, 3]
    assert read(client, tracker).info.status == "FINISHED"
    assert not (tmp_path / "undelivered.jsonl").exists()
    refused, again = map(json.loads, (tmp_path / "refused.jsonl").read_text().splitlines())
    assert refused["values"] == {"50% of it": 1.0}
    assert "50% of it" in refused["error"]
    assert again["step"] == 4
    assert caplog.text.count("refused metrics") == 1


def test_mistakes_in_a_call_do_not_reach_training(
    store: Path, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = tracked(store, tmp_path)
    tracker.log_metrics({"fid": "low"}, 1)  # type: ignore[dict-item]
    tracker.log_artifact(tmp_path / "absent.yaml")
    tracker.log_metrics({"fid": 2.0}, 2)
    tracker.close("FINISHED")
    assert [m.value for m in client.get_metric_history(tracker.run_id, "fid")] == [2.0]
    assert "could not convert" in caplog.text
    assert "absent.yaml" in caplog.text


def test_a_deleted_experiment_is_restored(store: Path, client: MlflowClient) -> None:
    _, experiment_id = prepare_store(store, "thrown away")
    client.delete_experiment(experiment_id)
    assert prepare_store(store, "thrown away")[1] == experiment_id
    assert client.get_experiment(experiment_id).lifecycle_stage == "active"
