"""The command line as a user meets it: real processes, exit codes, and what is printed."""

import os
import subprocess
import sys

import pytest
from forked import run

SCRIPT = """
import os, sys
from pathlib import Path
from gantry.commands.cli import run

def task(cfg):
    if cfg.action == "refuse":
        from gantry.core.errors import UserError
        raise UserError("action: cannot be this; choose work")
    if cfg.action == "break":
        raise RuntimeError("something broke")
    if cfg.action == "interrupt":
        raise KeyboardInterrupt
    if cfg.action == "wrapped":
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error
    if cfg.action == "leak":
        import logging
        logging.getLogger("x").warning("%s %s %s", cfg.a0, cfg.a1, cfg.store)
        logging.getLogger("x").error("it broke", exc_info=ValueError(cfg.a2))
        raise RuntimeError(f"connecting to {cfg.store} with {cfg.a0} {cfg.a1} {cfg.a2}")
    if cfg.action == "exit":
        raise SystemExit(143)
    print("worked", cfg.model.n_critic, os.environ.get("HYDRA_FULL_ERROR"))

try:
    run(task, Path(__file__).parent / "conf", "train")
finally:
    slow = sorted({"torch", "numpy", "mlflow"} & set(sys.modules))
    print("slow imports:", slow, file=sys.stderr)
"""
TRAIN = """
defaults:
  - model: vanilla
  - _self_
seed: 0
batch_size: 4
action: work
metrics: {every: 5}
hydra:
  run: {dir: out}
  sweep: {dir: sweep, subdir: "${hydra.job.num}"}
"""


@pytest.fixture
def app(tmp_path):
    """Runs the little application with arguments; returns the finished process."""
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/train.yaml").write_text(TRAIN)
    (tmp_path / "conf/model/vanilla.yaml").write_text("n_critic: 1\ngenerator: {norm: batch, width: 8}\n")
    (tmp_path / "conf/model/wgan.yaml").write_text("defaults: [vanilla, _self_]\nn_critic: 5\n")
    (tmp_path / "train.py").write_text(SCRIPT)

    def start(*arguments, **environment):
        environment = {**os.environ, "HYDRA_FULL_ERROR": "", **environment}
        done = run("train.py", *arguments, cwd=tmp_path, env=environment)
        # Nothing slow is imported on any path through the command line.
        assert "slow imports: []" in done.stderr
        done.stderr = done.stderr.replace("slow imports: []\n", "")
        return done

    start.folder = tmp_path
    return start


def test_runs_the_task_in_the_users_environment(app):
    done = app("model=wgan")
    assert (done.returncode, done.stdout, done.stderr) == (0, "worked 5 \n", "")
    assert (app.folder / "out/.hydra/config.yaml").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["n_critc=3"], ["n_critc: no such option; did you mean 'model.n_critic'?", "batch_size", "seed"]),
        (["model.n_critc=3"], ["did you mean 'model.n_critic'?", "options of model: generator, n_critic"]),
        (["batchsize=3"], ["did you mean 'batch_size'?"]),
        (["modl=wgan"], ["did you mean 'model'?"]),
        (["norm=none"], ["did you mean 'model.generator.norm'?"]),
        (["seed.x=3"], ["seed.x: no such option", "options of seed: none"]),
        (["model=wgn"], ["did you mean 'wgan'?", "choices of model: vanilla, wgan"]),
        (["-m", "model=wgan,vanila"], ["did you mean 'vanilla'?", "choices of model: vanilla, wgan"]),
        (["hydra/launcher=slrm"], ["choices of hydra/launcher: ", "basic"]),
        (["hydra.job.chdr=true"], ["did you mean 'hydra.job.chdir'?"]),
        (["a="], ["a: no such option"]),
        (["seed=[1"], ["cannot read 'seed=[1'"]),
        (["model=3"], ["Config group override must be a string"]),
        (["seed=1,2"], ["--multirun"]),
        (["hydra.mode=FOO"], ["RUN, MULTIRUN"]),
        (["hydra.run.dir=${nowhere}"], ["hydra.run.dir: ", "nowhere"]),
        (["--config-name", "tain"], ["'tain'"]),
        (["action=refuse"], ["action: cannot be this; choose work"]),
    ],
)
def test_a_users_mistake_is_one_clear_message(app, arguments, said):
    done = app(*arguments)
    assert done.returncode == 2
    assert [part for part in said if part not in done.stderr] == []
    assert "Traceback" not in done.stderr
    assert "worked" not in done.stdout


def test_a_refusal_is_the_whole_of_the_output(app):
    done = app("action=refuse")
    assert done.stderr == "action: cannot be this; choose work\n"


def test_a_broken_yaml_is_named(app):
    (app.folder / "conf/model/mine.yaml").write_text("n_critic: [1\n")
    done = app("model=mine")
    assert done.returncode == 2
    assert "mine.yaml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["hydra.run.dir=file/out"], ["-m", "hydra.sweep.dir=file", "seed=1"]], ids=["run", "sweep"]
)
def test_an_impossible_output_folder_is_named_with_its_key(app, arguments):
    (app.folder / "file").write_text("")
    done = app(*arguments)
    assert done.returncode == 2
    assert [p for p in ("file", "hydra.run.dir", "hydra.sweep.dir") if p not in done.stderr] == []
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_folder_is_named_with_its_key(app):
    (app.folder / "out").mkdir(mode=0o555)
    done = app()
    assert done.returncode == 2
    assert [p for p in ("out", "Permission denied", "hydra.run.dir") if p not in done.stderr] == []
    assert "Traceback" not in done.stderr


def test_a_log_file_that_cannot_be_opened_is_named(app):
    (app.folder / "out/train.log").mkdir(parents=True)
    done = app()
    assert done.returncode == 2
    assert "train.log" in done.stderr
    assert "Traceback" not in done.stderr


def test_our_own_mistakes_keep_their_traceback(app):
    done = app("action=break")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.count("RuntimeError: something broke") == 1
    assert "jobs failed" not in done.stderr


def test_interrupt_and_exit_keep_their_codes(app):
    interrupted = app("action=interrupt")
    assert interrupted.returncode == 130
    assert "Traceback" not in interrupted.stderr
    assert app("action=exit").returncode == 143


def test_an_interrupt_that_a_library_replaces_is_one(app):
    done = app("action=wrapped")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_full_errors_on_request(app):
    refused = app("action=refuse", HYDRA_FULL_ERROR="1")
    assert refused.returncode == 2
    assert "Traceback" in refused.stderr
    misspelt = app("n_critc=3", HYDRA_FULL_ERROR="1")
    assert misspelt.returncode == 2
    assert "ConfigAttributeError" in misspelt.stderr


def test_a_sweep_goes_on_after_a_failure_and_tells_of_it(app):
    done = app("-m", "action=work,refuse,break,work")
    assert done.returncode == 1
    assert done.stdout.count("worked") == 2
    assert "job 1 (action=refuse) failed:\naction: cannot be this" in done.stderr
    assert "job 2 (action=break) failed:\nTraceback" in done.stderr
    assert done.stderr.endswith("2 of 4 jobs failed\n")


def test_a_sweep_whose_failures_are_all_refusals(app):
    done = app("-m", "action=work,refuse")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_sweep_without_failures(app):
    assert app("-m", "model=vanilla,wgan").returncode == 0


@pytest.mark.parametrize(
    "arguments", [("-m", "seed=0", "model=vanilla,wgan"), ("seed=0", "--multirun", "model=vanilla,wgan")]
)
def test_the_flag_of_a_sweep_may_stand_anywhere(app, arguments):
    done = app(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("worked") == 2


def test_help_and_config(app):
    shown = app("--help")
    assert shown.returncode == 0
    assert "model: vanilla, wgan" in shown.stdout
    assert "n_critic: 5" in app("model=wgan", "--cfg", "job").stdout


@pytest.mark.parametrize("listed", [["model=bas"], ["--help"]])
def test_what_the_variants_share_is_no_choice(app, listed):
    (app.folder / "conf/model/base.yaml").write_text("n_critic: 1\n")
    done = app(*listed)
    assert "base" not in (done.stderr.replace("model/bas'", "") if listed == ["model=bas"] else "")
    swept = app("-m", "model=glob(*)")
    assert swept.returncode == 0
    assert swept.stdout.count("worked") == 2


def test_a_group_chosen_with_a_plus_is_told_what_to_type(app):
    done = app("+model=wgan")
    assert done.returncode == 2
    assert (
        done.stderr == "+model=wgan: model has a place in the config already; it is chosen without the +: model=wgan\n"
    )


def test_a_value_that_hydra_cannot_read_is_shown_as_it_is_typed(app):
    assert "as plain text it is typed \"action='日本'\"" in app("action=日本").stderr


def test_output_cut_short_by_a_pager_is_no_error(app):
    command = f"{sys.executable} train.py --help 2>errors | true; cat errors"
    done = subprocess.run(["bash", "-c", command], cwd=app.folder, capture_output=True, text=True)
    assert "BrokenPipe" not in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("sweep", [False, True])
def test_no_secret_is_written(app, tmp_path, sweep):
    planted = ["pass'w\"ord: 1", "tok/en\u00e9 {x}", "key%41\\n12"]
    environment = dict(zip(("MLFLOW_TRACKING_PASSWORD", "PGTOKEN", "AWS_SECRET_ACCESS_KEY"), planted, strict=True))
    uri = "http://me:in-the-address@host/?token=in-the-query"
    words = (f"+store='{uri}'", *(f"+a{i}=${{oc.env:{name}}}" for i, name in enumerate(environment)), "action=leak")
    done = app(*(["-m"] if sweep else []), *words, **environment)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "train.py"]
    assert {path.name for path in written} >= {"config.yaml", "hydra.yaml", "overrides.yaml", "train.log"}
    assert "multirun.yaml" in {path.name for path in written} or not sweep
    texts = {"stdout": done.stdout, "stderr": done.stderr} | {path.name: path.read_text() for path in written}
    for name, text in texts.items():
        assert [secret for secret in (*planted, "in-the-address", "in-the-query") if secret in text] == [], name
    assert "RuntimeError: connecting to http://***@host" in done.stderr
    overrides = next(path for path in written if path.name == "overrides.yaml").read_text()
    assert "http://***@host/?token=***" in overrides
