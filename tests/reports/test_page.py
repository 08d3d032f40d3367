"""What the report's page is made of: the curves it draws, its links to MLflow, and how much room its pictures take."""

import base64
import gzip
import io
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_helpers import PROTOCOL, make_job, make_sweep

from gantry.reports import charts, curves, html, links, pictures
from gantry.reports.build import compare_sweep
from gantry.reports.ranking import ComparableSet, comparable_sets
from gantry.reports.run import Run, from_folder
from gantry.runs.tracking.ui import run_address

FID = "fid_classifier"
METRICS = "?workflowType=machine_learning"
BASE = "http://127.0.0.1:5000"


def a_set(folder: Path, *jobs: tuple[str, int, dict]) -> ComparableSet:
    runs = [from_folder(make_job(folder / f"{i}", name, seed, **how)) for i, (name, seed, how) in enumerate(jobs)]
    (one,) = comparable_sets(runs)
    return one


def collected(one: ComparableSet) -> dict:
    (section,) = charts.charts([(one, curves.palette(one.groups))])
    return section


def panel(section: dict, metric: str = FID) -> dict:
    return next(found for found in section["panels"] if found["metric"] == metric)


def test_a_curve_has_its_mean_its_range_and_its_place_on_every_axis(tmp_path: Path) -> None:
    section = collected(a_set(tmp_path, ("dcgan", 0, {"final": 2.0}), ("dcgan", 1, {"final": 4.0})))
    assert section["axes"] == curves.AXES
    assert section["groups"] == [
        {"label": "dcgan", "colours": ["#0072B2", "#3D96E8"], "others": False, "dash": "solid"}
    ]
    (curve,) = panel(section)["curves"]
    assert curve["x"]["steps"] == [0, 100, 200, 300]
    assert curve["x"]["images"] == [0, 12800, 25600, 38400]
    assert curve["x"]["seconds"] == [0, 10, 20, 30]
    assert curve["mean"] == [103, 69.667, 36.333, 3]
    assert (curve["low"][-1], curve["high"][-1]) == (2, 4)
    assert panel(section)["better"] == "lower"
    assert panel(section)["scale"] == "log"  # 103 is more than 30 times 3
    assert panel(section, "inception_score_classifier")["better"] == "higher"


def test_a_single_seed_has_no_range_and_a_diverged_one_ends(tmp_path: Path) -> None:
    section = collected(a_set(tmp_path, ("dcgan", 0, {"diverges": True}), ("wgan", 0, {"status": "KILLED"})))
    lost, killed = (next(c for c in panel(section)["curves"] if c["group"] == number) for number in (0, 1))
    assert lost["mean"] == [102, 68.667, None, None]
    assert lost["low"] is None
    assert killed["mean"][0] == 102
    assert [group["dash"] for group in section["groups"]] == ["solid", "dotted"]


def test_an_axis_that_no_run_recorded_is_not_offered() -> None:
    run = Run("a", "FINISHED", params={"steps": "1"}, tags={"variant": "a"} | PROTOCOL, curves={FID: {0: 1.0, 1: 2.0}})
    section = collected(comparable_sets([run])[0])
    assert list(section["axes"]) == ["steps"]
    assert panel(section)["curves"][0]["x"] == {"steps": [0, 1], "images": [], "seconds": []}


@pytest.mark.parametrize("runs", [1, 12, 60])
def test_long_curves_are_thinned_to_what_a_report_has_room_for(runs: int) -> None:
    loss = {step: float(step) for step in range(5000)} | {4321: float("nan")}
    logged = {FID: {0: 1.0, 4999: 1.0}} | {f"loss/{name}": loss for name in "abcd"}
    tags = [{"variant": f"v{i}"} | PROTOCOL for i in range(runs)]
    many = [Run(tag["variant"], "FINISHED", params={"steps": "4999"}, tags=tag, curves=logged) for tag in tags]
    section = collected(comparable_sets(many)[0])
    sizes = [len(curve["mean"]) for one in section["panels"] for curve in one["curves"]]
    assert sum(sizes) <= charts.ALL_POINTS + 2 * len(sizes)
    for curve in panel(section, "loss/a")["curves"]:
        assert charts.FEWEST_POINTS <= len(curve["mean"]) <= charts.MOST_POINTS + 1
        assert (curve["x"]["steps"][0], curve["x"]["steps"][-1]) == (0, 4999)


def test_the_page_holds_the_library_and_the_curves_packed(tmp_path: Path) -> None:
    one = a_set(tmp_path, ("dcgan", 0, {}))
    section = collected(one)
    packed = charts.packed([section])
    there = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert there["sections"] == [section]
    assert "Bokeh" in there["library"]
    assert len(packed) < 700_000
    assert charts.packed([]) == ""


def test_scripts_and_styles_are_text_of_the_page() -> None:
    folder = Path(html.__file__).parent
    script, style = ((folder / name).read_text() for name in ("report.js", "report.css"))
    assert "</script" not in script.lower()
    assert "</style" not in style.lower()
    assert "default-src 'none'" in html.POLICY


@pytest.mark.parametrize("side", [28, 96])
def test_all_grids_of_a_report_keep_to_their_room(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    noise, buffer = np.random.default_rng(0).integers(0, 256, (8 * (side + 1) + 1,) * 2 + (3,), np.uint8), io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    monkeypatch.setattr(pictures, "_sheet", lambda *_: b"")  # not in the page, and slow
    runs = [
        Run(
            f"v{i}",
            "FINISHED",
            params={"steps": "4"},
            tags={"variant": f"v{i}"} | PROTOCOL,
            curves={FID: dict.fromkeys(range(5), 1.0)},
            samples=dict.fromkeys(range(5), buffer.getvalue),
            real=buffer.getvalue,
        )
        for i in range(12)
    ]
    found = pictures.samples(comparable_sets(runs)[0], [1, 2, 3, 4])
    assert found is not None
    tiles = [tile for row in found.tiles.values() for tile in row.values()]
    assert len(tiles) == 48
    assert sum(len(tile.content) for tile in tiles) <= pictures.ROOM
    assert {tile.kind for tile in tiles} == {"jpeg"}


def test_a_grid_that_is_too_large_at_the_least_quality_is_reduced() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (384, 384, 3), dtype=np.uint8))
    tile = pictures.tile(noise, 8_000)
    assert len(tile.content) <= 8_000
    assert Image.open(io.BytesIO(tile.content)).width in (96, 192)
    assert tile.side == 384


def test_the_address_of_a_run() -> None:
    there = f"http://host/mlflow/#/experiments/3/runs/abc{METRICS}"
    assert run_address("http://host/mlflow", "3", "abc") == run_address("http://host/mlflow/", "3", "abc") == there
    assert run_address(BASE, '3"><b>', "a b/c") == f"{BASE}/#/experiments/3%22%3E%3Cb%3E/runs/a%20b%2Fc{METRICS}"


@pytest.mark.parametrize(
    ("store", "base"),
    [
        ("http://host:5000", "http://host:5000"),
        ("https://name:pass@word@host/at/?token=t#there", "https://host/at"),
        ("https://***@host/", "https://host"),
        ("mlruns", BASE),
        ("postgresql://me:secret@host/runs", BASE),
    ],
)
def test_a_page_is_at_its_server_without_a_password_or_where_mlflow_will_serve_it(store: str, base: str) -> None:
    assert links.page(store, "3", "abc") == f"{base}/#/experiments/3/runs/abc{METRICS}"


@pytest.mark.parametrize(
    ("store", "experiment", "run_id"),
    [(None, "3", "abc"), ("http://host", None, "abc"), ("http://host", "3", None), ("ftp://host", "3", "abc")],
)
def test_without_store_experiment_or_id_there_is_no_link(store: str, experiment: str, run_id: str) -> None:
    assert links.page(store, experiment, run_id) is None


def stored(folder: Path, run_id: str) -> str:
    """A store with one run of experiment 7; returns its address."""
    folder.mkdir()
    with sqlite3.connect(folder / "mlflow.db") as rows:
        rows.execute("CREATE TABLE runs (run_uuid TEXT, experiment_id INTEGER)")
        rows.execute("INSERT INTO runs VALUES (?, 7)", (run_id,))
    rows.close()
    return f"sqlite:///{folder / 'mlflow.db'}"


def test_the_experiment_of_a_run_in_a_folder_store_is_looked_up(tmp_path: Path) -> None:
    address = stored(tmp_path / "mlruns", "abc")
    assert links.page(address, None, "abc") == f"{BASE}/#/experiments/7/runs/abc{METRICS}"
    assert links.page(address, None, "other") is None
    assert links.page(str(tmp_path / "nothing"), None, "abc") is None
    assert not (tmp_path / "nothing").exists()


def test_the_report_links_to_the_runs_of_a_folder_store_and_says_the_command(tmp_path: Path) -> None:
    address = stored(tmp_path / "mlruns", "abc")
    folder = tmp_path / "sweep"
    jobs = {f"{seed}_job": ["model=dcgan", f"seed={seed}"] for seed in (0, 1)}
    for seed, name in enumerate(jobs):
        make_job(folder / name, seed=seed)
        record = {"run_id": ("abc", None)[seed], "experiment": "gantry", "uri": address, "run_name": name}
        record |= {"tags": {}, "start_time": 0, "gantry.id": "k"}
        (folder / name / "mlflow_run.json").write_text(json.dumps(record))
    text = compare_sweep(make_sweep(folder, jobs)).report.read_text()
    link = f'<a href="{BASE}/#/experiments/7/runs/abc{METRICS}" target="_blank" rel="noopener">'
    assert f"MLflow, seed {link}0</a></div>" in text
    assert f"{link}0_job</a>" in text
    assert text.count("/runs/") == 2  # of the other run the id is not known
    assert f"mlflow ui --backend-store-uri {address}" in text
