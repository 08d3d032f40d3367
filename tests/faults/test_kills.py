"""A run that is killed again and again ends as one that never was: in its weights, its record and MLflow."""

import json
import random
import signal
import time
from pathlib import Path

import pytest
from fault_runs import assert_same_weights, progress
from project import EACH

from gantry.runs.folder import read_metrics

pytestmark = pytest.mark.slow
KILLS = 20
IN_A_CHECKPOINT = ("1:100", "3:5000", "2:rename", "4:keep")
# What a clock or the machine says differs between any two runs.
VARYING = ("images_per_second", "training_seconds", "evaluation_seconds", "peak_memory_mib", "time")
KILLING = Path(__file__).with_name("killing_train.py")


def settings(variant, steps):
    narrow = [] if variant == "vanilla" else ["model.generator.width=4", "model.discriminator.width=4"]
    often = ["metrics.every=40", "log_every=5", "checkpoint.every=10"]
    return ["experiment=smoke", f"model={variant}", *narrow, f"steps={steps}", *often]


def record(folder):
    return [{name: value for name, value in line.items() if name not in VARYING} for line in read_metrics(folder)]


def in_mlflow(runs, folder):
    """What MLflow holds of the only run in `folder`: status, metrics with all their points, images."""
    client = runs.client()
    experiment = client.get_experiment_by_name("gantry").experiment_id
    (run,) = [run for run in client.search_runs([experiment]) if run.data.tags["gantry.folder"] == str(folder)]
    history = {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }
    images = [
        item.path.split("timestamp")[0]
        for item in client.list_artifacts(run.info.run_id, "images")
        if item.path.endswith(".png")
    ]
    files = sorted(item.path for item in client.list_artifacts(run.info.run_id) if not item.is_dir)
    return run.info.status, history, sorted(images), files, bool(run.inputs.dataset_inputs)


def kill_and_resume(runs, folder, overrides, moments, kills):
    """Kill the run `kills` times, each time at another moment, then let it end; returns the steps it was killed at."""
    killed = []
    for number in range(kills):
        arguments = (
            [f"resume={folder}"] if (folder / "params.json").exists() else [*overrides, f"hydra.run.dir={folder}"]
        )
        if number < len(IN_A_CHECKPOINT):
            process = runs.start(*arguments, program=KILLING, KILL_AT=IN_A_CHECKPOINT[number])
            text = process.communicate(timeout=300)[0]
        else:
            process = runs.start(*arguments)
            begun, seen = time.time(), progress(folder)
            delay = moments.uniform(0, 4) if moments.random() < 0.75 else None
            while (
                delay is not None and progress(folder) == seen and process.poll() is None and time.time() - begun < 120
            ):
                time.sleep(0.02)
            time.sleep(moments.uniform(0, 12) if delay is None else delay)
            process.kill()
            text = process.communicate(timeout=60)[0]
        assert process.returncode in (-signal.SIGKILL, 0), text
        killed.append(progress(folder)[0])
        if process.returncode == 0:
            break
    return killed


def assert_same_end(runs, folder, whole):
    assert json.loads((folder / "status.json").read_text())["status"] == "FINISHED"
    assert_same_weights(folder, whole)
    assert record(folder) == record(whole)
    status, history, *others = in_mlflow(runs, folder)
    expected_status, expected, *expected_others = in_mlflow(runs, whole)
    assert (status, others) == (expected_status, expected_others) == ("FINISHED", expected_others)
    assert history.keys() == expected.keys()
    for name, points in history.items():
        assert [step for step, _ in points] == [step for step, _ in expected[name]], name
        if name not in VARYING:
            assert points == expected[name], name


def test_killed_at_twenty_random_moments_a_run_ends_as_if_it_never_was(runs, record_property):
    overrides = settings("wgan", 800)
    whole, folder = runs.folder / "whole", runs.folder / "killed"
    runs.finish(*overrides, f"hydra.run.dir={whole}")
    killed = kill_and_resume(runs, folder, overrides, random.Random(6), KILLS)
    runs.finish(f"resume={folder}")
    assert_same_end(runs, folder, whole)
    assert len(killed) == KILLS
    row = {"fault": "SIGKILL of a run, 4 of them within a checkpoint's write", "injected": len(killed)}
    where = ", ".join(map(str, killed))
    ended = f"resumed each time (at steps {where}); weights bit-identical, no gap, no duplicate"
    record_property("fault", row | {"happened": ended, "lost": "nothing"})


@pytest.mark.parametrize("variant", EACH)
def test_every_variant_resumes_exactly_after_kills(variant, runs, record_property):
    overrides = settings(variant, 80)
    whole, folder = runs.folder / "whole", runs.folder / "killed"
    runs.finish(*overrides, f"hydra.run.dir={whole}")
    killed = kill_and_resume(runs, folder, overrides, random.Random(variant), 2)
    runs.finish(f"resume={folder}")
    assert_same_end(runs, folder, whole)
    row = {"fault": f"SIGKILL, {variant}", "injected": len(killed)}
    record_property("fault", row | {"happened": "resumed; weights bit-identical", "lost": "nothing"})
