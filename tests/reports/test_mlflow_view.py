"""What a comparison makes of a sweep's rows, colours, charts and descriptions in MLflow, without a browser."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from report_helpers import PARAMS, PROTOCOL, log_run, make_job, make_sweep

from gantry.core.config.overrides import swept
from gantry.core.errors import UserError
from gantry.reports import mlflow_page
from gantry.reports.build import compare_sweep, with_page
from gantry.reports.comparison import compare
from gantry.reports.config_differences import summary
from gantry.reports.run import Run, from_folder
from gantry.runs.tracking import ui
from gantry.runs.tracking.description import NOTE
from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.query import open_store
from gantry.runs.tracking.sweep_run import open_parent
from gantry.training import run_record

JOBS = {("dcgan", 0): 4.0, ("dcgan", 1): 3.0, ("wgan", 0): 2.0, ("wgan", 1): 1.0}
NAME = "sweep outputs/2026-01-01/10-00-00_sweep"


@pytest.fixture
def sweep(tmp_path):
    """A sweep of two variants and two seeds, tracked: its folder, its run and its store."""
    uri, folder = str(tmp_path / "mlruns"), tmp_path / "10-00-00_sweep"
    parent = open_parent(uri, "gantry", NAME, [], folder)
    jobs = {}
    for number, ((variant, seed), final) in enumerate(JOBS.items()):
        name = f"{number}_{variant}"
        place = make_job(folder / name, variant, seed, final=final)
        tags = {"variant": variant, "dataset": "digits", "seed": str(seed), "gantry.folder": str(place)} | PROTOCOL
        params = PARAMS | {"variant": variant, "seed": str(seed)}
        tracker = MLflowTracker(uri, "gantry", place, run_name=name, tags=tags, params=params, parent_run_id=parent)
        log_run(tracker, final=final)
        tracker.close("FINISHED")
        jobs[name] = [f"model={variant}", f"seed={seed}"]
    return make_sweep(folder, jobs, parent, uri), parent, open_store(uri, "gantry")


def view_of(*runs: Run) -> dict:
    return ui.state(mlflow_page.view_of(compare(runs, "runs", Path("report.html")), "a filter"))


def job(folder: Path, variant: str = "dcgan", seed: int = 0, **how) -> Run:
    return from_folder(make_job(folder / f"{variant}_{seed}", variant, seed, **how))


def test_a_sweeps_row_is_named_after_what_it_compares(sweep):
    folder, parent, store = sweep
    compare_sweep(folder)
    assert store.client.get_run(parent).info.run_name == "2 variants x 2 seeds on digits, 300 steps"
    assert store.sweep(NAME).info.run_id == parent
    store.client.set_tag(parent, "mlflow.runName", "my own")
    compare_sweep(folder)
    assert store.client.get_run(parent).info.run_name == "my own"


def test_each_run_has_a_colour_of_its_own_and_a_chosen_one_is_kept(sweep):
    folder, parent, store = sweep
    first = store.children(parent)[0].info.run_id
    store.client.set_tag(first, ui.COLOUR, "#123456")
    compare_sweep(folder)
    colours = {run.info.run_name: run.data.tags[ui.COLOUR] for run in store.children(parent)}
    assert colours["0_dcgan"] == "#123456"
    assert colours["2_wgan"] == "#0072B2"  # the best group has the report's first colour
    assert colours["3_wgan"] == "#4C9CC9"  # the same, lighter
    assert len(set(colours.values())) == len(JOBS)


def test_the_colours_of_fourteen_groups_differ():
    assert len({colour for group in mlflow_page.SHADES for colour in group[:1]}) == 14


def test_the_experiment_keeps_the_latest_comparison_that_ranks(sweep):
    folder, parent, store = sweep
    compare_sweep(folder)
    failed = make_sweep(folder.parent / "11_sweep", {"0_dcgan": []}, parent, str(folder.parent / "mlruns"))
    make_job(failed / "0_dcgan", status="FAILED", reason="no disk", stops=0)
    compare_sweep(failed)
    experiment = store.client.get_experiment(store.experiment_id).tags[NOTE]
    assert experiment.startswith("Latest comparison: 2 variants x 2 seeds on digits, 300 steps <!-- comparison -->\n")
    assert "1 run: 1 failed" in store.client.get_run(parent).data.tags[NOTE]


def test_the_report_links_the_sweep_to_its_comparison(sweep):
    comparison = compare_sweep(sweep[0])
    assert comparison.sweep_page == comparison.page.address()
    page = comparison.report.read_text()
    assert f'viewStateShareKey=gantry-{sweep[1]}" target="_blank" rel="noopener">The sweep in MLflow</a>' in page
    assert "The comparison in MLflow" not in page


def test_the_first_charts_are_the_metric_and_the_bars(tmp_path):
    view = view_of(job(tmp_path, "dcgan"), job(tmp_path, "wgan"))
    shown = [part for part in view["compareRunSections"] if part["display"]]
    assert [(part["name"], part["columns"]) for part in shown] == [("Comparison", 2), ("Samples", 1), ("More", 2)]
    placed = [(chart["metricSectionId"], chart["uuid"]) for chart in view["compareRunCharts"]]
    assert placed[:4] == [
        ("Comparison", "LINE fid_classifier"),
        ("Comparison", "BAR best/fid_classifier"),
        ("Samples", "IMAGE samples"),
        ("More", "PARALLEL swept"),
    ]
    folded = [part["name"] for part in view["compareRunSections"] if not part["display"]]
    assert sorted(folded) == ["Model metrics", "best", "final", "loss", "score"]  # none without charts
    assert view["selectedColumns"] == [
        "params.`variant`",
        "metrics.`best/fid_classifier`",
        "metrics.`final/fid_classifier`",
    ]


def test_runs_that_are_not_ranked_together_get_no_bars_and_a_title_that_says_so(tmp_path):
    view = view_of(job(tmp_path, "dcgan"), job(tmp_path, "wgan", tags={"metrics.n_generated": "500"}))
    assert view["compareRunSections"][0]["name"] == "Not ranked together: generated images: 500 and 2000"
    assert {chart["type"] for chart in view["compareRunCharts"]} == {"LINE", "IMAGE"}
    assert view["orderByKey"] == "params.`variant`"


def test_the_samples_stand_at_a_step_that_every_run_has(tmp_path):
    longer = {"steps": "400"}
    view = view_of(job(tmp_path, "dcgan"), job(tmp_path, "wgan", params=longer))
    (images,) = [chart for chart in view["compareRunCharts"] if chart["type"] == "IMAGE"]
    assert images["step"] == 300


@pytest.mark.parametrize(("ending", "left_out"), [("FAILED", True), ("FINISHED", False)])
def test_failed_runs_are_left_out_of_the_charts(sweep, ending, left_out):
    folder, parent, store = sweep
    runs = [from_folder(folder / "0_dcgan"), replace(from_folder(folder / "1_dcgan"), status=ending)]
    page = mlflow_page.prepare(store, compare(runs, "runs", folder / "report.html"), parent)
    assert page.view.runs.endswith(" and attributes.status != 'FAILED'") is left_out
    assert len(store.search(page.view.runs)) == len(JOBS)  # MLflow understands it


def test_a_deleted_experiment_is_called_deleted(sweep):
    folder, parent, store = sweep
    store.client.delete_experiment(store.experiment_id)
    comparison = compare([from_folder(folder / "0_dcgan")], "runs", folder / "report.html")
    with pytest.raises(UserError, match=r"'gantry' was deleted; .* experiments restore --experiment-id 1"):
        mlflow_page.prepare(store, comparison, parent)
    assert "was deleted" in with_page(comparison, store, parent).no_page


def a_run(*overrides: str, variant: str = "dcgan", seed: int = 0, data: str = "digits", steps: int = 200) -> Run:
    tags = {"variant": variant, "dataset": data, "seed": str(seed)}
    return Run("", "FINISHED", tags=tags, params={"steps": str(steps)}, overrides=overrides)


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([a_run()], "dcgan on digits, 200 steps"),
        ([a_run(seed=seed) for seed in (0, 1, 2)], "dcgan x 3 seeds on digits, 200 steps"),
        (
            [a_run(f"batch_size={size}", variant=name) for name in ("dcgan", "wgan", "lsgan") for size in (32, 64)],
            "3 variants x 2 batch_size on digits, 200 steps",
        ),
        (
            [a_run(f"model.optimizer.lr={lr}", f"batch_size={size}") for lr, size in ((1, 2), (3, 4), (5, 6))],
            "3 runs of dcgan over lr, batch_size on digits, 200 steps",
        ),
        ([a_run(data="digits"), a_run(data="mnist", steps=1000)], "2 runs of dcgan on mnist/digits, 200/1000 steps"),
        ([Run("0_dcgan", "NOT STARTED")], ""),
    ],
)
def test_what_a_sweep_compares_is_said_in_a_line(runs, said):
    assert summary(runs) == said


def test_what_a_sweep_varies_is_known_to_its_jobs():
    typed = ["model=dcgan,wgan", "model.optimizer.lr=interval(1e-4,1e-2)", "steps=200", "batch_size=32,64"]
    mine = ["model=wgan", "model.optimizer.lr=0.001", "steps=200", "batch_size=64", "+data.keep=2", "sweep.jobs=2"]
    assert swept(mine, typed) == {
        "model": "wgan",
        "model.optimizer.lr": "0.001",
        "batch_size": "64",
        "data.keep": "2",  # from the config of a search
    }


@pytest.mark.parametrize(
    ("chosen", "overrides", "name"),
    [
        (
            "dcgan-digits-0",
            "model=dcgan steps=9 batch_size=64 model.optimizer.lr=0.1",
            "dcgan-digits-0 batch_size=64 lr=0.1",
        ),
        ("dcgan-digits-0", "model=dcgan steps=9", "dcgan-digits-0"),
        ("my own", "model=dcgan batch_size=64", "my own"),
        (
            "dcgan-digits-0",
            f"batch_size=6 data.folder={'x' * 500}",
            f"dcgan-digits-0 batch_size=6 folder={'x' * 85}… 3_dcgan",
        ),
    ],
)
def test_the_runs_of_a_sweep_have_names_of_their_own(tmp_path, chosen, overrides, name):
    (tmp_path / "sweep.json").write_text(json.dumps({"overrides": ["model=dcgan,wgan", "steps=9", "batch_size=6,64"]}))
    cfg = OmegaConf.create({"seed": 0, "tracking": {"run_name": chosen}})
    tags = {"variant": "dcgan", "dataset": "digits", "overrides": overrides}
    assert run_record._name(cfg, tmp_path / "3_dcgan", tags) == name
    assert run_record._name(cfg, tmp_path.parent / "alone" / "run", tags) == chosen
