"""`python compare.py` and what a sweep calls: real folders, a real store, the written report."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from forked import run
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from project import ROOT
from report_helpers import CLASSES, PARAMS, PROTOCOL, log_run, make_job, make_sweep

from gantry.commands.compare import job
from gantry.core.config.options import Compare
from gantry.core.config.typed import as_typed
from gantry.core.errors import UserError
from gantry.reports.build import compare_sweep
from gantry.reports.comparison import Comparison
from gantry.runs.tracking.folder_tracker import FolderTracker
from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.query import open_store
from gantry.runs.tracking.sweep_run import open_parent

HOSTILE = "<script>alert('x')</script>"
SHARES = dict.fromkeys(CLASSES, (0.1, 0.1))


class Page(HTMLParser):
    """What a browser would make of the report: its elements, addresses and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self._cell = False
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._cell:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of twelve jobs of which seven finished, one of them under a hostile name."""
    folder = tmp_path_factory.mktemp("outputs") / "12_sweep"
    jobs = {}
    finals = {"dcgan": 2.0, "wgan": 3.0, HOSTILE: 4.0}
    for variant, final in finals.items():
        for seed in (0, 1):
            name = f"{len(jobs)}_job"
            make_job(folder / name, variant, seed, final=final + seed, classes=SHARES, tags={"git.dirty": "true"})
            jobs[name] = [f"model={variant}", f"seed={seed}"]
    make_job(folder / "6_job", "single", final=50.0)
    make_job(
        folder / "7_job", "raises", status="FAILED", reason="ValueError: <b>bad</b>", log="one\ntwo & three\n", stops=0
    )
    make_job(folder / "8_job", "begun", status=None, stops=100)
    for number, reason in ((9, "killed by SIGKILL"), (10, "exit code 3")):
        (folder / f"{number}_job").mkdir()
        FolderTracker(folder / f"{number}_job").close("KILLED" if number == 9 else "FAILED", reason)
    jobs |= {f"{n}_job": [f"model=job{n}", "data.folder=/my data"] for n in range(6, 12)}
    return make_sweep(folder, jobs)


@pytest.fixture(scope="module")
def found(twelve: Path) -> Comparison:
    return compare_sweep(twelve)


def test_the_report_is_one_file_that_asks_for_nothing(twelve: Path, found: Comparison) -> None:
    assert found.report == twelve / "comparison" / "report.html"
    page = Page(found.report)
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert len(page.addresses) > 20
    assert not re.search(r"https?://|@import|url\(", found.report.read_text())
    assert found.report.stat().st_size < 3 * 2**20
    assert {path.name for path in found.report.parent.iterdir()} == {
        *("report.html", "samples.png", "coverage.png"),
        *("curves_steps.png", "curves_images.png", "curves_seconds.png"),
    }


def test_the_report_holds_all_that_was_asked(found: Comparison) -> None:
    page = Page(found.report)
    heads = ("Ranking", "Curves", "Samples", "Classes", "Cost", "What differed", "Not finished", "Run it again")
    assert [word for word in page.words if word in heads] == list(heads)
    assert "12 runs: 7 finished, 2 failed, 1 killed, 1 still running, 1 not started" in page.text
    assert [row[:4] for row in page.rows[1:5]] == [
        ["1", "dcgan", "2", "2.50 ± 0.71"],
        ["2", "wgan", "2", "3.50 ± 0.71"],
        ["3", HOSTILE, "2", "4.50 ± 0.71"],
        ["4", "single", "1", "50"],
    ]
    assert ["dcgan", "30.0 s", "8.0 s", "38,400", "1,280", "1,200"] in page.rows
    critics = page.rows[(at := [row[0] for row in page.rows].index("model.n_critic")) : at + 2]
    assert [row[:2] for row in critics] == [["model.n_critic", "1"], ["", "5"]]
    assert critics[1][2].startswith("wgan")
    assert "failed: ValueError: <b>bad</b>" in page.text
    assert "one two & three" in page.text
    assert "python train.py model=job10 'data.folder=/my data'" in page.text
    assert "commit abcdef0123, with changes that were not committed" in page.text


def test_a_name_is_shown_not_run(found: Comparison) -> None:
    page = Page(found.report)
    assert page.tags.count("script") == 1
    assert HOSTILE in page.text
    assert "<script" not in found.markdown()
    assert "&lt;script&gt;" in found.markdown()
    assert "python train.py 'model=<script>alert('\"'\"'x'\"'\"')</script>' seed=0" in page.text


def test_the_table_fits_the_terminal(found: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = found.text()
    assert [line for line in text.splitlines()[:-2] if len(line) > 80] == []
    assert re.search(r"1  dcgan +2 +2\.50 ± 0\.71", text)
    assert re.search(r"7_job: FAILED, ValueError: <b>bad</b>", text)
    assert text.splitlines()[-2].endswith("comparison/report.html")
    assert re.fullmatch(r"look at    \S+comparison/samples\.png", text.splitlines()[-1])


def test_a_narrow_terminal_is_told_which_columns_it_lacks(found: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "56")
    rows = [line for line in found.text().splitlines() if re.match(r"  +(\d|runs)", line)]
    assert [row for row in rows if len(row) > 56] == []
    assert "In the report also: best, images/s." in found.text()


def test_another_metric_and_other_steps(twelve: Path, tmp_path: Path) -> None:
    found = compare_sweep(twelve, metric="inception_score_classifier", steps=[0, 200], out=tmp_path)
    page = Page(tmp_path / "report.html")
    head = next(row for row in page.rows if "seeds" in row)
    assert head[3:6] == ["inception_score_classifier, final", "best", "step 200"]
    assert "at step 200" in found.report.read_text()
    with pytest.raises(UserError, match="metric=fid: not measured"):
        compare_sweep(twelve, metric="fid")


def cells(note: str) -> str:
    """A description's tables with plain blanks."""
    return re.sub(" +", " ", note.replace("&nbsp;", " "))


def test_forty_jobs_leave_a_short_description(tmp_path: Path) -> None:
    jobs = {f"{n}_job": ["model=dcgan", f"model.optimizer.lr={n}"] for n in range(40)}
    for n, (name, typed) in enumerate(jobs.items()):
        make_job(tmp_path / name, params={"model.optimizer.lr": str(n)}, overrides=typed, final=1.0 + n, stops=0)
        FolderTracker(tmp_path / name).log_metrics({"final/fid_classifier": 1.0 + n}, 300)
    found = compare_sweep(make_sweep(tmp_path, jobs))
    note = found.markdown()
    assert len(note) <= 8000
    assert "| 1 | dcgan lr=0 | 1 | 1 |" in cells(note)
    assert "| 40 | dcgan lr=39 | 1 | 40 |" in cells(note)
    assert note.endswith("among the artifacts.")


@pytest.mark.parametrize("what", ["only failures", "nothing yet", "one run", "no images"])
def test_partial_sweeps_have_a_report_too(what: str, tmp_path: Path) -> None:
    jobs = {"0_job": ["model=dcgan"]}
    if what == "only failures":
        (tmp_path / "0_job").mkdir()
        FolderTracker(tmp_path / "0_job").close("FAILED", "UserError: no")
    elif what != "nothing yet":
        make_job(tmp_path / "0_job")
        if what == "no images":
            shutil.rmtree(tmp_path / "0_job" / "samples")
            shutil.rmtree(tmp_path / "0_job" / "real")
    found = compare_sweep(make_sweep(tmp_path, jobs))
    page = Page(found.report)
    expected = {
        "only failures": "1 failed",
        "nothing yet": "1 not started",
        "one run": "1 finished",
        "no images": "1 finished",
    }
    assert expected[what] in page.text
    assert expected[what] in found.text()
    assert ("Samples" in page.words) == (what == "one run")


@pytest.fixture(scope="module")
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


def test_a_sweep_shows_its_comparison_in_mlflow(tracked: tuple[Path, str, Path]) -> None:
    folder, parent, here = tracked
    found = compare_sweep(folder)
    assert {run.name: run.status for run in found.runs} == {
        "0_dcgan": "FINISHED",
        "wgan": "FINISHED",
        "2_sngan": "NOT STARTED",
    }
    store = open_store(str(here / "mlruns"), "gantry")
    assert store is not None
    files = {Path(item.path).name for item in store.client.list_artifacts(parent, "comparison")}
    assert files >= {"report.html", "samples.png", "curves_steps.png", "coverage.png"}
    note = store.client.get_run(parent).data.tags["mlflow.note.content"]
    assert "| 1 | wgan | 1 | 1 |" in cells(note)
    assert "| 2 | dcgan | 1 | 2 |" in cells(note)


def test_a_store_that_is_away_costs_a_warning_not_the_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    jobs = {"0_job": ["model=dcgan"]}
    make_job(tmp_path / "0_job")
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_text("not a data base")
    for uri in (tmp_path / "mlruns", tmp_path / "absent"):
        caplog.clear()
        found = compare_sweep(make_sweep(tmp_path, jobs, "0" * 32, str(uri)))
        assert found.report.exists()
        assert "The comparison is not shown in MLflow" in caplog.text
    assert not (tmp_path / "absent").exists()


def compared(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(ROOT / "compare.py", *arguments, cwd=folder)


def test_the_command_takes_the_latest_sweep_and_leaves_only_its_report(tracked: tuple[Path, str, Path]) -> None:
    folder, _, here = tracked
    shutil.rmtree(folder / "comparison", ignore_errors=True)
    before = {path for path in here.rglob("*") if "mlruns" not in path.parts}
    done = compared(here)
    assert done.returncode == 0, done.stderr
    assert "3 runs: 2 finished, 1 not started" in done.stdout
    new = {path for path in here.rglob("*") if "mlruns" not in path.parts} - before
    assert {path.relative_to(here).parts[:4] for path in new} == {
        ("outputs", "2026-01-01", "10-00-00_sweep", "comparison")
    }


def asked(folder: Path, *overrides: str) -> DictConfig:
    """The config that a command line in `folder` would compose."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("compare", [f"paths.root='{folder}'", *overrides])


def test_a_sweep_whose_folder_is_elsewhere_is_read_from_mlflow(
    tracked: tuple[Path, str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, parent, here = tracked
    (folder / "sweep.json").rename(tmp_path / "sweep.json")
    try:
        job(asked(here, f"sweep={parent}", f"out={tmp_path}"))
    finally:
        (tmp_path / "sweep.json").rename(folder / "sweep.json")
    assert re.search(r"1  wgan .*\n.*2  dcgan", capsys.readouterr().out)
    assert Page(tmp_path / "report.html").addresses


def test_runs_by_filter_typed_as_mlflow_wants_it(
    tracked: tuple[Path, str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "it's (1), \\ here"
    typed = ("filter=tags.variant = 'wgan'", f"out={out}")
    job(asked(tracked[2], *as_typed(typed, Compare)))
    assert "Runs with tags.variant = 'wgan': 1 run: 1 finished" in capsys.readouterr().out
    assert (out / "report.html").exists()


@pytest.mark.parametrize("text", ["it's", "a\\b", "end\\", "a\\'b", "[1,2]", "x: {y}", "'quoted'"])
def test_text_reaches_hydra_as_typed(text: str) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose("compare", as_typed([f"filter={text}"], Compare)).filter == text


def test_runs_by_id_and_folder(
    tracked: tuple[Path, str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, here = tracked
    monkeypatch.chdir(here)
    store = open_store(str(here / "mlruns"), "gantry")
    assert store is not None
    (wgan,) = store.search("tags.variant = 'wgan'")
    job(asked(here, f"runs=[{wgan.info.run_id},{(folder / '0_dcgan').relative_to(here)}]"))
    assert re.search(r"1  wgan .*\n.*2  dcgan", capsys.readouterr().out)
    assert len(list(here.glob("outputs/*/*_comparison/report.html"))) == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["sweep=unheard of"],
            r"sweep=unheard of: no such sweep \(a folder, .*\); the newest:\n  \w{32}  (2 variants|sweep outputs/)",
        ),
        (["runs=[nowhere]"], r"runs=nowhere: no such run \(a folder, an id or a name in MLflow"),
        (["runs=[]"], "name at least one"),
        (["filter=x", "runs=[a]"], "runs and filter exclude one another"),
        (["filter='tags.variant = \"none\"'"], "filter: no run of the experiment gantry matches"),
        (["steps=late"], "steps: must be a list of generator steps"),
    ],
)
def test_what_is_not_there_is_refused(overrides: list[str], said: str, tracked: tuple[Path, str, Path]) -> None:
    with pytest.raises(UserError, match=said):
        job(asked(tracked[2], *overrides))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["metrik=fid"], "did you mean 'metric'?"),
        (["-m", "metric=a,b"], "leave out -m"),
        (["sweep=none (of it)"], "sweep=none (of it): no such sweep (a folder, an id or a name in MLflow"),
        (["tracking=none"], "no sweep yet"),
        (["ui=no"], "ui: must be true or false, not 'no'"),
        (["ui=yess", "metric="], "ui: must be true or false, not 'yess'"),
        (["~ui"], "ui: missing"),
        (["tracking.uri=foo://x"], "'foo' is not a store Gantry can use"),
        (["out=/dev/null/x"], "out=/dev/null/x cannot be written: Not a directory; choose another out=..."),
    ],
)
def test_a_wrong_command_is_refused_and_leaves_nothing(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = compared(tmp_path, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
