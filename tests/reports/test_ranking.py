"""Which runs are ranked together, and how."""

import math
from collections.abc import Mapping

import pytest
from report_helpers import PROTOCOL

from gantry.core.errors import UserError
from gantry.reports import tables
from gantry.reports.comparison import compare
from gantry.reports.config_differences import differences
from gantry.reports.ranking import apart, comparable_sets, spaced, spread
from gantry.reports.run import Run

FID, SCORE = "fid_classifier", "inception_score_classifier"


def run(
    variant: str = "dcgan",
    seed: int = 0,
    final: float | None = 2.0,
    status: str = "FINISHED",
    steps: int = 300,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    typed: list[str] | None = None,
    score: float = 5.0,
    started: float = 0.0,
) -> Run:
    curves = {FID: {0: 100.0, 100: 50.0}, SCORE: {0: 1.0}}
    if final is not None:
        curves |= {f"final/{FID}": {steps: final}, f"best/{FID}": {100: min(final, 50.0)}}
        curves |= {f"final/{SCORE}": {steps: score}, f"best/{SCORE}": {100: score}}
    return Run(
        name=f"{variant}-{seed}",
        status=status,
        params={"steps": str(steps), "seed": str(seed), "log_every": str(seed), "paths.root": str(seed)}
        | (params or {}),
        tags={"variant": variant, "seed": str(seed)} | PROTOCOL | (tags or {}),
        overrides=typed or [],
        curves=curves,
        started=started,
    )


def ranked(*runs: Run, metric: str | None = None) -> list[str]:
    (one,) = comparable_sets(runs, metric)
    return [standing.group.label for standing in one.standings]


def test_mean_and_sample_standard_deviation() -> None:
    found = spread([2.0, 4.0, 9.0])
    assert found is not None
    assert (found.mean, found.n, found.diverged) == (5.0, 3, 0)
    assert found.std == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert spread([3.0]).std is None  # type: ignore[union-attr]
    assert spread([None]) is None
    assert math.isnan(spread([1.0, math.nan]).mean)  # type: ignore[union-attr]


def test_seeds_are_averaged_and_groups_stand_by_their_mean() -> None:
    runs = [run("wgan", 0, 1.0), run("wgan", 1, 9.0), run("dcgan", 0, 4.0), run("dcgan", 1, 5.0)]
    (one,) = comparable_sets(runs)
    table = tables.ranking(one, [100])
    assert [row[1:5] for row in table.rows] == [
        ("dcgan", "2", "4.50 ± 0.71", "4.50 ± 0.71"),
        ("wgan", "2", "5.0 ± 5.7", "5.0 ± 5.7"),
    ]
    assert table.head[5] == "step 100"
    assert table.rows[0][5] == "50 ± 0"


def test_more_is_better_for_an_inception_score() -> None:
    runs = [run("low", score=2.0, final=1.0), run("high", score=7.0, final=9.0)]
    assert ranked(*runs) == ["low", "high"]
    assert ranked(*runs, metric=SCORE) == ["high", "low"]


def test_a_diverged_seed_puts_its_group_last_and_is_counted() -> None:
    runs = [run("lost", 0, 0.1), run("lost", 1, math.nan), run("far", 0, 80.0)]
    assert ranked(*runs) == ["far", "lost"]
    (one,) = comparable_sets(runs)
    assert tables.ranking(one, []).rows[1][3] == "diverged (1 of 2)"


def test_only_finished_runs_are_ranked_and_the_others_are_counted() -> None:
    runs = [
        run("wgan", 0),
        run("wgan", 1, None, "FAILED"),
        run("dcgan", 0, None, "KILLED"),
        run("sngan", 0, None, "RUNNING"),
    ]
    assert ranked(*runs) == ["wgan"]
    (one,) = comparable_sets(runs)
    assert tables.ranking(one, []).rows[0][2] == "1 of 2"
    assert {group.label for group in one.groups} == {"wgan", "dcgan", "sngan"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 1000}, "budget: 300 and 1000 generator steps"),
        ({"tags": {"metrics.extractor_sha256": "f" * 64}}, "the extractor's weights: eeeeeeeeeeee and ffffffffffff"),
        ({"tags": {"metrics.n_generated": "500"}}, "generated images: 500 and 2000"),
        ({"tags": {"metrics.n_real": "512", "metrics.data_digest": "f" * 64}}, "real images: 512 and 1797"),
        ({"tags": {"metrics.split": "test"}}, "split: all and test"),
        ({"tags": {"metrics.ground": "black"}}, "the ground of transparent images: none and black"),
        ({"tags": {"metrics.data": "mnist", "metrics.data_digest": "f" * 64}}, "data set: mnist and digits"),
    ],
)
def test_runs_measured_otherwise_are_told_apart_not_ranked(change: dict, said: str) -> None:
    sets = comparable_sets([run("dcgan", final=1.0), run("wgan", final=2.0), run("dcgan", final=0.5, **change)])
    assert [[standing.group.label for standing in one.standings] for one in sets] == [["dcgan", "wgan"], ["dcgan"]]
    assert apart(sets) == [said]
    assert said in tables.separation(sets)


def test_a_run_that_does_not_say_how_it_was_measured_is_not_ranked() -> None:
    foreign = Run("foreign", "FINISHED", curves={FID: {0: 1.0}}, params={"steps": "300"})
    found = compare([run(), foreign], "both", None)  # type: ignore[arg-type]
    assert len(found.sets) == 1
    assert found.unmeasured == [foreign]


def test_options_that_say_where_not_what_do_not_split_a_group() -> None:
    (one,) = comparable_sets([run(seed=0), run(seed=1)])  # with other paths.root and log_every too
    assert [len(group.finished) for group in one.groups] == [2]


def test_labels_name_what_was_typed_as_shortly_as_it_tells_runs_apart() -> None:
    def tuned(generator: str, lr: str) -> Run:
        params = {"model.generator.width": generator, "model.optimizer.lr": lr}
        typed = ["model=dcgan", "seed=0", *(f"{key}={value}" for key, value in params.items())]
        return run(params=params, typed=typed, final=float(lr))

    assert ranked(tuned("32", "1"), tuned("64", "2"), run("wgan", final=3.0)) == [
        "dcgan width=32 lr=1",
        "dcgan width=64 lr=2",
        "wgan",
    ]
    both = [
        run(params={"model.generator.width": a, "model.discriminator.width": b}, final=float(a) + float(b) / 10)
        for a, b in (("1", "1"), ("1", "2"), ("2", "1"))
    ]
    assert ranked(*both) == [
        "dcgan generator.width=1 discriminator.width=1",
        "dcgan generator.width=1 discriminator.width=2",
        "dcgan generator.width=2 discriminator.width=1",
    ]


def test_sets_are_named_by_what_was_typed_not_by_what_it_did_to_a_hash() -> None:
    runs = []
    for size, steps in ((8, 300), (16, 300), (8, 600)):
        tags = {"metrics.data_digest": f"{size:064}", "metrics.extractor_sha256": f"{size + 1:064}"}
        typed = ["model=dcgan", f"steps={steps}", f"data.image_size={size}", "batch_size=16"]
        runs.append(run(tags=tags, typed=typed, steps=steps, params={"data.image_size": str(size)}))
    sets = comparable_sets(runs)
    assert [one.title for one in sets] == [
        "digits, 300 generator steps, data.image_size=8",
        "digits, 300 generator steps, data.image_size=16",
        "digits, 600 generator steps, data.image_size=8",
    ]
    assert sorted(apart(sets)) == ["budget: 300 and 600 generator steps", "data.image_size: 8 and 16"]


def test_what_the_same_budget_hides_is_said() -> None:
    small, large = run("dcgan", seed=0), run("wgan", seed=0)
    for one, images in ((small, 4800.0), (large, 24000.0)):
        one.curves["images_seen"] = {300: images}  # type: ignore[index]
    (one,) = comparable_sets([small, large, run("dcgan", seed=1)])
    notes = tables.cautions(one, None)
    assert "The budget counts generator steps: real images seen differ, from 4,800 to 24,000." in notes
    assert "Not all have as many seeds: the fewer, the less a mean says." in notes
    cells = [row[3:5] for row in tables.ranking(one, [100]).rows]
    assert cells == [("2 ± 0", "2 ± 0"), ("2", "2")]


def test_a_mean_over_fewer_seeds_than_finished_says_so() -> None:
    lucky, diverged = run(seed=0, final=3.0), run(seed=1, final=math.nan)
    diverged.curves.pop(f"best/{FID}")  # type: ignore[attr-defined]
    (one,) = comparable_sets([lucky, diverged])
    (row,) = tables.ranking(one, []).rows
    assert row[3:5] == ("diverged (1 of 2)", "3 (1 of 2 seeds)")


def test_a_repeat_of_a_seed_is_not_another_seed() -> None:
    (one,) = comparable_sets([run(final=3.0, started=20.0), run(final=9.0, started=10.0), run(seed=1, final=5.0)])
    (group,) = one.groups
    assert [r.last(f"final/{FID}") for r in group.finished] == [3.0, 5.0]
    assert any("An earlier run" in note for note in tables.cautions(one, None))


def test_an_order_within_the_spread_is_marked() -> None:
    def marks(*runs: Run) -> list[str]:
        (one,) = comparable_sets(runs)
        return [row[0] for row in tables.ranking(one, []).rows]

    near = [run("a", 0, 1.0), run("a", 1, 3.0), run("b", 0, 2.5), run("b", 1, 3.5)]
    assert marks(*near) == ["1 ≈", "2"]
    far = [run("a", 0, 1.0), run("a", 1, 1.2), run("b", 0, 2.5), run("b", 1, 2.7)]
    assert marks(*far) == ["1", "2"]
    (single,) = comparable_sets([run("a"), run("b", final=2.01)])
    assert any("One seed of each" in note for note in tables.cautions(single, None))


def test_only_options_that_differ_are_listed() -> None:
    found = differences(
        [run(params={"lr": "1", "same": "x"}), run(seed=1, params={"lr": "2", "same": "x", "own": "y"})]
    )
    assert found == {"lr": ["1", "2"], "own": [None, "y"]}


def test_columns_that_say_the_same_in_every_row_are_a_line_above() -> None:
    whole = tables.Table(
        ("", "runs", "seeds", "fid", "recall", "step"),
        [("1", "a", "1", "2", "0.4", "300"), ("2", "b", "1", "3", "0.5", "300")],
    )
    table, said = tables.condensed(whole)
    assert table.head == ("", "runs", "seeds", "fid", "recall")
    assert table.rows[1] == ("2", "b", "1", "3", "0.5")
    assert said == "In every row: step 300."
    assert tables.condensed(tables.Table(whole.head, whole.rows[:1])) == (tables.Table(whole.head, whole.rows[:1]), "")


def test_what_differs_between_many_runs_is_three_columns_wide() -> None:
    (one,) = comparable_sets([run(f"v{i}", params={"batch_size": str(32 * (1 + i % 2))}) for i in range(14)])
    table = tables.differing(one)
    assert table.head == ("", "value", "runs")
    assert ("batch_size", "32", ", ".join(f"v{i}" for i in range(0, 14, 2))) in table.rows
    assert ("", "64", ", ".join(f"v{i}" for i in range(1, 14, 2))) in table.rows


def test_an_unknown_metric_or_step_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match=f"{FID}, {SCORE}"):
        compare([run()], "one", None, metric="fid")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"steps=7: .* 0, 100"):
        compare([run()], "one", None, steps=[7])  # type: ignore[arg-type]


def test_steps_are_spread_evenly_up_to_the_last() -> None:
    assert spaced(range(100, 1300, 100)) == [300, 600, 900, 1200]
    assert spaced([10, 20]) == [10, 20]
    assert spaced([]) == []


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([104.03, 104.73], "104.38 ± 0.49"),
        ([0.0012, 0.0013], "0.001250 ± 0.000071"),
        ([1234.0, 5678.0], "3,456 ± 3142"),
        ([12345.6], "12,346"),
        ([0.5], "0.5000"),
        ([86.998], "87.00"),
        ([10.0], "10"),
        ([2.0, 2.0], "2 ± 0"),
        ([math.nan], "diverged"),
        ([], "—"),
    ],
)
def test_numbers_show_the_digits_that_mean_something(values: list[float], text: str) -> None:
    assert tables.shown(spread(values)) == text


def test_what_speaks_against_the_metrics_is_said_once() -> None:
    said = {"gantry.warning.metrics": "the classifier judges at chance level\nanother sentence"}
    (one,) = comparable_sets([run("dcgan", tags=said), run("wgan", tags=said)])
    notes = tables.cautions(one, None)
    assert notes[-2:] == ["But the classifier judges at chance level.", "But another sentence."]
