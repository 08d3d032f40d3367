"""Measuring a generator: the same numbers however the work is cut, and nothing measured is lost."""

import dataclasses
import json
import os
import re
import time
from functools import partial

import numpy as np
import pytest
import torch
from measured_plans import Looks, N, images_of, with_

from gantry.core.errors import UserError
from gantry.data.sources import digits
from gantry.evaluation import evaluate
from gantry.evaluation.evaluate import measure
from gantry.evaluation.extractors.classifier import classifier
from gantry.evaluation.extractors.extractor import NetworkExtractor
from gantry.evaluation.features import CHUNK
from gantry.evaluation.metrics import classification_accuracy, memorization
from gantry.evaluation.metrics import fid as fid_file
from gantry.evaluation.metrics.classification_accuracy import augmentation, held_out
from gantry.evaluation.metrics.fid import fid
from gantry.evaluation.metrics.fid_infinity import fid_infinity
from gantry.evaluation.metrics.inception_score import inception_score
from gantry.evaluation.metrics.kid import kid
from gantry.evaluation.metrics.metric import Found
from gantry.evaluation.moments import moments, reference
from gantry.evaluation.records import read_folder
from gantry.evaluation.request import Plan, SampleFiles
from gantry.runs.generators import GeneratorFiles, GeneratorSource

AUGMENTATION = {"trained": [], "gains": [], "n_test": 9, "test_split": "test", "labels": "given", "caveats": []}


def test_the_values_are_those_of_the_images_drawn(plan):
    found = measure(plan)
    features, logits = Looks()(images_of(plan))
    real, _ = Looks()(torch.from_numpy(digits(cache=plan.cache).images))
    values = {name.split("_looks-")[0]: value for name, value in found.values.items()}
    assert values["fid"] == pytest.approx(fid(moments(real), features), rel=1e-6)
    assert (values["kid"], values["kid_std"]) == pytest.approx(kid(real, features), rel=1e-6)
    assert values["inception_score"] == pytest.approx(inception_score(logits)[0], rel=1e-6)
    assert 0 <= values["coverage"] <= 1
    assert all(name.endswith(f"_{N}_all") or name.endswith(f"_{N}") for name in found.values)
    assert (found.step, found.settings["n_generated"], found.settings["n_real"]) == (20, N, 1797)
    assert not list((plan.cache / "evaluations").glob("*/*"))  # what was needed meanwhile is gone


def test_two_processes_measure_what_one_measures(plan):
    alone, together = measure(plan), measure(with_(plan, devices=2))
    assert together.values == alone.values
    assert together.key == alone.key


@pytest.mark.slow
def test_what_one_process_computes_has_all_threads(plan, monkeypatch):
    before, seen, compute = torch.get_num_threads(), [], fid

    def noting(*arguments):
        seen.append(torch.get_num_threads())
        return compute(*arguments)

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(evaluate, "cores", lambda: 4)
    monkeypatch.setattr(fid_file, "fid", noting)
    torch.set_num_threads(4)
    try:
        measure(with_(plan, devices=2, measures=("fid",)))
    finally:
        torch.set_num_threads(before)
    assert seen == [4]


def test_a_stopped_evaluation_goes_on_where_it_was(plan, monkeypatch):
    expected = measure(plan).values
    seen = []
    look = NetworkExtractor.__call__

    def counting(self, images):
        seen.append(len(images))
        if len(seen) == 6:  # after two images by which `own` is tried, and a chunk
            raise KeyboardInterrupt
        return look(self, images)

    monkeypatch.setattr(NetworkExtractor, "__call__", counting)
    with pytest.raises(KeyboardInterrupt):
        measure(plan)
    seen[:] = [0] * 6
    assert measure(plan).values == expected
    assert sum(seen) == 2 + N - CHUNK


def test_only_what_was_stopped_long_ago_is_forgotten(plan):
    works = [plan.cache / "evaluations" / name for name in ("old", "older but at work", "new")]
    for age, work in zip((15, 20, 13), works, strict=True):
        (work / "0").mkdir(parents=True)
        for path in (work / "0", work):
            os.utime(path, (time.time() - age * 24 * 3600,) * 2)
    with evaluate.alone(works[1]):
        measure(with_(plan, measures=("fid",)))
    assert [work.exists() for work in works] == [False, True, True]


def test_a_result_that_cannot_be_written_costs_no_image_looked_at(plan, monkeypatch):
    def full(result):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        measure(plan, full)
    kept = []
    monkeypatch.setattr(GeneratorSource, "__call__", None)  # no image is made again
    assert measure(plan, kept.append) is kept[0]
    assert not list((plan.cache / "evaluations").glob("*/*"))


def test_another_layer_of_the_same_weights_is_not_taken_for_what_was_seen_before_a_stop(plan, monkeypatch):
    class Stop(Exception):
        pass

    def scored(self, metrics, draw, looked):
        raise Stop

    class Deeper(Looks):
        def forward(self, images):
            features, logits = super().forward(images)
            return features.repeat(1, 2), logits

    def extractors(network, name):
        device = torch.device("cpu")
        return lambda self, rank: {"main": NetworkExtractor(network, name, "0" * 64, "none", device)}

    plan = with_(plan, measures=("precision_recall",))
    with monkeypatch.context() as patch:
        patch.setattr(Plan, "extractors", extractors(Looks(), "looks-64"))
        patch.setattr(evaluate._Measuring, "_scored", scored)
        with pytest.raises(Stop):
            measure(plan)
    monkeypatch.setattr(Plan, "extractors", extractors(Deeper(), "looks-192"))
    measure(plan)


def test_the_same_evaluation_twice_at_once_is_refused(plan, monkeypatch):
    original = evaluate.look_at

    def meanwhile(*arguments, **options):
        with pytest.raises(UserError, match="under way in another process"):
            measure(plan)
        return original(*arguments, **options)

    monkeypatch.setattr(evaluate, "look_at", meanwhile)
    monkeypatch.setattr(
        evaluate._Measuring,
        "reals",
        lambda self, which: evaluate.real_features(self.main, self.plan.real(which), self.plan.cache),
    )
    measure(plan)


def test_draws_are_independent_and_their_spread_is_that_of_the_values(plan):
    first = measure(with_(plan, repeats=1)).values
    both = measure(with_(plan, repeats=2))
    name = next(iter(first))
    other = 2 * both.values[name] - first[name]
    second = Looks()(images_of(plan, first=N))[0]
    real = Looks()(torch.from_numpy(digits(cache=plan.cache).images))[0]
    assert other == pytest.approx(fid(moments(real), second), rel=1e-5)
    assert both.spread[name] == pytest.approx(np.std([first[name], other], ddof=1), rel=1e-5)
    assert "draws2" in both.key


def test_images_are_made_in_whole_float32_whatever_else_goes_on(plan, monkeypatch):
    seen, make = set(), GeneratorSource.of

    def noting(self, numbers):
        seen.add(torch.backends.mkldnn.matmul.fp32_precision)
        return make(self, numbers)

    monkeypatch.setattr(GeneratorSource, "of", noting)
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        measure(with_(plan, measures=("memorisation",)))
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
    assert seen == {"ieee"}


def test_noise_does_not_depend_on_what_is_asked_for_before(plan):
    source = GeneratorSource(plan.subject.load(), 6, 0, 0, 2000)
    whole = source(0, 2000)
    for start, count in ((1500, 30), (0, 3), (510, 5)):
        assert torch.equal(source(start, count), whole[start : start + count])
    assert torch.equal(source.of(np.array([1999, 7])), whole[[1999, 7]])
    assert not torch.equal(GeneratorSource(plan.subject.load(), 6, 1, 0, 8)(0, 8), whole[:8])


@pytest.mark.parametrize(
    "change",
    [
        {"n": N + 1},
        {"seed": 1},
        {"max_real": 1000},
        {"subject": "last"},
        {"extractor": {"_target_": "gantry.evaluation.extractors.networks.own", "name": "others"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_never_overwrite_a_record(plan, run, tmp_path, change):
    if change.get("subject"):
        change = {"subject": GeneratorFiles(run, "last", False, ("gantry.models.networks.",))}
    if "extractor" in change:
        change = {"extractor": plan.extractor | change["extractor"]}
    plan = with_(plan, measures=("fid",))
    before, after = measure(plan), measure(with_(plan, **change))
    files = [result.save(tmp_path / "run")[0] for result in (before, after)]
    contents = [json.loads(file.read_text()) for file in files]
    assert files[0] != files[1]
    assert [content["values"] for content in contents] == [dict(before.values), dict(after.values)]
    assert before.key != after.key


def test_a_record_is_json_whatever_could_not_be_computed(plan, tmp_path):
    nan = float("nan")
    odd = {"values": {"fid": nan}, "spread": {"fid": nan}, "memorisation": {"distance_ratio": nan, "copy_rate": 0.5}}
    (file,) = dataclasses.replace(measure(with_(plan, measures=("fid",))), **odd).save(tmp_path)
    record = json.loads(file.read_text(), parse_constant=pytest.fail)  # NaN is none of JSON's words
    assert record["values"] == record["spread"] == {"fid": None}
    assert record["memorisation"] == {"distance_ratio": None, "copy_rate": 0.5}


def test_what_fid_does_not_show_is_that_of_the_images_drawn(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(classification_accuracy, "augmentation", partial(augmentation, sizes=[40], seeds=1, budget=256))
    found = measure(with_(plan, measures=("fid", "fid_infinity", "classes", "memorisation", "augmentation")))
    data, made = digits(cache=plan.cache), images_of(plan)
    real, features = (Looks()(images)[0] for images in (torch.from_numpy(data.images), made))
    root = reference(moments(real))
    values = {name.split("_looks-")[0]: value for name, value in found.values.items()}
    assert values["fid_infinity"] == pytest.approx(fid_infinity(root, features, plan.seed), rel=1e-6)
    expected = memorization.memorisation(features, real)  # digits have no test split
    assert (values["copy_rate"], values["distance_ratio"]) == (expected.copy_rate, expected.distance_ratio)
    assert found.memorisation["reference"] == "training, left out"
    assert np.array_equal(found.pairs, memorization.closest_pairs(lambda rows: made[rows], data.images, expected))
    verdicts = classifier(data=data, cache=plan.cache)(made).logits.argmax(1)
    drawn = torch.bincount(verdicts, minlength=10).double() / N
    assert [share for _, share in found.classes.values()] == drawn.tolist()
    train, test = held_out(data)
    theirs = dataclasses.replace(train, images=made.numpy(), labels=None, classes=None)
    expected = augmentation(theirs, train, test, sizes=[40], seeds=1, budget=256)
    assert found.augmentation["gains"][0]["mean"] == expected.gains[0].mean
    record = json.loads(found.save(tmp_path)[0].read_text())
    assert record["augmentation"]["gains"][0]["mean"] == expected.gains[0].mean
    assert record["memorisation"]["copy_rate"] == found.memorisation["copy_rate"]


def test_what_is_measured_later_with_the_same_settings_is_added(plan, tmp_path):
    first = measure(with_(plan, measures=("fid",)))
    second = measure(with_(plan, measures=("kid",)))
    (file,) = {result.save(tmp_path)[0] for result in (first, second)}
    assert json.loads(file.read_text())["values"] == first.values | second.values


def test_another_generator_at_the_same_step_keeps_the_former_record(plan, tmp_path):
    first = measure(with_(plan, measures=("fid",)))
    other = dataclasses.replace(first, subject=dict(first.subject) | {"sha256": "f" * 64}, values={"fid_x": 1.0})
    picture = dataclasses.replace(first, pairs=np.zeros((4, 4, 3), np.uint8)).save(tmp_path)[1]
    (file,) = other.save(tmp_path)
    kept = [json.loads(path.read_text())["values"] for path in sorted(file.parent.glob("*.json"))]
    assert sorted(map(str, kept)) == sorted([str(dict(first.values)), str({"fid_x": 1.0})])
    assert [path.name for path in file.parent.glob("*.png")] == [f"{picture.stem}_{first.subject['sha256'][:8]}.png"]
    (shown,) = read_folder(tmp_path)  # a comparison shows the one that is there now
    assert shown.values == {"fid_x": 1.0}


def test_a_record_names_all_that_determines_its_values(plan, tmp_path):
    found = measure(with_(plan, measures=("fid",)))
    record = json.loads(found.save(tmp_path)[0].read_text())
    settings = record["settings"]
    assert settings["extractor"] == "looks"
    for name in ("extractor_sha256", "extractor_resize", "extractor_arithmetic", "data_digest", "split", "precision"):
        assert settings[name]
    subject = record["subject"]
    assert subject["sha256"] == plan.subject.digest()
    assert (subject["generator"], subject["averaged"], subject["seed"], subject["step"]) == ("best", True, 0, 20)
    assert record["environment"]["packages"]["torch"]
    parts = {name: record["seconds"][name] for name in found.seconds}
    for part in ("drawing", "network"):
        assert parts[f"generated images / {part}"] >= 0
    assert {"real images / reading", "fid / moments", "fid / distance", "fid / spread"} < parts.keys()
    said = found.text().replace("\n  ", " ")
    assert re.search(
        r"seconds: loading \d+\.\d, real images .*generated images \d+\.\d \(drawing .*fid .*moments", said
    )


def test_anyones_images_share_the_ruler_of_a_run(plan, tmp_path):
    made = images_of(plan)
    np.savez(tmp_path / "peer.npz", made.permute(0, 2, 3, 1).numpy())
    theirs = measure(with_(plan, subject=SampleFiles(str(tmp_path / "peer.npz"), tmp_path)))
    ours = measure(plan)
    assert theirs.key == ours.key
    assert theirs.values == pytest.approx(ours.values, rel=1e-6)


def test_another_seed_never_overwrites_a_record_of_images(plan, tmp_path):
    np.savez(tmp_path / "peer.npz", images_of(plan).permute(0, 2, 3, 1).numpy())
    plan = with_(plan, subject=SampleFiles(str(tmp_path / "peer.npz"), tmp_path), measures=("fid_infinity",))
    found = [measure(plan), measure(with_(plan, seed=1))]
    assert found[0].values != found[1].values
    assert found[0].key != found[1].key
    assert "seed1" in found[1].key


def test_what_a_classifier_learns_may_be_all_that_is_asked_for(plan, monkeypatch):
    monkeypatch.setattr(classification_accuracy, "_compute", lambda inputs: Found({}, AUGMENTATION))
    found = measure(with_(plan, n=40, measures=("augmentation",)))
    assert not found.values
    assert "accuracy on 9 real images" in found.text()
