"""A sweep's processes: whatever becomes of a job, the others run, the status is true and nothing is left behind."""

import json
import os
import re

import pytest
from tiny_train import EXIT, FILL, FULL, HANG, KILL, RAISE

TWELVE = [0, RAISE, 1, KILL, 2, EXIT, 3, HANG, 4, FILL, 5, 6]


@pytest.mark.parametrize("seeds", [[KILL, HANG, 0], pytest.param(TWELVE, marks=pytest.mark.slow)])
def test_saboteurs_among_the_jobs(tiny, seeds):
    code, text = tiny.run(f"seed={','.join(map(str, seeds))}", "steps=8", "sweep.jobs=4", "sweep.timeout=8")
    assert code == 1, text
    statuses = tiny.statuses()
    assert list(statuses) == seeds
    ends = {
        RAISE: ("FAILED", "ValueError: on purpose"),
        KILL: ("KILLED", "SIGKILL"),
        EXIT: ("FAILED", "exit code 3"),
        HANG: ("KILLED", "no progress for 8 s (sweep.timeout)"),
        FILL: ("FAILED", "MemoryError"),
    }
    for seed, (status, reason) in statuses.items():
        expected, said = ends.get(seed, ("FINISHED", ""))
        assert status == expected
        assert said in (reason or "")
    table = text[text.index("job  run") :]
    for number, seed in enumerate(seeds):
        assert re.search(rf"^{number} +seed={seed} +{statuses[seed][0]}\b", table, re.M), table
    if RAISE in seeds:
        assert statuses[RAISE][1] == "ValueError: on purpose"
        assert "ValueError: on purpose" in text[: text.index("job  run")]  # the log's tail, when it happened
    assert not tiny.left()


def test_max_failures_stops_early_and_says_what_was_not_started(tiny):
    code, text = tiny.run(f"seed={RAISE},{FILL},0,1", "steps=4", "sweep.max_failures=2")
    assert code == 1
    assert [status for status, _ in tiny.statuses().values()] == ["FAILED", "FAILED", None, None]
    assert "2 jobs have failed (sweep.max_failures): 2 are not started" in text
    assert text.count("not started") >= 3


def test_jobs_share_the_cores_and_run_at_most_so_many_at_once(tiny, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code, text = tiny.run("seed=0,1,2,3", "steps=20", "sweep.jobs=2")
    assert code == 0, text
    spans = []
    for job in tiny.jobs():
        folder = tiny.sweep / job["folder"]
        spans.append(((folder / "pids").stat().st_mtime, (folder / "status.json").stat().st_mtime))
        cores = len(os.sched_getaffinity(0))
        assert tiny.environment(job["number"]) == [str(max(1, cores // 2)), "", None]
    most = max(sum(start <= moment <= end for start, end in spans) for moment, _ in spans)
    assert most == 2


UUIDS = ["GPU-8a3f0c11-2222-3333-4444-555555555555", "MIG-77aa9b12-2222-3333-4444-555555555555"]


def test_several_jobs_share_a_gpu_and_what_becomes_of_one_frees_its_place(tiny):
    seeds = [0, KILL, FULL, 1, 2, RAISE, 3, 4]
    code, text = tiny.run(
        f"seed={','.join(map(str, seeds))}",
        "steps=40",
        "sweep.jobs_per_device=2",
        **{"CUDA_VISIBLE_DEVICES": ",".join(UUIDS), "TINY_PAUSE": "0.05"},
    )
    assert code == 1, text
    statuses = tiny.statuses()
    assert [statuses[seed][0] for seed in range(5)] == ["FINISHED"] * 5
    assert statuses[KILL][0] == "KILLED"
    assert statuses[RAISE] == ("FAILED", "ValueError: on purpose")
    status, reason = statuses[FULL]
    assert status == "FAILED"
    assert "this job's part of the GPU's memory (sweep.jobs_per_device=2) does not suffice" in reason
    assert "sweep.jobs_per_device=1 gives each job" in reason
    assert "CUDA out of memory" in reason
    ran = tiny.ran_on()
    for uuid in UUIDS:
        spans = [(began, ended) for began, ended, at in ran.values() if at == uuid]
        assert len(spans) >= 2
        assert max(sum(began <= moment <= ended for began, ended in spans) for moment, _ in spans) <= 2
    lines = [line for line in text.splitlines() if re.match(r"\[\d\] seed=\d+: (started on|[A-Z]+ after) ", line)]
    assert ["started" in line for line in lines[:5]] == [True] * 4 + [False]  # four places, then the first end
    for number, seed in enumerate(seeds):
        at = ran[seed][2]
        assert f"started on GPU {at[:12]}, log in" in text
        assert re.search(rf"^{number} +seed={seed} +{statuses[seed][0]} +{at[:12]} ", text, re.M), text
        if statuses[seed][0] == "FINISHED":
            assert tiny.environment(number)[1:] == [at, "2"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["sweep.jobs_per_device=2"], "there is no GPU to share"),
        (["sweep.jobs_per_device=2", "hydra/launcher=basic"], "hydra/launcher=basic does not share GPUs among jobs"),
        (["sweep.jobs_per_device=0"], "sweep.jobs_per_device: must be at least 1, not 0"),
        (["sweep.jobs_per_device=65"], "sweep.jobs_per_device: must be at most 64, not 65"),
    ],
)
def test_gpus_that_cannot_be_shared_are_refused_before_a_job_starts(tiny, options, said):
    code, text = tiny.run("seed=0,1", *options, CUDA_VISIBLE_DEVICES="")
    assert code == 2, text
    assert said in text
    assert not list(tiny.folder.glob("outputs/*/*/sweep.json"))


def test_the_trials_of_a_search_are_jobs_of_the_launcher(tiny):
    pytest.importorskip("optuna")
    rate = "model.optimizer.lr=interval(1e-5,1e-3)"
    code, text = tiny.run("hydra/sweeper=gantry_optuna", "hydra.sweeper.n_trials=2", "seed=0", "steps=4", rate)
    assert code == 0, text
    folders = [tiny.sweep / job["folder"] for job in tiny.jobs()]
    assert [json.loads((folder / "status.json").read_text())["status"] for folder in folders] == ["FINISHED"] * 2
    assert "search: 2 trials, 2 measured" in text
