"""What cannot be measured is refused by name, and a run that goes on meanwhile is measured as it was."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from measured_plans import N, images_of, with_

from gantry.core.errors import UserError
from gantry.evaluation import evaluate
from gantry.evaluation.evaluate import measure
from gantry.evaluation.request import SampleFiles
from gantry.runs import checkpoint_files
from gantry.runs.generator_files import save_generator
from gantry.runs.generators import GeneratorFiles
from gantry.runs.run_config import run_config


def test_a_protocol_of_the_papers_needs_their_extractor(plan):
    assert measure(with_(plan, measures=("fid",))).key.startswith("quick_")
    papers = with_(plan, measures=("fid",), protocol="papers", official=True)
    assert measure(papers).key.startswith("custom_")


@pytest.mark.parametrize(
    ("network", "why"),
    [({"_target_": "measured_plans.Lokos"}, "'Lokos'"), ({"_target_": "measured_plans.Looks", "size": 3}, "'size'")],
)
def test_an_extractor_that_cannot_be_made_is_named_with_the_reason(plan, network, why):
    with pytest.raises(UserError, match=f"{network['_target_']} cannot be made: .*{why}"):
        measure(with_(plan, extractor=plan.extractor | {"network": network}))


def test_measures_that_give_nothing_are_refused(plan, monkeypatch):
    for module in ("evaluate", "request"):
        monkeypatch.setattr(f"gantry.evaluation.{module}.can_classify", lambda data: False)
    look = {"_target_": "torch.nn.Flatten"}
    bare = with_(plan, extractor=plan.extractor | {"network": look}, measures=("inception_score", "classes"))
    with pytest.raises(UserError, match=r"(?s)inception_score needs logits.*classes needs labels"):
        measure(bare)


def test_too_few_images_are_refused_by_the_number_there_is(plan, tmp_path):
    np.savez(tmp_path / "few.npz", images_of(plan, 20).permute(0, 2, 3, 1).numpy())
    with pytest.raises(UserError, match=f"20 images, fewer than n={N}; n=20 measures them"):
        measure(with_(plan, subject=SampleFiles(str(tmp_path / "few.npz"), tmp_path)))


def test_a_generator_of_other_images_is_refused(plan):
    with pytest.raises(UserError, match=r"\(1, 8, 8\), but those of digits are \(1, 16, 16\)"):
        measure(with_(plan, data=plan.data | {"image_size": 16}))


def test_a_diverged_generator_is_refused(plan, run, tmp_path):
    network = plan.subject.load()
    network.state_dict()["layers.1.weight"][0] = torch.nan
    config = json.loads((run / "generator/best/generator.json").read_text())
    save_generator(tmp_path / "generator/best", network, config, 5)
    with pytest.raises(UserError, match="training has diverged"):
        measure(with_(plan, subject=GeneratorFiles(tmp_path, "best", False, ("gantry.models.networks.",))))


@pytest.fixture
def replaced(plan, run, tmp_path, monkeypatch):
    """A plan for a generator that its run replaces as soon as it is being measured."""
    shutil.copytree(run / "generator/best", tmp_path / "training/generator/best")
    original = evaluate.look_at

    def meanwhile(*arguments, **options):
        shutil.copytree(run / "generator/last", tmp_path / "training/generator/best", dirs_exist_ok=True)
        return original(*arguments, **options)

    monkeypatch.setattr(evaluate, "look_at", meanwhile)
    files = GeneratorFiles(tmp_path / "training", "best", False, ("gantry.models.networks.",))
    return with_(plan, subject=files, repeats=2, measures=("fid",))


def test_a_run_that_still_trains_is_measured_as_it_was(plan, replaced):
    found = measure(replaced)
    assert found.values == measure(with_(plan, repeats=2, measures=("fid",))).values
    assert (found.step, found.subject["sha256"]) == (20, plan.subject.digest())


@pytest.mark.slow
def test_processes_that_may_have_seen_another_generator_are_no_evaluation(replaced):
    with pytest.raises(UserError, match="replaced the generator"):
        measure(with_(replaced, devices=2))


def test_without_averaging_it_is_the_checkpoints_generator_and_step(plan, run, tmp_path):
    shutil.copytree(run / "generator", tmp_path / "generator")
    averaged = GeneratorFiles(tmp_path, "last", False, ("gantry.models.networks.",))
    state = {f"generator.{name}": 2 * value for name, value in averaged.load().state_dict().items()}
    content = io.BytesIO()
    torch.save({"state_dict": state, "global_step": 37}, content)
    checkpoint_files.write(tmp_path, 37, content.getvalue())  # stopped after step 30
    raw = dataclasses.replace(averaged, raw=True)
    found = [measure(with_(plan, subject=files, measures=("fid",))) for files in (averaged, raw)]
    assert [result.step for result in found] == [30, 37]
    assert found[0].values != found[1].values
    assert "raw" in found[1].key


def test_a_split_that_is_not_there_is_refused(plan):
    with pytest.raises(UserError, match="split=test: digits has no splits; protocol=papers, or quick"):
        measure(with_(plan, split="test"))


def test_a_generator_from_elsewhere_runs_no_code_unasked(plan, tmp_path, run):
    folder = tmp_path / "generator/best"
    folder.mkdir(parents=True)
    (folder / "generator.json").write_text(json.dumps({"_target_": "os.system", "command": "touch harm"}))
    (folder / "generator.safetensors").write_bytes((run / "generator/best/generator.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"names the class os\.system; trusted are gantry\.models\.networks\."):
        measure(with_(plan, subject=GeneratorFiles(tmp_path, "best", False, ("gantry.models.networks.",))))
    assert not Path("harm").exists()


def test_a_trusted_class_that_python_does_not_find_is_named(plan, tmp_path, run):
    folder = tmp_path / "generator/best"
    folder.mkdir(parents=True)
    (folder / "generator.safetensors").write_bytes((run / "generator/best/generator.safetensors").read_bytes())
    (folder / "generator.json").write_text(json.dumps({"_target_": "their_networks.G", "z_dim": 6}))
    with pytest.raises(UserError, match=r"trusted=\[their_networks\.\] \(evaluate.py, sample.py\)"):
        measure(with_(plan, subject=GeneratorFiles(tmp_path, "best", False, ("gantry.models.networks.",))))
    for target in ("their_networks.G", "gantry.models.networks.G"):
        (folder / "generator.json").write_text(json.dumps({"_target_": target, "z_dim": 6}))
        trusted = ("gantry.models.networks.", "their_networks.")
        with pytest.raises(UserError, match=r"cannot be imported: .*PYTHONPATH="):
            measure(with_(plan, subject=GeneratorFiles(tmp_path, "best", False, trusted)))


def test_a_damaged_run_is_named(tmp_path):
    folder = tmp_path / "generator/best"
    folder.mkdir(parents=True)
    (folder / "generator.json").write_text("{")
    with pytest.raises(UserError, match=r"generator\.json is damaged"):
        GeneratorFiles(tmp_path, "best", False, ()).load()
    for text, said in (("a: [", r"config\.yaml cannot be read"), ("a: 1", "names no data"), ("- 1", "names no data")):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=said):
            run_config(tmp_path)
