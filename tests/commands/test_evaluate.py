"""`python evaluate.py` as a user meets it: real processes, real files, a real MLflow store."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from project import ROOT

from gantry.commands import train
from gantry.commands.evaluate import main
from gantry.runs.folder import RUN_FILE
from gantry.runs.tracking.query import open_store

CHEAP = ("extractor=classifier", "n=100", "measures=[fid,kid,classes]")


def called(script, *arguments, folder, **environment):
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    """A folder with a tracked run, and the run's folder."""
    folder = tmp_path_factory.mktemp("trained")
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patched, suppress(SystemExit):
        patched.chdir(folder)
        patched.setattr(
            sys, "argv", ["train.py", "experiment=smoke", "model.generator.width=8", f"paths.cache={cache}"]
        )
        train.main()
    (run,) = (path.parent for path in folder.glob("outputs/*/*/generator"))
    return folder, run


@pytest.fixture(scope="module")
def swept(tmp_path_factory, cache):
    """A folder with a tracked sweep of two runs; their folders."""
    folder = tmp_path_factory.mktemp("swept")
    arguments = ("-m", "experiment=smoke", "model=dcgan,lsgan", "model.generator.width=8")
    code, _, errors = called("train.py", *arguments, folder=folder, GANTRY_CACHE=str(cache))
    assert code == 0, errors
    return folder, sorted(path.parent for path in folder.glob("outputs/*/*/*/generator"))


@pytest.fixture
def evaluate(trained, cache):
    def call(*arguments, folder=trained[0], **environment):
        return called("evaluate.py", *arguments, folder=folder, GANTRY_CACHE=str(cache), **environment)

    return call


def records(folder):
    return [json.loads(path.read_text()) for path in folder.glob("evaluations/*/*.json")]


def test_a_run_is_measured_into_its_folder_and_its_mlflow_run(evaluate, trained):
    folder, run = trained
    code, text, errors = evaluate(f"run={run.relative_to(folder)}", *CHEAP)
    assert code == 0, errors
    (record,) = records(run)
    assert record["values"].keys() == {"fid_classifier", "kid_classifier", "kid_std_classifier", "modes_classifier"}
    assert record["protocol"] == "custom"
    for name, value in record["values"].items():
        assert f"{name} " in text
        assert np.isfinite(value)
    assert record["classifier"]["sha256"] == record["settings"]["extractor_sha256"]
    assert 0.5 < record["classifier"]["classifier_accuracy"] <= 1
    assert abs(sum(generated for _, generated in record["classes"].values()) - 1) < 1e-9
    store = open_store(str(folder / "mlruns"), "gantry")
    tracked = store.get(json.loads((run / RUN_FILE).read_text())["run_id"])
    logged = {f"eval/{record['key']}/{name}": value for name, value in record["values"].items()}
    assert {name: value for name, value in tracked.data.metrics.items() if name.startswith("eval/")} == logged
    assert tracked.data.tags[f"eval.{record['key']}"] == record["description"]
    files = [item.path for item in store.client.list_artifacts(tracked.info.run_id, f"evaluations/{record['key']}")]
    assert files == [f"evaluations/{record['key']}/step_{record['step']}.json"]


@pytest.mark.slow
def test_a_sweep_is_measured_whole_and_compared(evaluate, swept):
    folder, runs = swept
    code, text, errors = evaluate(f"run={runs[0].parent.relative_to(folder)}", *CHEAP, "seed=3", folder=folder)
    assert code == 0, errors
    assert "[2/2]" in text
    assert "dcgan" in text
    assert "≈" in text
    command = text[text.index("report  ") :].split("compare.py ")[1].split()
    code, text, errors = called("compare.py", *(word.strip("'") for word in command), folder=folder)
    assert code == 0, errors
    assert "custom-seed3" in text


@pytest.mark.slow
def test_results_elsewhere_are_compared_under_their_runs_names(evaluate, swept, tmp_path):
    folder, runs = swept
    names = [str(run.relative_to(folder)) for run in runs]
    code, text, errors = evaluate(
        f"run=[{','.join(names)}]", *CHEAP, "measures=[fid]", f"out={tmp_path}", folder=folder
    )
    assert code == 0, errors
    assert len({path.parents[2] for path in tmp_path.rglob("step_*.json")}) == 2
    table = text[text.index("≈") :]
    assert sorted(re.findall(r"([01]_\w+)_digits", table.partition("report  ")[0])) == ["0_dcgan", "1_lsgan"]
    assert "not started" not in text


@pytest.mark.slow
def test_a_run_of_which_only_mlflow_knows_is_fetched_and_added_to(evaluate, swept, tmp_path):
    folder, (_, run) = swept
    run_id = json.loads((run / RUN_FILE).read_text())["run_id"]
    hidden = run.rename(run.with_name("elsewhere"))
    uri = f"tracking.uri={folder}/mlruns"
    try:
        for measure in ("fid", "kid"):  # each fetches what the other machine knows
            asked = (*CHEAP[:2], f"measures=[{measure}]", uri, f"paths.cache={tmp_path}/{measure}")
            code, _, errors = evaluate(f"run={run_id}", *asked, folder=tmp_path)
            assert code == 0, errors
    finally:
        hidden.rename(run)
    (record,) = (one for one in records(tmp_path / "kid" / "runs" / run_id) if "seed" not in one["key"])
    assert {"fid_classifier", "kid_classifier"} <= record["values"].keys()
    store = open_store(str(folder / "mlruns"), "gantry")
    assert f"eval/{record['key']}/fid_classifier" in store.get(run_id).data.metrics
    path = f"evaluations/{record['key']}/step_{record['step']}.json"
    held = json.loads(Path(store.client.download_artifacts(run_id, path, str(tmp_path))).read_text())
    assert held["values"] == record["values"]


def test_without_the_weights_it_stops_with_what_to_put_where(evaluate, tmp_path):
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    code, _, errors = evaluate("run=latest", TORCH_HOME=str(tmp_path), no_proxy="", **nowhere)
    assert code == 2
    assert "weights-inception-2015-12-05-6726825d.pth" in errors
    assert "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2" in errors
    assert str(tmp_path / "hub" / "checkpoints") in errors
    assert "extractor=classifier" in errors
    assert "Traceback" not in errors


def test_anyones_images_are_measured_without_mlflow(evaluate, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "theirs.npz", images)
    code, _, errors = evaluate(
        f"images={tmp_path}/theirs.npz",
        "data=digits",
        "extractor=classifier",
        "n=40",
        "measures=[fid]",
        folder=tmp_path,
    )
    assert code == 0, errors
    (made,) = tmp_path.glob("outputs/*/*_evaluation")
    (record,) = records(made)
    assert record["subject"]["images"] == f"{tmp_path}/theirs.npz"
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "run: say what to measure"),
        (
            ["run=latest", "data=mnist", "data.split=test"],
            "data.split: the part of the data that is compared is protocol",
        ),
        (["run=latest", "images=x", "data=digits"], "run, images: give one of them"),
        (["images=x"], "data= one of celeba, cifar10, digits"),
        (["images=nowhere", "data=digits"], "nowhere does not exist"),
        (["run=nowhere"], "no such run"),
        (["run=latest", "protocol=paper"], "choices of protocol: papers, quick, test10k"),
        (["run=latest", "extractor=inceptoin"], "choices of extractor: "),
        (["run=latest", "measures=[fud]", "n=3", "generator=first"], "did you mean 'fid'?"),
        (["run=latest", "measures=fid"], "measures: takes a list, measures=[fid]"),
        (["run=latest", "trusted=my_networks."], "trusted: takes a list, trusted=[my_networks.]"),
        (["run=latest", "generator=first"], "generator: must be one of best, last"),
        (["run=latest", "n=3"], "n: must be at least 30"),
        (["run=latest", "protocol=test10k", "extractor=classifier"], "digits has no splits"),
        (["run=latest", "accelerator=gpu", "extractor=classifier"], "accelerator=gpu: no GPU"),
        (["run=latest", "raw=no"], "raw: must be true or false, not 'no'"),
        (["run=latest", "out=/dev/null/x"], "out=/dev/null/x cannot be written: Not a directory; choose another out="),
        (["images=x", "data=digits", "repeats=2"], "images are one draw"),
        (["-m", "run=latest"], "leave out -m"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_is_refused_with_the_valid_choices(typed, trained, cache, monkeypatch, arguments, said):
    monkeypatch.chdir(trained[0])
    monkeypatch.setenv("GANTRY_CACHE", str(cache))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, errors = typed(main, *arguments)
    assert code == 2
    assert said in errors
    assert "Traceback" not in errors
