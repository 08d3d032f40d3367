"""A metric of one's own, higher is better: one file and one line of the config, and all that ranks ranks rightly."""

import json
import sys
from typing import get_args

import pytest
from matplotlib.axes import Axes

from gantry.commands import evaluate, train
from gantry.core.config.options import Measure
from gantry.evaluation.metrics import MEASURES
from gantry.evaluation.metrics.metric import built
from gantry.generation.registry.champion import from_tags, measured, verdict
from gantry.reports import tables
from gantry.reports.comparison import compare
from gantry.reports.curves import draw, palette
from gantry.reports.evaluations import rulers
from gantry.reports.ranking import comparable_sets
from gantry.reports.run import from_folder
from gantry.runs.find_generators import find_generators

SOURCE = '''
from itertools import count

from gantry.evaluation.metrics.metric import Metric


def psnr(level: float = 0.0):
    """One more at each measurement, so that the last one is the best."""
    looks = count()
    return Metric("psnr", higher_is_better=True, compute=lambda inputs: level + next(looks))
'''
NAME = "psnr_classifier"


@pytest.fixture(scope="module")
def folders(tmp_path_factory, cache):
    """Two runs, the second one with the higher values."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "likeness.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for model, level in (("dcgan", 10), ("lsgan", 30)):
            measures = f"metrics.measures=[{{_target_: likeness.psnr, level: {level}}}, fid]"
            where = [f"paths.cache={cache}", f"hydra.run.dir=outputs/day/{model}", "tracking=none"]
            options = ["experiment=smoke", f"model={model}", "model.generator.width=8", measures, *where]
            patch.setattr(sys, "argv", ["train.py", *options])
            train.main()
    yield [folder / "outputs/day" / model for model in ("dcgan", "lsgan")]
    sys.path.remove(str(folder))


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_the_best_step_is_the_highest_and_the_record_says_so(folders):
    for folder, level in zip(folders, (10, 30), strict=True):
        found = summary(folder)
        assert (found["primary"], found["higher_is_better"]) == (NAME, {NAME: True, "fid_classifier": False})
        assert (found["first"][NAME], found["best"][NAME], found["best_step"]) == (level, level + 2, 4)
        tags = json.loads((folder / "tags.json").read_text())
        assert tags["metrics.primary"] == NAME
        assert json.loads(tags["metrics.higher_is_better"]) == found["higher_is_better"]


def test_the_comparison_ranks_the_highest_first_and_its_curves_say_which_way_is_better(folders, tmp_path, monkeypatch):
    runs = [from_folder(folder) for folder in folders]
    (one,) = comparable_sets(runs)
    assert (one.metric, [row[1] for row in tables.ranking(one, []).rows]) == (NAME, ["lsgan", "dcgan"])
    assert f"{NAME} was highest" in tables.basis(one)
    titles = set()
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **options: titles.add(text))
    draw(one, palette(one.groups))
    assert {f"{NAME}  (higher is better)", "fid_classifier  (lower is better)"} <= titles
    text = compare(runs, "both", tmp_path).text()
    assert text.index("lsgan") < text.index("dcgan")


def test_run_best_is_the_highest(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folders[0].parents[2])
    (found,) = find_generators(["best"], lambda: None, tmp_path)
    assert found.folder.name == "lsgan"
    assert f"the highest best/{NAME}, 32" in capsys.readouterr().out


def test_the_registrys_champion_moves_to_the_higher_value_only(folders):
    lower, higher = (measured(folder, step=4, digest="") for folder in folders)
    assert from_tags(higher.tags) == higher
    assert verdict(higher, from_tags(lower.tags), "1").wins
    assert not verdict(lower, from_tags(higher.tags), "2").wins


def test_an_evaluation_says_it_too_and_is_ranked_so(folders, cache, typed, monkeypatch):
    monkeypatch.chdir(folders[0].parents[2])
    where = [f"paths.cache={cache}", "tracking=none", f"run=[{','.join(map(str, folders))}]"]
    options = ["protocol=quick", "extractor=classifier", "n=60", "measures=[{_target_: likeness.psnr, level: 5}]"]
    code, _, errors = typed(evaluate.main, *where, *options)
    assert code == 0, errors
    for folder, value in zip(folders, (1.0, 2.0), strict=True):
        (path,) = folder.glob("evaluations/*/*.json")
        record = json.loads(path.read_text())
        assert (record["values"], record["higher_is_better"]) == ({NAME: 5.0}, {NAME: True})
        path.write_text(json.dumps(record | {"values": {NAME: value}}))
    (ruler,) = rulers([from_folder(folder) for folder in folders])
    assert (ruler.metric, [row.label for row in ruler.rows]) == (NAME, ["lsgan", "dcgan"])


def test_every_metric_that_the_options_name_has_its_file():
    assert MEASURES.keys() == set(get_args(Measure))
    assert [metric.name for metric in built(tuple(MEASURES))] == list(MEASURES)


@pytest.mark.parametrize(
    ("measures", "said"),
    [
        ("[psnr]", "metrics.measures: no psnr (valid: fid, fid_infinity, kid"),
        ("[]", "metrics.measures: name at least one of fid, fid_infinity, kid"),
        ("fid", "metrics.measures: takes a list, metrics.measures=[fid]"),
        ("[{_target_: likeness.psnr, lvl: 1}]", "metrics.measures.0.lvl: no such option; did you mean 'level'"),
        ("[memorisation]", "metrics.measures: memorisation: only python evaluate.py measures that"),
        ("[{_target_: likeness.count}]", "measures: likeness.count must return a"),
        ("[fid, fid]", "measures: fid would be measured twice"),
    ],
)
def test_metrics_that_cannot_be_measured_are_refused(measures, said, folders, cache, typed, tmp_path, monkeypatch):
    monkeypatch.chdir(folders[0].parents[2])
    where = [f"paths.cache={cache}", f"hydra.run.dir={tmp_path}/run", "tracking=none"]
    code, _, errors = typed(train.main, "experiment=smoke", f"metrics.measures={measures}", *where)
    assert code == 2
    assert said in errors
