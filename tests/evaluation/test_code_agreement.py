"""The agreement of codes and classes: closed forms, while training, and where there are no codes."""

import pytest
import torch
from measured_plans import plan_of
from metrics_helpers import served

from gantry.core.errors import UserError
from gantry.data.sources import digits as load_digits
from gantry.evaluation.evaluate import measure
from gantry.evaluation.evaluator import Evaluator
from gantry.evaluation.extractors.classifier import classifier
from gantry.evaluation.metrics.code_agreement import code_agreement
from gantry.evaluation.metrics.metric import built
from gantry.models.latents import stream
from gantry.models.networks.dcgan import Generator as Plain
from gantry.models.networks.structured import Generator
from gantry.runs.generator_files import save_generator
from gantry.runs.generators import GeneratorFiles, GeneratorSource


def test_the_matching_is_the_best_of_all():
    """Greedily value 0 would take class 0, and value 1 be left with class 1: 3 + 0 of 8."""
    code = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    predicted = torch.tensor([0, 0, 0, 1, 1, 0, 0, 0])
    assert code_agreement(code, predicted, 2) == (5 / 8, {0: 1, 1: 0})


def test_a_class_shared_by_two_values_counts_for_one():
    code, predicted = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([4, 4, 4, 4, 1])
    share, matching = code_agreement(code, predicted, 5)
    assert share == 3 / 5
    assert matching[2] == 1
    assert {matching[0], matching[1]} >= {4}


def test_more_values_than_classes_leave_some_out():
    share, matching = code_agreement(torch.tensor([0, 1, 2, 2]), torch.tensor([1, 0, 0, 0]), 2)
    assert share == 3 / 4
    assert matching == {0: 1, 2: 0}


def test_an_evaluator_measures_the_code_that_agrees_best(digits, digits_classifier, tmp_path):
    right = torch.from_numpy(digits.labels)
    codes = {"none": torch.zeros_like(right), "all": (right + 3) % 10}
    evaluator = Evaluator(digits_classifier, digits, len(digits), tmp_path, codes=codes)
    values = evaluator.evaluate(served(digits.images)).values
    assert values["code_agreement_classifier"] > 0.95
    assert evaluator.higher_is_better["code_agreement_classifier"] is True
    without = Evaluator(digits_classifier, digits, len(digits), tmp_path)
    others = without.evaluate(served(digits.images)).values
    assert others == {name: value for name, value in values.items() if name != "code_agreement_classifier"}
    with pytest.raises(UserError, match="code_agreement needs categorical codes, and the generator has none"):
        Evaluator(digits_classifier, digits, 100, tmp_path, metrics=built(["code_agreement"]))


def plan(folder, measures, cache):
    return plan_of(folder, cache, n=200, repeats=2, seed=3, measures=measures)


def saved(folder, kind, **options):
    options |= {"z_dim": 8, "image_shape": [1, 8, 8], "width": 4, "norm": "none"}
    network = kind(**options)
    with torch.no_grad():
        for weight in network.parameters():
            weight *= 10  # so that images differ
    save_generator(folder / "generator" / "best", network, {"_target_": f"{kind.__module__}.Generator"} | options, 20)
    return folder


def test_an_evaluation_measures_the_codes_of_each_draw(tmp_path, tmp_path_factory):
    folder = saved(tmp_path, Generator, network="dcgan", codes={"kind": 4, "tilt": [-1.0, 1.0]})
    found = measure(plan(folder, ("code_agreement",), tmp_path_factory.getbasetemp()))
    network = GeneratorFiles(folder, "best", False, ("gantry.models.networks.",)).load()
    cache = tmp_path_factory.getbasetemp()
    judge, expected = classifier(data=load_digits(cache=cache), cache=cache), []
    for draw in range(2):
        kinds = network.latents.categories(torch.from_numpy(stream(3, draw * 200, 200, 8)))["kind"]
        logits = judge(GeneratorSource(network, 8, 3, draw * 200, 200)(0, 200)).logits
        expected.append(code_agreement(kinds, logits.argmax(1), 10)[0])
    assert found.values["code_agreement_classifier"] == pytest.approx(sum(expected) / 2)
    assert f"code kind agrees with the class of {expected[0]:.1%} of the images" in found.text()
    assert found.details["code_agreement"]["kind"]["agreement"] == expected[0]


def test_of_a_generator_without_codes_it_is_left_out_or_refused(tmp_path, tmp_path_factory):
    folder, cache = saved(tmp_path, Plain), tmp_path_factory.getbasetemp()
    assert not any("agreement" in name for name in measure(plan(folder, ("fid", "code_agreement"), cache)).values)
    with pytest.raises(UserError, match="code_agreement needs categorical codes, and the generator has none"):
        measure(plan(folder, ("code_agreement",), cache))
