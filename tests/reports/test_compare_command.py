"""`python compare.py` as it is typed: which runs it takes, what it leaves, and what it refuses."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compared import Page
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from project import ROOT

from gantry.commands.compare import job
from gantry.core.config.options import Compare
from gantry.core.config.typed import as_typed
from gantry.core.errors import UserError
from gantry.runs.tracking.query import open_store


def compared(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "compare.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


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
