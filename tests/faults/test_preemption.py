"""A scheduler takes the machine away, and gives it back: the same command goes on."""

import json
import signal
import time

import pytest
from fault_runs import assert_same_weights, progress, wait_until

from gantry.runs import checkpoint_files

pytestmark = pytest.mark.slow
SMALL = ["experiment=smoke", "model=dcgan", "model.generator.width=4", "model.discriminator.width=4"]
RUN = [*SMALL, "steps=1000", "metrics.every=1000", "log_every=100"]


def reached(runs):
    return max((progress(path.parent)[0] for path in runs.folder.glob("outputs/*/*/progress.json")), default=0)


def test_a_requeued_job_goes_on_by_the_same_command(runs, record_property):
    command = [*RUN, "resume=auto"]
    took = []
    for number in (signal.SIGUSR1, signal.SIGTERM):
        process = runs.start(*command)
        before = reached(runs)
        wait_until(lambda before=before: reached(runs) > before, process)
        asked = time.monotonic()
        process.send_signal(number)
        process.send_signal(signal.SIGTERM)  # and again, as schedulers do
        text = process.communicate(timeout=120)[0]
        took.append(time.monotonic() - asked)
        assert process.returncode == 143, text
        (folder,) = runs.folder.glob("outputs/*/*")
        status = json.loads((folder / "status.json").read_text())
        assert (status["status"], status["reason"]) == ("KILLED", f"stopped by {number.name}")
        assert runs.in_mlflow(folder).info.status == "KILLED"
    assert "continues at step" in runs.finish(*command)
    assert runs.in_mlflow(folder).info.status == "FINISHED"
    whole = runs.folder / "whole"
    runs.finish(*RUN, f"hydra.run.dir={whole}")
    assert_same_weights(folder, whole)
    assert runs.finish(*command)  # that one has finished: the command begins another
    assert len(list(runs.folder.glob("outputs/*/*"))) == 2
    happened = f"exit 143 within {max(took):.1f} s of the signal, KILLED, gone on with by resume=auto; bit-identical"
    record_property("fault", {"fault": "SIGUSR1, SIGTERM", "injected": 2, "happened": happened, "lost": "nothing"})


def test_a_signal_while_it_measures_is_heard(runs, record_property):
    folder = runs.folder / "run"
    process = runs.start(
        "experiment=smoke", "model=dcgan", "model/network=mlp", "metrics.n_generated=200000", f"hydra.run.dir={folder}"
    )
    wait_until((folder / "real").exists, process)
    time.sleep(1)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: checkpoint_files.found(folder), process)
    took = time.monotonic() - asked
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 143, text
    assert checkpoint_files.newest(folder).step == 0
    happened = f"checkpoint after {took:.1f} s, exit 143"
    record_property(
        "fault", {"fault": "SIGTERM in an evaluation", "injected": 1, "happened": happened, "lost": "nothing"}
    )
