"""The metrics of generators that take labels: closed forms, and the same values while training and afterwards."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from measured_plans import plan_of
from metrics_helpers import image_set, served

from gantry.core.config.options import WHILE_TRAINING
from gantry.core.errors import UserError
from gantry.data.sources import digits as load_digits
from gantry.evaluation.asked import indices_among
from gantry.evaluation.evaluate import measure
from gantry.evaluation.evaluator import Evaluator
from gantry.evaluation.extractors import classifier as classifier_file
from gantry.evaluation.metrics import cas as cas_file
from gantry.evaluation.metrics.asked_class import asked_class_accuracy, standard_error
from gantry.evaluation.metrics.cas import cas
from gantry.evaluation.metrics.fid import fid
from gantry.evaluation.metrics.intra_fid import class_fids, frechet_distance, of_classes
from gantry.evaluation.metrics.metric import built
from gantry.evaluation.moments import moments
from gantry.evaluation.request import Plan, SampleFiles
from gantry.models.labels import Classes, label_stream
from gantry.models.networks.conditional_dcgan import ConditionalGenerator
from gantry.models.networks.dcgan import Generator
from gantry.runs.generator_files import save_generator
from gantry.runs.generators import GeneratorFiles, GeneratorSource

CONDITIONAL = ("asked_class", "intra_fid")
NAMES = tuple("0123456789")
SHARES = (0.3, 0.2, *(0.0625,) * 8)
N = 300


def test_the_accuracy_is_the_share_of_images_of_the_asked_class():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 3.0, 4.0], [9.0, 0.0, 0.0]])
    accuracy, by_class = asked_class_accuracy(logits, torch.tensor([0, 1, 1, 2]))
    assert accuracy == 0.5
    assert by_class == {
        0: {"accuracy": 1.0, "generated": 1},
        1: {"accuracy": 0.5, "generated": 2},
        2: {"accuracy": 0.0, "generated": 1},
    }
    assert standard_error(0.9, 100) == pytest.approx(0.03)


def features(count, dimensions, seed):
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(count, dimensions)) @ random.normal(size=(dimensions, dimensions)) + seed
    return torch.from_numpy(mixed.astype(np.float32))


@pytest.mark.parametrize(("real", "made", "dimensions"), [(90, 80, 6), (90, 5, 6), (4, 70, 6), (20, 10, 40)])
def test_the_distance_is_the_fid_of_the_house_with_more_images_than_features_or_fewer(real, made, dimensions):
    real, made = features(real, dimensions, 1), features(made, dimensions, 2)
    assert frechet_distance(real, made) == pytest.approx(fid(moments(real), made), rel=2e-5)


def test_of_two_classes_it_is_the_fid_of_each_half():
    real, made = features(60, 4, 1), features(50, 4, 2)
    labels, asked = torch.arange(60) % 2, torch.arange(50) // 25
    found = class_fids(real, labels, made, asked)
    expected = {half: fid(moments(real[labels == half]), made[asked == half]) for half in (0, 1)}
    assert found == {half: pytest.approx(value, rel=1e-6) for half, value in expected.items()}


def test_a_class_without_images_has_no_distance():
    real, made = features(9, 2, 1), features(8, 2, 2)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2])  # one real image of class 2: not measured
    found = class_fids(real, labels, made, torch.tensor([0] * 7 + [1]))
    assert found.keys() == {0, 1}
    assert math.isfinite(found[0])
    assert math.isnan(found[1])


def inputs_of(real, labels, made):
    data = SimpleNamespace(labels=labels.numpy(), classes=("a", "b"))
    return SimpleNamespace(both_placed=(real, made), data=data)


def test_a_class_not_asked_for_is_left_out_and_one_not_drawn_leaves_no_value():
    real, made = features(20, 2, 1), features(8, 2, 2)
    labels, given = torch.arange(20) % 2, torch.tensor([0] * 7 + [1])
    asked, drawn = (of_classes("x", inputs_of(real, labels, made), given, asked=one) for one in (True, False))
    assert asked.values == {"x": pytest.approx(fid(moments(real[::2]), made[:7]), rel=1e-6)}
    assert asked.caveats == ["x is without the classes of fewer than 2 generated images: b"]
    assert math.isnan(drawn.values["x"])
    assert drawn.caveats == ["x has no value: there are classes of fewer than 2 generated images: b"]
    assert asked.details == drawn.details
    assert drawn.details["b"] == {"fid": None, "real": 10, "generated": 1}


@pytest.mark.parametrize("asked", [True, False])
def test_classes_of_a_single_real_image_are_named(asked):
    real, made, given = features(20, 2, 1), features(20, 2, 2), torch.arange(20) % 2
    one = of_classes("x", inputs_of(real, torch.tensor([0] * 19 + [1]), made), given, asked)
    assert one.values == {"x": pytest.approx(fid(moments(real[:19]), made[::2]), rel=1e-6)}
    assert one.caveats == ["x is without the classes of fewer than 2 real images: b"]
    both = of_classes("x", inputs_of(real[:2], torch.tensor([0, 1]), made), given, asked)
    assert math.isnan(both.values["x"])
    assert both.caveats == ["x has no value: there are classes of fewer than 2 real images: a, b"]


def test_names_are_matched_by_name_or_by_number():
    assert indices_among(("b", "a"), ("a", "b", "c")).tolist() == [1, 0]
    assert indices_among(("2", "0"), ("a", "b", "c")).tolist() == [2, 0]
    assert indices_among(("b", "d"), ("a", "b", "c")) is None


def bright(labels, seed=0):
    """Dark images of class 0 and bright ones of class 1, of the shape that `tiny` tells apart."""
    noise = np.random.default_rng(seed).integers(0, 40, (len(labels), 1, 8, 8))
    return (noise + np.where(np.asarray(labels) == 1, 200, 0)[:, None, None, None]).astype(np.uint8)


def test_an_evaluator_measures_what_was_asked(digits, digits_classifier, tmp_path, caplog):
    """Real images as generated ones: asked rightly they are at a distance of 0, asked wrongly they are not."""
    right = torch.from_numpy(digits.labels)
    evaluator = Evaluator(digits_classifier, digits, len(digits), tmp_path, asked=right)
    values = evaluator.evaluate(served(digits.images)).values
    assert values["asked_class_accuracy_classifier"] > 0.95
    assert values["intra_fid_classifier"] == pytest.approx(0, abs=1e-6)
    assert evaluator.higher_is_better["asked_class_accuracy_classifier"] is True
    assert evaluator.higher_is_better["intra_fid_classifier"] is False
    assert evaluator.caveats == ()
    wrong = Evaluator(digits_classifier, digits, len(digits), tmp_path, asked=(right + 1) % 10)
    confused = wrong.evaluate(served(digits.images)).values
    assert confused["fid_classifier"] == values["fid_classifier"]
    assert confused["asked_class_accuracy_classifier"] < 0.05
    assert confused["intra_fid_classifier"] > 10


def test_few_images_of_a_class_are_said_once(digits, digits_classifier, tmp_path, caplog):
    few = Evaluator(digits_classifier, digits, 200, tmp_path, asked=torch.from_numpy(digits.labels[:200]))
    for _ in range(2):
        few.evaluate(served(digits.images))
    (said,) = few.caveats
    assert "174 to 183 real and" in said
    assert "64 features" in said
    assert [record.getMessage() for record in caplog.records].count(said) == 1


def test_without_asked_classes_nothing_changes(digits, digits_classifier, tmp_path):
    before = built([measure for measure in WHILE_TRAINING if measure not in CONDITIONAL])
    evaluators = [Evaluator(digits_classifier, digits, 100, tmp_path, metrics=one) for one in (before, None)]
    old, new = (evaluator.evaluate(served(digits.images)).values for evaluator in evaluators)
    assert list(old.items()) == list(new.items())
    assert evaluators[0].higher_is_better == evaluators[1].higher_is_better
    with pytest.raises(UserError, match="asked_class needs asked classes, and the generator has none"):
        Evaluator(digits_classifier, digits, 100, tmp_path, metrics=built(["asked_class", "fid"]))


def made_of(count, seed, split):
    labels = np.random.default_rng(seed).integers(0, 2, count)
    return replace(image_set(bright(labels, seed), labels), split=split)


TRAIN, TEST, GENERATED = made_of(300, 1, "train"), made_of(200, 2, "test"), made_of(400, 3, "all")


def test_a_classifier_learns_what_was_asked_for():
    found = cas(GENERATED, TRAIN, TEST, seeds=2, budget=20 * 128)
    assert found["generated"]["mean"] == found["real"]["mean"] == 1
    assert (found["generated"]["images"], found["real"]["images"], found["seeds"]) == (300, 300, 2)
    assert found["generated"]["classes"] == {"0": 1, "1": 1}
    assert (found["n_test"], found["test_split"], found["steps"]) == (200, "test", 20)
    swapped = cas(replace(GENERATED, labels=1 - GENERATED.labels), TRAIN, TEST, seeds=1, budget=20 * 128)
    assert swapped["generated"]["mean"] == 0
    assert swapped["generated"]["std"] is None
    assert swapped["real"]["mean"] == 1
    with pytest.raises(UserError, match="cas needs test images that are not the training images"):
        cas(GENERATED, TRAIN, TRAIN)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with a generator that takes labels, and one that takes none as that of the last step."""
    folder = tmp_path_factory.mktemp("run")
    for which, conditional in (("best", True), ("last", False)):
        options = {"z_dim": 6, "image_shape": [1, 8, 8], "width": 8, "norm": "none"}
        options |= {"n_classes": 10} if conditional else {}
        kind = ConditionalGenerator if conditional else Generator
        with torch.random.fork_rng():
            torch.manual_seed(1)
            network = kind(**options)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.mul_(10)  # so that images differ
        target = f"{kind.__module__}.{kind.__qualname__}"
        classes = Classes(NAMES, SHARES) if conditional else None
        save_generator(folder / "generator" / which, network, {"_target_": target} | options, 20, classes)
    return folder


@pytest.fixture
def plan(run, tmp_path_factory):
    measures = ("fid", "asked_class", "intra_fid", "class_fid")
    return plan_of(run, tmp_path_factory.getbasetemp(), n=N, seed=3, measures=measures)


def test_an_evaluation_asks_for_the_shares_of_the_classes(plan, tmp_path):
    found = measure(plan)
    asked = label_stream(plan.seed, 0, N, SHARES)
    network = plan.subject.load()
    source = GeneratorSource(network, 6, plan.seed, 0, N, labels=lambda seed, first, count: asked[first:][:count])
    images, data = source(0, N), load_digits(cache=plan.cache)
    judge = classifier_file.classifier(data=data, cache=plan.cache)
    features, logits = judge(images)
    real = judge(torch.from_numpy(data.images)).features
    right = logits.argmax(1).numpy() == asked
    assert found.values["asked_class_accuracy_classifier"] == right.mean()
    assert found.spread["asked_class_accuracy_classifier"] == pytest.approx(standard_error(right.mean(), N))
    of_real = torch.from_numpy(data.labels)
    expected = class_fids(real, of_real, features, torch.from_numpy(asked))
    assert found.values["intra_fid_classifier"] == pytest.approx(np.mean(list(expected.values())), rel=1e-9)
    sorted_ = class_fids(real, of_real, features, logits.argmax(1))
    value = np.mean(list(sorted_.values()))
    assert found.values["class_fid_classifier"] == pytest.approx(value, rel=1e-9, nan_ok=True)
    details = json.loads(found.save(tmp_path)[0].read_text())["details"]
    assert {name: of["fid"] for name, of in details["intra_fid"].items()} == pytest.approx(
        {NAMES[label]: value for label, value in expected.items()}
    )
    assert [details["asked_class"][name]["generated"] for name in NAMES] == np.bincount(asked).tolist()
    assert [of["real"] for of in details["intra_fid"].values()] == np.bincount(data.labels).tolist()
    assert any(said.startswith("intra_fid: classes have 174 to 183 real") for said in found.caveats)
    assert "largest intra_fid by class: " in found.text()


def test_each_draw_has_its_own_labels(plan):
    first, second = (plan.asked(draw, N) for draw in (0, 1))
    assert (first != second).any()
    assert np.array_equal(np.concatenate([first, second]), label_stream(plan.seed, 0, 2 * N, SHARES))
    found = measure(replace(plan, repeats=2, measures=("asked_class",)))
    assert found.spread["asked_class_accuracy_classifier"] > 0


def test_two_processes_ask_for_the_same(plan):
    assert measure(replace(plan, n=600, devices=2)).values == pytest.approx(
        measure(replace(plan, n=600)).values, nan_ok=True
    )


def test_a_generator_without_labels_is_measured_as_before(plan, tmp_path, monkeypatch):
    plain = replace(plan, subject=GeneratorFiles(plan.subject.run, "last", False, plan.subject.trusted))
    assert plain.asked(0, N) is None
    found = measure(replace(plain, measures=("fid", "asked_class", "intra_fid")))
    assert list(found.values) == ["fid_classifier"]
    assert found.details == {}
    for measures in (("asked_class", "intra_fid"), ("fid", "cas")):
        monkeypatch.setattr(Plan, "extractors", lambda *_: pytest.fail("an extractor was made"))
        with pytest.raises(UserError, match=f"{measures[-1]} needs asked classes: a generator that takes labels"):
            measure(replace(plain, measures=measures))


def test_labels_beside_images_are_what_was_asked(plan, tmp_path):
    network, asked = plan.subject.load(), plan.asked(0, N)
    images = GeneratorSource(network, 6, plan.seed, 0, N, labels=lambda *_: asked)(0, N)
    files = tmp_path / "made.npz"
    np.savez(files, images=images.permute(0, 2, 3, 1).numpy(), labels=asked)
    theirs = measure(replace(plan, subject=SampleFiles(str(files), tmp_path)))
    assert theirs.values == pytest.approx(measure(plan).values, nan_ok=True)


def test_cas_is_of_as_many_images_as_there_are_to_train_on(plan, monkeypatch):
    seen = []

    def noted(generated, train, test, **options):
        seen.append((generated, train, test))
        return cas(generated, train, test, seeds=1, budget=256, seed=options["seed"])

    monkeypatch.setattr(cas_file, "cas", noted)
    found = measure(replace(plan, measures=("cas",)))
    ((generated, train, _),) = seen
    assert len(generated) == len(train) == 1438
    assert np.array_equal(generated.labels, label_stream(plan.seed, 0, 1438, SHARES))
    assert list(found.values) == ["cas_small"]
    assert found.higher_is_better == {"cas_small": True}
    assert found.values["cas_small"] == found.details["cas"]["generated"]["mean"]
    assert 0 < found.details["cas"]["real"]["mean"] <= 1
    assert any(said.startswith("cas_small: This data has no test split") for said in found.caveats)
    assert "1,438 generated ones" in found.text()


def test_without_asked_classes_the_classifier_sorts_the_images(digits, digits_classifier, tmp_path):
    made = digits.images[::2]
    evaluator = Evaluator(digits_classifier, digits, len(made), tmp_path, metrics=built(["class_fid"]))
    values = evaluator.evaluate(served(made)).values
    real, (features, logits) = evaluator.real.features, digits_classifier(torch.from_numpy(made))
    expected = class_fids(real, torch.from_numpy(digits.labels), features, logits.argmax(1))
    assert values == {"class_fid_classifier": pytest.approx(np.mean(list(expected.values())), rel=1e-9)}
    assert 0 < values["class_fid_classifier"] < 5
