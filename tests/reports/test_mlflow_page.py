"""The page of MLflow that a comparison prints, opened in a browser that has never seen MLflow.

Set GANTRY_SCREENSHOTS to a folder to keep the pictures of the pages, such as those in the guides.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from project import ROOT
from report_helpers import PARAMS, PROTOCOL, VARIANTS, grid, log_run, make_job, make_sweep

from gantry.core.errors import UserError
from gantry.core.files import read_json
from gantry.reports.build import compare_sweep
from gantry.reports.mlflow_page import swept
from gantry.runs.tracking import ui, ui_server
from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.query import NOTE, open_store
from gantry.runs.tracking.sweep_run import open_parent

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
NO_BROWSER = pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="no Chromium, or no chromedriver")
FINALS = {"dcgan": 2.0, "wgan": 1.0, "vanilla": 5.0}
SMALL = {"width": 1400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
LONG = 240  # seconds that a page may take on a busy machine


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A finished sweep of three variants in a store of its own: its folder, its run and the folder around it."""
    here = tmp_path_factory.mktemp("swept")
    folder = here / "outputs" / "2026-01-01" / "10-00-00_sweep"
    uri = str(here / "mlruns")
    parent = open_parent(uri, "gantry", "sweep outputs/2026-01-01/10-00-00_sweep", ["model=dcgan,wgan,vanilla"], folder)
    for number, (variant, final) in enumerate(FINALS.items()):
        place = make_job(folder / f"{number}_{variant}", variant, final=final)
        tags = {"variant": variant, "dataset": "digits", "seed": "0", "gantry.folder": str(place)} | PROTOCOL
        tags |= {"metrics.primary": "fid_classifier", "metrics.higher_is_better": json.dumps({"fid_classifier": False})}
        params = PARAMS | VARIANTS.get(variant, {}) | {"variant": variant}
        tracker = MLflowTracker(uri, "gantry", place, run_name=variant, tags=tags, params=params, parent_run_id=parent)
        log_run(tracker, final=final)
        tracker.log_image(grid(0, 100), "real", 0)
        tracker.close("FINISHED")
    jobs = {f"{number}_{variant}": [f"model={variant}"] for number, variant in enumerate(FINALS)}
    return make_sweep(folder, jobs, parent, uri), parent, here


@pytest.fixture(scope="module")
def alone(sweep):
    """The key of the view of a run that is in no sweep."""
    place = sweep[2] / "outputs" / "2026-01-01" / "11-00-00_dcgan_digits"
    place.mkdir()
    tags = {"variant": "dcgan", "dataset": "digits", "metrics.primary": "fid_classifier"} | PROTOCOL
    tracker = MLflowTracker(str(sweep[2] / "mlruns"), "gantry", place, run_name="dcgan-digits-0", tags=tags)
    log_run(tracker, final=2.0)
    tracker.close("FINISHED")
    return read_json(place / "mlflow_run.json")["view"]


@pytest.fixture(scope="module")
def compared(sweep):
    return compare_sweep(sweep[0])


@pytest.fixture
def store(sweep):
    return open_store(str(sweep[2] / "mlruns"), "gantry")


def test_the_text_ends_with_a_command_and_the_pages_address(compared, sweep, monkeypatch):
    monkeypatch.setattr(ui, "free_port", lambda: 5000)
    *_, command, address = compared.text().splitlines()
    database = f"sqlite:///{sweep[2]}/mlruns/mlflow.db"
    assert re.fullmatch(rf"MLflow     \S*mlflow ui --backend-store-uri {re.escape(database)}", command)
    assert address.split() == [
        "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART"
        f"&viewStateShareKey=gantry-{sweep[1]}"
    ]


def test_the_sweeps_own_run_holds_the_values_of_its_jobs(compared, sweep, store):
    expected = {"fid_classifier": 1.0} | {f"fid_classifier/{variant}": final for variant, final in FINALS.items()}
    metrics = store.client.get_run(sweep[1]).data.metrics
    assert metrics == pytest.approx({f"{when}/{k}": v for when in ("best", "final") for k, v in expected.items()})


def test_the_experiments_description_keeps_what_the_user_wrote(compared, sweep, store):
    store.client.set_experiment_tag(store.experiment_id, NOTE, "Mine.")
    for _ in range(2):
        compare_sweep(sweep[0])
    note = store.client.get_experiment(store.experiment_id).tags[NOTE]
    assert note.startswith("Mine.\n\nLatest comparison: 3 variants on digits, 300 steps <!-- comparison -->\n")
    assert note.count("<!-- comparison -->") == 1
    assert f"get-artifact?path=comparison%2Fsamples.png&run_uuid={sweep[1]}" in note


def test_what_was_typed_and_differs_is_an_axis(compared):
    assert swept(compared.sets[0].runs) == ["variant"]


def test_a_view_too_long_for_a_tag_is_left_to_the_address(store):
    view = ui.View("tags.a = 'b'", {f"fid{k}": ["fid"] for k in range(40)}, "best/fid", False)
    assert not ui.store_view(store.client, store.experiment_id, "x", view)
    assert ui.view_address("http://h", "1", view) == (
        "http://h/#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART"
        "&searchFilter=tags.a%20%3D%20%27b%27&orderByKey=metrics.%60best%2Ffid%60&orderByAsc=false"
    )


def test_a_server_is_named_without_its_password():
    assert ui.address_of("http://user:secret@host:5000/mlflow/") == "http://host:5000/mlflow"
    assert ui.starting("http://user:secret@host:5000") == (None, "http://host:5000")


def test_without_a_store_there_is_no_page(tmp_path, typed, monkeypatch, sweep):
    from gantry.commands import compare

    monkeypatch.chdir(tmp_path)
    code, _, said = typed(compare.main, f"sweep={sweep[0]}", "ui=true", "tracking=none")
    assert code == 2
    assert "tracking=none" in said


def test_a_server_that_ends_by_itself_is_no_quiet_end(monkeypatch, sweep, capsys):
    program = "print('no more room', flush=True)"  # in place of MLflow's server

    def ending(_, **options):
        return popen([sys.executable, "-c", program], **options)

    popen = subprocess.Popen
    monkeypatch.setattr(ui_server.subprocess, "Popen", ending)
    monkeypatch.setattr(ui_server, "served", lambda _: False)
    with pytest.raises(UserError, match="server has ended:\nno more room"):
        ui_server.serve(sweep[2] / "mlruns", str)
    monkeypatch.setattr(ui_server, "_await", lambda *_: None)  # it has answered before
    with pytest.raises(UserError, match="server has ended:\nno more room"):
        ui_server.serve(sweep[2] / "mlruns", str)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium with a profile of its own."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    switches = ["headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "window-size=1600,1500"]
    switches += ["disable-background-networking", "disable-component-update", "disable-sync"]
    for switch in (*switches, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{switch}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(LONG)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def opened(sweep, tmp_path_factory):
    """The address that `compare.py ui=true` prints, while it serves the page."""
    log = tmp_path_factory.mktemp("ui") / "said.txt"
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    with log.open("w") as said:
        command = [sys.executable, str(ROOT / "compare.py"), f"sweep={sweep[0]}", "ui=true"]
        started = subprocess.Popen(command, cwd=sweep[2], stdout=said, stderr=subprocess.STDOUT, env=environment)
    try:
        deadline = time.monotonic() + LONG
        while "Ctrl-C ends it." not in log.read_text():
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        *_, ranking, waiting, address, _ = log.read_text().splitlines()
        assert (ranking.split()[0], waiting) == ("look", "starting MLflow, which takes up to half a minute")
        yield address
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 0, log.read_text()
        with pytest.raises(OSError, match="refused"):
            urlopen(address)
    finally:
        started.kill()


def urlopen(address):
    import urllib.request

    return urllib.request.urlopen(address.partition("#")[0], timeout=5)


def until(browser, true):
    """Wait until `true()`; returns it."""
    deadline = time.monotonic() + LONG
    while not (found := true()):
        assert time.monotonic() < deadline, browser.find_element("tag name", "body").text
        time.sleep(0.3)
    return found


def keep(browser, name):
    folder = os.environ.get("GANTRY_SCREENSHOTS")
    if folder is not None:
        time.sleep(3)  # what is drawn settles
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


TITLES = """return [...document.querySelectorAll('h4')]
.filter(e => e.offsetParent).map(e => [e.textContent, e.clientWidth / e.scrollWidth]);"""
STROKES = "return [...document.querySelectorAll('.scatterlayer .trace path.js-line')].map(e => e.style.stroke)"
WIDTHS = "return [...document.querySelectorAll('.js-plotly-plot')].map(e => e.getBoundingClientRect().width)"
HEIGHTS = """return [...document.querySelectorAll('img')]
.filter(e => e.src.includes('samples') && !e.src.includes('comparison'))
.map(e => e.getBoundingClientRect().y);"""
BARS = "return [...document.querySelectorAll('.barlayer .point text')].map(e => e.textContent)"
LINES = "return document.querySelectorAll('.scatterlayer .trace').length"
GRIDS = "return [...document.querySelectorAll('img')].filter(e => e.src.includes('samples')).map(e => e.naturalWidth)"


@NO_BROWSER
def test_beside_mlflows_assistant_the_first_charts_can_be_read(browser, opened):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", SMALL)
    browser.get(opened)
    until(browser, lambda: len(browser.execute_script(BARS)) == 3)
    until(browser, lambda: "MLflow Assistant" in browser.find_element("tag name", "body").text)
    until(browser, lambda: browser.execute_script(WIDTHS)[:2] and min(browser.execute_script(WIDTHS)[:2]) > 190)
    keep(browser, "mlflow-small")
    titles = dict(browser.execute_script(TITLES))
    assert titles["fid_classifier"] == 1.0
    assert titles["best/fid_classifier"] > 0.75
    assert {"rgb(0, 114, 178)", "rgb(213, 94, 0)", "rgb(0, 158, 115)"} <= set(browser.execute_script(STROKES))


@NO_BROWSER
def test_a_new_browser_finds_the_comparison_at_the_address(browser, opened):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get("about:blank")
    browser.get(opened)
    until(browser, lambda: len(browser.execute_script(BARS)) == 3)
    assert sorted(browser.execute_script(BARS)) == ["1.00", "2.00", "5.00"]  # best/fid_classifier
    until(browser, lambda: browser.execute_script(LINES) >= 9)  # three metrics of three runs
    text = browser.find_element("tag name", "body").text
    rows = [name for name in text.split("\n") if name in FINALS]
    assert rows[:3] == ["wgan", "dcgan", "vanilla"]  # the best first
    assert "Comparison\n" in text
    assert "No charts in this section" not in text
    until(browser, lambda: sum(width > 0 for width in browser.execute_script(GRIDS)) >= 3)
    assert len(set(browser.execute_script(HEIGHTS))) == 1  # side by side
    browser.execute_script("""document.querySelector('[aria-label="Close"]')?.click();""")
    keep(browser, "mlflow")


@NO_BROWSER
def test_the_sweeps_own_page_shows_the_ranking_and_the_samples(browser, opened, sweep):
    base = opened.partition("/#/")[0]
    browser.get("about:blank")
    browser.get(f"{base}/#/experiments/1/runs/{sweep[1]}?workflowType=machine_learning")
    until(browser, lambda: "final/fid_classifier/wgan" in browser.find_element("tag name", "body").text)
    until(browser, lambda: any(browser.execute_script(GRIDS)))
    keep(browser, "mlflow-sweep")


@NO_BROWSER
def test_a_runs_address_shows_its_curves_and_samples(browser, opened, alone):
    base = opened.partition("/#/")[0]
    browser.get("about:blank")
    browser.get(ui.view_address(base, "1", alone))
    until(browser, lambda: {"fid_classifier", "loss/discriminator vs loss/generator"} <= titles_of(browser))
    until(browser, lambda: any(browser.execute_script(GRIDS)))
    keep(browser, "mlflow-run")


def titles_of(browser):
    return {title for title, _ in browser.execute_script(TITLES)}
