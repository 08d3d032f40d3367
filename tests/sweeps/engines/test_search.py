"""`hydra/sweeper=gantry_optuna`: what is proposed, what is told back, and what a killed search keeps."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from project import ROOT

from gantry.commands.train import main
from gantry.core.errors import UserError
from gantry.runs.tracking.store import prepare_store
from gantry.sweeps.search import Search, check_options
from gantry.sweeps.search_space import read_space
from hydra_plugins.gantry_optuna import check_jobs

HERE = Path(__file__).parent
RATE = "model.optimizer.lr=tag(log,interval(1e-6,1e-1))"


def works(overrides):
    return None


def search(folder, overrides, n_trials=10, sampler="tpe", seed=0):
    pytest.importorskip("optuna")
    return Search(read_space(overrides), n_trials, sampler, seed, folder)


def test_where_higher_is_better_the_best_trial_is_the_highest_and_the_search_goes_that_way(tmp_path):
    pytest.importorskip("optuna")
    for _ in range(2):  # as the search that goes on, too
        found = Search(read_space(["lr=interval(0.1,1)"]), 8, "tpe", 0, tmp_path, higher_is_better=True)
        for trial in found.next(4, works):
            found.tell(trial, numbers([trial], "lr")[0])
    values = [trial.value for trial in found.measured()]
    assert found.study.direction.name == "MAXIMIZE"
    assert values == sorted(values, reverse=True)
    assert found.study.best_value == values[0]


def numbers(trials, key):
    return [float(dict(text.split("=") for text in trial.overrides)[key]) for trial in trials]


def run(folder, *overrides, script=ROOT / "train.py", **environment):
    pytest.importorskip("optuna")
    paths = os.pathsep.join([str(HERE / "plugins"), os.environ.get("PYTHONPATH", "")])
    asked = ("-m", "tracking=none", "hydra/sweeper=gantry_optuna", *overrides)
    return forked.run(script, *asked, cwd=folder, env=os.environ | {"PYTHONPATH": paths} | environment, timeout=240)


def launched(folder):
    return [json.loads(line) for line in (folder / "launched.jsonl").read_text().splitlines()]


def the_sweep(folder):
    (found,) = folder.glob("outputs/*/*_sweep")
    return found


# The space, in Hydra's grammar


def test_intervals_ranges_choices_and_fixed_values_mean_what_hydra_means(tmp_path):
    distributions = pytest.importorskip("optuna.distributions")
    real, whole = distributions.FloatDistribution, distributions.IntDistribution
    overrides = [RATE, "a=interval(0,1)", "b=int(interval(1,8))", "c=range(1,10,3)", "d=range(0.1,0.5,0.1)"]
    overrides += [
        "e=tag(log,range(1,65))",
        "f=range(8,0,-2)",
        "model=dcgan,wgan",
        "betas=[0,0.9],[0.5,0.999]",
        "steps=1",
    ]
    space = read_space([*overrides, "a=interval(0,2)"])
    assert space.fixed == ("steps=1",)
    assert {key: axis.distribution() for key, axis in space.axes.items()} == {
        "model.optimizer.lr": real(1e-6, 1e-1, log=True),
        "a": real(0, 2),  # the last of two
        "b": whole(1, 8),
        "c": whole(1, 7, step=3),  # 1, 4, 7: as in Python, without the end
        "d": real(0.1, 0.4, step=0.1),
        "e": whole(1, 64, log=True),
        "f": whole(2, 8, step=2),
        "model": distributions.CategoricalDistribution(("dcgan", "wgan")),
        "betas": distributions.CategoricalDistribution(("[0,0.9]", "[0.5,0.999]")),
    }
    for trial in search(tmp_path, overrides).next(2, works):
        given = dict(text.split("=") for text in trial.overrides)
        assert list(given) == ["steps", *space.axes]
        assert given["betas"] in ("[0,0.9]", "[0.5,0.999]")
        assert float(given["d"]) in (0.1, 0.2, 0.3, 0.4)


def test_a_bound_that_rounding_would_pass_is_kept():
    low, high = 0.12345678, 0.12345679
    axis = read_space([f"a=interval({low},{high})"]).axes["a"]
    assert axis.rounded(0.123456785) == 0.123456785
    assert read_space(["a=interval(0.0,1.0)"]).axes["a"].rounded(0.123456785) == 0.123457


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("steps=100", "needs something to vary"),
        ("seed=0,1,2", "finds the luckiest"),
        ("sweep.jobs=1,2", "sweep.jobs"),
        ("lr=interval(1e-3,1e-5)", "from a smaller to a larger"),
        ("lr=tag(log,interval(0,1))", "above 0"),
        ("lr=tag(quickly,interval(0,1))", "not quickly"),
        ("n=range(5,5)", "empty"),
        ("n=tag(log,range(1,9,2))", "step 1"),
        ("model=tag(log,choice(dcgan,wgan))", "no log scale"),
        ("lr=interval(-inf,1)", "finite"),
    ],
)
def test_what_cannot_be_searched_is_refused(override, says):
    with pytest.raises(UserError, match=says):
        read_space([override])


def test_an_interval_without_numbers_cannot_be_read():
    with pytest.raises(HydraException, match="interval"):
        read_space(["lr=interval(small,large)"])


def test_wrong_options_name_the_choices(monkeypatch):
    with pytest.raises(UserError, match="at least 1, not 0"):
        check_options(0, "tpe", 0)
    with pytest.raises(UserError, match="tpe, gp, random, not 'tpee'; did you mean 'tpe'"):
        check_options(1, "tpee", 0)
    with pytest.raises(UserError, match="at least 0, not -1"):
        check_options(1, "tpe", -1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'gantry-gan\[search\]'"):
        check_options(1, "tpe", 0)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("jobs", "abc", "sweep.jobs: must be one of auto or a whole number, at least 1, not abc"),
        ("jobs", 0, "sweep.jobs: .*, not 0"),
        ("jobs_per_device", "auto", "sweep.jobs_per_device: must be a whole number, at least 1, not auto"),
        ("jobs_per_device", -1, "sweep.jobs_per_device: .*, not -1"),
        ("jobs", "auto", None),
        ("jobs_per_device", 4, None),
    ],
)
def test_numbers_of_jobs_that_are_none_are_refused_before_the_first_batch(option, value, says):
    config = OmegaConf.create({"sweep": {"jobs": 2, "jobs_per_device": 1} | {option: value}})
    with pytest.raises(UserError, match=says) if says else contextlib.nullcontext():
        check_jobs(config)


# The study


def trained(study, size=1):
    """Run a search to its end on a quadratic in the logarithm; returns each trial's value, by overrides."""
    values = {}
    while batch := study.next(size, works):
        for trial, rate in zip(batch, numbers(batch, "model.optimizer.lr"), strict=True):
            values[tuple(trial.overrides)] = value = math.nan if rate > 1e-2 else (math.log10(rate) + 3.7) ** 2
            study.tell(trial, value)
    return values


@pytest.mark.parametrize(("sampler", "n_trials", "reaches"), [("random", 20, 0.5), ("tpe", 20, 0.01), ("gp", 14, 0.01)])
def test_the_samplers_find_the_rate(tmp_path, sampler, n_trials, reaches):
    values = trained(search(tmp_path, [RATE], n_trials, sampler), size=2).values()
    assert len(values) == n_trials
    assert min(value for value in values if not math.isnan(value)) < reaches


def test_the_same_seed_proposes_the_same_and_a_later_start_something_new(tmp_path):
    first, second = (list(trained(search(tmp_path / name, [RATE], 5))) for name in "ab")
    assert first == second
    assert list(trained(search(tmp_path / "c", [RATE], 5, seed=1))) != first
    more = list(trained(search(tmp_path / "a", [RATE], 10)))
    assert len(more) == 5
    assert not set(more) & set(first)


def test_trials_cut_off_run_again_and_no_finished_one_does(tmp_path):
    study = search(tmp_path, [RATE], 6)
    for trial in study.next(2, works):
        study.tell(trial, 1.0)
    cut_off = study.next(2, works)
    study.tell(cut_off[0], 2.0)
    taken_up = search(tmp_path, [RATE], 6)
    assert taken_up.next(2, works) == [cut_off[1]]
    taken_up.tell(cut_off[1], 3.0)
    last = taken_up.next(4, works)
    assert [trial.job for trial in last] == [4, 5]
    for trial in last:
        taken_up.tell(trial, 4.0)
    assert taken_up.next(1, works) == []
    assert [trial.value for trial in taken_up.measured()] == [1, 1, 2, 3, 4, 4]


def test_a_failed_trial_runs_again_when_the_search_is_taken_up(tmp_path):
    study = search(tmp_path, [RATE], 2)
    lost, kept = study.next(2, works)
    study.tell(lost, None, "out of memory")
    study.tell(kept, 1.0)
    assert study.next(1, works) == []
    again = search(tmp_path, [RATE], 2)
    (trial,) = again.next(2, works)
    assert (trial.overrides, trial.job) == (lost.overrides, 2)
    again.tell(trial, 0.5)
    assert again.next(1, works) == []
    assert [found.value for found in again.measured()] == [0.5, 1.0]
    assert search(tmp_path, [RATE], 2).next(1, works) == []


def test_a_trial_diverged_where_its_failure_is_of_that_kind_whatever_words_it_has(tmp_path):
    study = search(tmp_path, [RATE], 3)
    measured, diverged, failed = study.next(3, works)
    study.tell(measured, 3.0)
    study.tell(diverged, None, "job 1: no longer finite", "diverged")
    study.tell(failed, None, "job 2: the folder diverged is full", "out_of_memory")
    assert [(trial.number, trial.value) for trial in study.others("diverged")] == [(diverged.number, 3.0)]
    assert [trial.number for trial in study.others("failed")] == [failed.number]


def test_a_diverged_trial_is_the_worst_and_never_the_best(tmp_path):
    study = search(tmp_path, [RATE], 4)
    first, second, third, fourth = study.next(4, works)
    study.tell(first, math.nan)
    study.tell(second, 3.0)
    study.tell(third, None)
    study.tell(fourth, math.inf)
    assert [trial.value for trial in study.measured()] == [3.0]
    assert len(study.others("diverged")) == 3
    study.save()
    results = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    assert results["best_value"] == 3.0
    assert [f"model.optimizer.lr={results['best_params']['model.optimizer.lr']}"] == second.overrides
    assert study.study.best_value == 3.0


def test_a_repeated_proposal_costs_no_job(tmp_path):
    study = search(tmp_path, ["model=dcgan,wgan"], 12)
    values = {"model=dcgan": 2.0, "model=wgan": 1.0}
    jobs = []
    while batch := study.next(3, works):
        for trial in batch:
            jobs.append(trial.overrides[0])
            study.tell(trial, values[trial.overrides[0]])
    assert sorted(jobs) == ["model=dcgan", "model=wgan"]
    assert len(study.counted()) == 12
    assert [trial.value for trial in study.measured()] == [1.0, 2.0]
    assert "2 measured, 10 repeats" in study.report()


def test_what_cannot_work_is_left_out_and_said(tmp_path):
    def refusal(overrides):
        return "no BatchNorm here" if "norm=batch" in overrides else None

    study = search(tmp_path / "some", ["norm=batch,layer", RATE], 12, "random")
    while batch := study.next(2, refusal):
        for trial in batch:
            assert "norm=layer" in trial.overrides
            study.tell(trial, 1.0)
    refused = len(study.others("refused"))
    assert 0 < refused < 12
    assert f"{12 - refused} measured, {refused} refused" in study.report()
    assert "no BatchNorm here" in study.report()
    with pytest.raises(UserError, match="no trial can work; the last one was refused no BatchNorm here"):
        search(tmp_path / "none", ["norm=batch", RATE], 12).next(2, refusal)


def test_the_study_of_another_search_is_refused(tmp_path):
    search(tmp_path, [RATE, "steps=10", "sweep.jobs=1"])
    search(tmp_path, [RATE, "steps=10", "sweep.jobs=2"])
    with pytest.raises(UserError, match="they differ in the fixed overrides"):
        search(tmp_path, [RATE, "steps=20"])
    with pytest.raises(UserError, match=r"they differ in model\.optimizer\.lr, the fixed overrides, model\.n_critic"):
        search(tmp_path, ["model.n_critic=range(1,6)"])


# The command line


def test_a_search_finds_the_best_and_survives_failed_and_diverged_trials(tmp_path):
    done = run(
        tmp_path,
        "hydra/launcher=closed_form",
        "hydra.sweeper.n_trials=15",
        "hydra.sweeper.sampler=tpe",
        "sweep.jobs=3",
        "model.optimizer.lr=tag(log,interval(1e-6,1e2))",
        "model.n_critic=range(1,6)",
        "model=dcgan,lsgan",
        "steps=7",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    batches = launched(tmp_path)
    assert [first for first, _ in batches] == [3 * i for i in range(5)]
    jobs = [dict(text.split("=") for text in job) for _, batch in batches for job in batch]
    assert len(jobs) == 15
    assert all(job["steps"] == "7" and 1 <= int(job["model.n_critic"]) <= 5 for job in jobs)
    failed = sum(job["model"] == "lsgan" for job in jobs)
    diverged = sum(job["model"] == "dcgan" and float(job["model.optimizer.lr"]) > 0.01 for job in jobs)
    assert failed
    assert diverged
    assert f"search: 15 trials, {15 - failed - diverged} measured, {diverged} diverged, {failed} failed" in done.stdout
    results = yaml.safe_load((the_sweep(tmp_path) / "optimization_results.yaml").read_text())
    assert results["best_params"]["model"] == "dcgan"
    rate, critic = results["best_params"]["model.optimizer.lr"], results["best_params"]["model.n_critic"]
    assert results["best_value"] == pytest.approx((math.log10(rate) + 3.7) ** 2 + abs(critic - 3))


def test_max_failures_ends_a_search(tmp_path):
    done = run(
        tmp_path,
        "hydra/launcher=closed_form",
        "hydra.sweeper.sampler=random",
        "sweep.max_failures=2",
        "model=lsgan",
        RATE,
    )
    assert len(launched(tmp_path)) == 2, done.stdout + done.stderr


def test_a_search_killed_by_sigkill_goes_on_where_it_was(tmp_path):
    options = ("hydra/launcher=closed_form", "hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=6", "sweep.jobs=2")
    died = run(tmp_path, *options, RATE, KILLED_IN_BATCH="2")
    assert died.returncode == -signal.SIGKILL
    again = run(tmp_path, RATE, f"hydra.sweep.dir={the_sweep(tmp_path)}")
    assert again.returncode == 2
    assert "sweep.resume=" in again.stderr
    done = run(tmp_path, *options, RATE, f"sweep.resume={the_sweep(tmp_path)}")
    assert done.returncode == 0, done.stdout + done.stderr
    batches = [(first, [job[0] for job in batch]) for first, batch in launched(tmp_path)]
    assert [first for first, _ in batches] == [0, 2, 2, 4]
    cut_off, repeated = [sorted(text for text in batch if "lr" in text) for _, batch in batches[1:3]]
    assert cut_off == repeated
    assert "search: 6 trials, 6 measured" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.optimizer.lr=interval(1e-3,1e-5)"], "from a smaller to a larger number"),
        (["hydra.sweeper.n_trials=0", RATE], "hydra.sweeper.n_trials: must be at least 1, not 0"),
        (["hydra.sweeper.sampler=cma", RATE], "must be one of tpe, gp, random, not 'cma'"),
        (["model.optimiser.lr=interval(1e-5,1e-3)"], "model.optimiser"),
        (["steps=range(-3,0)"], "steps: must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(typed, tmp_path, monkeypatch, overrides, says):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    engine = ("hydra/sweeper=gantry_optuna", "hydra.sweeper.sampler=random")
    code, out, errors = typed(main, "-m", "tracking=none", *engine, *overrides)
    assert code == 2, out + errors
    assert says in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("outputs/*/*_sweep/[0-9]*"))


@pytest.mark.slow
def test_a_real_search_is_one_sweep_and_goes_on_after_a_kill(tmp_path, cache):
    options = ["hydra.sweeper.n_trials=4", "hydra.sweeper.sampler=random", "sweep.jobs=2", "experiment=smoke"]
    options += [f"paths.cache={cache}", "steps=40", "tracking=mlflow", "model=dcgan,vanilla", RATE]
    pytest.importorskip("optuna")
    command = [sys.executable, str(ROOT / "train.py"), "-m", "hydra/sweeper=gantry_optuna", *options]
    started = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.time() + 200
    while not list(tmp_path.glob("outputs/*/*_sweep/[23]_*/metrics.jsonl")):
        assert started.poll() is None, started.communicate()[0]
        assert time.time() < deadline
        time.sleep(0.2)
    started.kill()
    started.communicate()
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/*/*_sweep/[01]_*/summary.json")}
    assert len(finished) == 2
    while not all(path.with_name("status.json").exists() for path in tmp_path.glob("outputs/*/*/*/metrics.jsonl")):
        assert time.time() < deadline  # the jobs notice that their sweep is gone
        time.sleep(0.2)
    command = [sys.executable, str(ROOT / "train.py"), f"sweep.resume={the_sweep(tmp_path)}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
    assert "search: 4 trials, 4 measured" in done.stdout
    client, experiment = prepare_store(tmp_path / "mlruns", "gantry")
    found = [run for run in client.search_runs([experiment]) if run.data.tags.get("gantry.superseded") != "true"]
    assert ["mlflow.parentRunId" in run.data.tags for run in found].count(True) == 4
    assert len(found) == 5
    assert {run.info.status for run in found} == {"FINISHED"}
    best = yaml.safe_load((the_sweep(tmp_path) / "optimization_results.yaml").read_text())["best_value"]
    summaries = [json.loads(path.read_text()) for path in the_sweep(tmp_path).glob("*/summary.json")]
    assert best == min(summary["best"]["fid_classifier"] for summary in summaries)
