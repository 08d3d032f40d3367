"""What `python evaluate.py` measured, as a comparison shows it."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from report_helpers import PROTOCOL, SETTINGS, evaluated, make_job, make_sweep
from scipy.stats import t

from gantry.core.errors import UserError
from gantry.evaluation.records import Record
from gantry.evaluation.result import curve_name
from gantry.reports.build import compare_sweep
from gantry.reports.comparison import Comparison, compare
from gantry.reports.evaluations import cautions, rulers, separation, table
from gantry.reports.find import find_compared_runs
from gantry.reports.html import write
from gantry.reports.run import Run, from_folder, in_order
from gantry.reports.significance import score, told_apart
from gantry.runs.directions import higher_is_better
from gantry.runs.tracking.folder_tracker import FolderTracker
from gantry.runs.tracking.params import flatten

KEY, OTHER = "papers_1a2b3c4d", "papers_99999999"


def run(
    variant: str,
    values: Mapping[str, float] | None,
    spread: Mapping[str, float] | None = None,
    seed: int = 0,
    key: str = KEY,
    status: str = "FINISHED",
    step: int = 300,
    steps: int = 300,
    **settings: object,
) -> Run:
    """A run with one evaluation, or none; trained with other metrics that say something else."""
    record = Record(key, step, values or {}, spread or {}, settings=flatten(SETTINGS | settings))
    fid = "fid_classifier"
    return Run(
        name=f"{variant}-{seed}",
        status=status,
        params={"steps": str(steps), "seed": str(seed)},
        tags={"variant": variant, "seed": str(seed)} | PROTOCOL,
        overrides=[f"model={variant}", f"seed={seed}", f"steps={steps}"],
        curves={f"final/{fid}": {steps: 1.0}, fid: {steps: 1.0}},
        evaluations={key: record} if values is not None else {},
    )


def compared(*runs: Run, metric: str | None = None) -> Comparison:
    return compare(runs, "all", Path("report.html"), metric=metric)


# What is told apart


@pytest.mark.parametrize(("difference", "verdict"), [(2.79, False), (2.87, True)])
def test_two_generators_differ_beyond_two_standard_deviations_of_their_difference(
    difference: float, verdict: bool
) -> None:
    one, other = score([10.0], [1.0]), score([10.0 + difference], [1.0])
    assert one is not None
    assert other is not None
    assert told_apart(one, other) is told_apart(other, one) is verdict  # sqrt(1 + 1) * 2 = 2.83


def test_few_seeds_must_lie_further_apart() -> None:
    # Means 1 and 1 + d, standard deviation of each mean 1 from two seeds: Student's t with 2 degrees of freedom.
    bound = t(2).ppf(0.97724987) * math.sqrt(2)
    assert bound == pytest.approx(6.40, abs=0.01)
    for d, verdict in ((bound - 0.01, False), (bound + 0.01, True)):
        one, other = score([0.0, 2.0], [None, None]), score([d, 2.0 + d], [None, None])
        assert one is not None
        assert other is not None
        assert told_apart(one, other) is verdict


def test_seeds_that_agree_by_luck_are_as_uncertain_as_their_draws() -> None:
    lucky, other = score([5.0, 5.0], [1.0, 1.0]), score([5.1], [0.01])
    assert lucky is not None
    assert other is not None
    assert lucky.error == pytest.approx(math.sqrt(1 / 2))
    assert told_apart(lucky, other) is False


def test_without_a_spread_it_is_not_claimed_that_two_differ() -> None:
    runs = [run("dcgan", {"fid": 5.0}, {"fid": 0.1}), run("wgan", {"fid": 90.0})]
    (ruler,) = rulers(runs)
    assert [row[4] for row in table(ruler).rows] == ["?", "?"]
    assert any("not known what differs (wgan)" in note for note in cautions(ruler))


def test_what_speaks_against_an_evaluation_is_said_once() -> None:
    runs = [run("dcgan", {"fid": 5.0}), run("wgan", {"fid": 90.0})]
    told = [
        replace(
            one, evaluations={KEY: replace(one.evaluations[KEY], caveats=("the classifier judges at chance level",))}
        )
        for one in runs
    ]
    (ruler,) = rulers(told)
    assert cautions(ruler).count("But the classifier judges at chance level.") == 1


# The tables


def test_a_table_shows_what_ranks_what_it_cannot_tell_apart_and_the_rest() -> None:
    runs = [
        run("wgan", {"fid": 12.0, "recall": 0.5, "kid": 0.01, "kid_std": 0.2}, {"fid": 0.2, "recall": 0.01}),
        run("sngan", {"fid": 12.3, "recall": 0.4}, {"fid": 0.2}),
        run("dcgan", {"fid": 10.0, "recall": 0.6, "kid": 0.02}, {"fid": 0.2}),
        run("r3gan", {"fid": math.nan}),
        run("lsgan", None),
    ]
    (ruler,) = rulers(runs)
    found = table(ruler)
    assert found.head == ("", "runs", "seeds", "fid", "≈", "kid", "recall", "step")
    assert found.rows == [
        ("1", "dcgan", "1", "10.00 ± 0.20", "", "0.02000", "0.6000", "300"),
        ("2", "wgan", "1", "12.00 ± 0.20", "3", "0.01000", "0.500 ± 0.010", "300"),
        ("3", "sngan", "1", "12.30 ± 0.20", "2", "—", "0.4000", "300"),
        ("4", "r3gan", "1", "diverged", "", "—", "—", "300"),
    ]
    notes = " ".join(cautions(ruler))
    assert "Not evaluated so: lsgan." in notes
    assert "One seed of each" in notes
    assert ruler.title == (
        "papers: 50,000 generated against 50,000 real images of cifar10 (train), extractor inception 6726825d, "
        "best generator, averaged"
    )


def test_seeds_are_one_row_by_their_own_spread() -> None:
    runs = [run("dcgan", {"fid": value}, {"fid": 0.01}, seed) for seed, value in enumerate((10.0, 11.0, 12.0))]
    (ruler,) = rulers([*runs, run("dcgan", None, seed=3), run("wgan", {"fid": 11.5}, {"fid": 0.01}, step=200)])
    assert table(ruler).rows == [
        ("1", "dcgan", "3 of 4", "11.0 ± 1.0", "2", "300"),
        ("2", "wgan", "1", "11.500 ± 0.010", "1", "200"),
    ]
    assert any("One seed of wgan" in note for note in cautions(ruler))


def test_many_places_that_are_alike_are_a_span() -> None:
    runs = [run(f"v{i}", {"fid": value}, {"fid": 1.0}) for i, value in enumerate((1.0, 2.0, 2.5, 3.0, 5.0, 60.0))]
    (ruler,) = rulers(runs)
    assert [row[4] for row in table(ruler).rows] == ["2 to 4", "1, 3, 4", "1, 2, 4, 5", "1 to 3, 5", "3, 4", ""]


def test_a_higher_score_is_better_where_it_is() -> None:
    higher = {"coverage", "density", "distance_ratio", "inception_score", "precision", "recall"}
    names = [*higher, "copy_rate", "fid", "fid_infinity", "kid"]
    assert {name for name in names if higher_is_better(name, {})} == higher
    runs = [run("dcgan", {"coverage": 0.5}), run("wgan", {"coverage": 0.9})]
    (ruler,) = rulers(runs)
    assert [row[1] for row in table(ruler).rows] == ["wgan", "dcgan"]


@pytest.mark.parametrize("suffix", ["", "_5k", "_test", "_vgg16-0a1b2c3d", "_classifier"])
def test_fid_comes_before_its_estimate_at_infinity(suffix: str) -> None:
    assert in_order([f"fid_infinity{suffix}", f"kid{suffix}", f"fid{suffix}"])[:2] == [
        f"fid{suffix}",
        f"fid_infinity{suffix}",
    ]


def test_what_was_stopped_is_no_seed_of_what_finished() -> None:
    (ruler,) = rulers([run("dcgan", {"fid": 9.0}), run("dcgan", {"fid": 40.0}, seed=1, status="KILLED", step=100)])
    assert [row[1:4] for row in table(ruler).rows] == [("dcgan", "1", "9"), ("dcgan (killed)", "1", "40")]


def test_other_budgets_are_rows_of_their_own_and_said() -> None:
    (ruler,) = rulers([run("dcgan", {"fid": 9.0}), run("dcgan", {"fid": 7.0}, steps=1000, step=1000)])
    assert [row[1] for row in table(ruler).rows] == ["dcgan steps=1000", "dcgan steps=300"]
    assert any("different budgets: 300 and 1000 generator steps" in note for note in cautions(ruler))


# Ways of measuring


def test_numbers_measured_otherwise_are_never_in_one_table() -> None:
    runs = [
        run("dcgan", {"fid": 10.0}),
        run("wgan", {"fid": 5.0}, key=OTHER, generator="last"),
        run("sngan", {"fid_5k": 7.0}, key="quick_1a2b3c4d", n_generated=5000),
    ]
    found = rulers(runs)
    assert [[row.label for row in ruler.rows] for ruler in found] == [["dcgan"], ["wgan"], ["sngan"]]
    assert found[0].others == ("wgan", "sngan")
    assert separation(found) == (
        "Evaluated in 3 ways (protocol: quick and papers; generated images: 5000 and 50000; generator: best and last): "
        "each table ranks only its own."
    )


def test_titles_that_would_be_alike_say_what_differs() -> None:
    found = rulers([run("dcgan", {"fid": 1.0}), run("dcgan", {"fid": 2.0}, key=OTHER, seed=1, resize="pil")])
    assert {ruler.key: ruler.title.rpartition("averaged")[2] for ruler in found} == {KEY: "", OTHER: ", resize=pil"}


def test_settings_out_of_reach_leave_the_line_that_describes_them() -> None:
    one = Run("a", "FINISHED", evaluations={KEY: Record(KEY, 3, {"fid": 1.0}, description="50k against train")})
    assert [ruler.title for ruler in rulers([one])] == ["50k against train"]
    whole = run("b", {"fid": 1.0})
    for runs in ([one, whole], [whole, one]):  # told by any run of the key
        assert [ruler.title[:14] for ruler in rulers(runs)] == ["papers: 50,000"]


# What is asked for


@pytest.mark.parametrize("metric", ["papers/recall", f"{KEY}/recall", f"eval/{KEY}/recall"])
def test_a_ranking_by_an_evaluation(metric: str) -> None:
    runs = [
        run("dcgan", {"fid": 1.0, "recall": 0.1}),
        run("wgan", {"fid": 2.0, "recall": 0.2}),
        run("lsgan", {"fid_5k": 1.0}, key="quick_1a2b3c4d"),
    ]
    found = compared(*runs, metric=metric)
    assert found.rulers[0].key == KEY
    assert table(found.rulers[0]).head[3] == "recall"
    assert [row[1] for row in table(found.rulers[0]).rows] == ["wgan", "dcgan"]
    assert found.text().index("best generator") < found.text().index("300 generator steps")
    assert [one.metric for one in found.sets] == ["fid_classifier"]


def test_a_protocol_measured_in_two_ways_is_ambiguous() -> None:
    runs = [run("dcgan", {"fid": 1.0}), run("wgan", {"fid": 2.0, "kid": 0.1}, key=OTHER, generator="last")]
    with pytest.raises(UserError, match=f"2 ways.*\n  metric={KEY}/fid .*best.*\n  metric={OTHER}/fid .*last"):
        compared(*runs, metric="papers/fid")
    assert compared(*runs, metric="papers/kid").rulers[0].key == OTHER


def test_an_unknown_value_names_those_there_are() -> None:
    runs = [run("dcgan", {"fid": 1.0, "kid": 0.1}), run("wgan", {"fid": 2.0}, key=OTHER, generator="last")]
    known = f"fid_classifier, {KEY}/fid, papers/kid, {OTHER}/fid"
    for metric in ("fid", "papers/precision", "test10k/fid", "papers/fid_std"):
        with pytest.raises(UserError, match=f"metric={metric}: not measured in these runs, which have {known}"):
            compared(*runs, metric=metric)


def test_a_metric_of_training_ranks_as_ever() -> None:
    found = compared(run("dcgan", {"fid": 1.0}), run("wgan", None), metric="fid_classifier")
    assert not found.evaluated_first
    assert [len(one.groups) for one in found.sets] == [2]


# Files


def test_records_in_a_run_folder_are_curves_and_the_latest_is_shown(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job")
    evaluated(folder, {"fid": 30.0}, step=100)
    evaluated(folder, {"fid": 20.0, "kid": None}, {"fid": 0.5}, step=200, averaged=False)
    (folder / "evaluations" / KEY / "step_250.json").write_text('{"key": "papers_1')
    (folder / "evaluations" / KEY / "closest.json").write_text("[1, 2]")
    found = from_folder(folder)
    assert found.curves[curve_name(KEY, "fid")] == {100: 30.0, 200: 20.0}
    assert math.isnan(found.curves[curve_name(KEY, "kid")][200])
    record = found.evaluations[KEY]
    assert (record.step, record.protocol, record.spread) == (200, "papers", {"fid": 0.5})
    assert record.settings["averaged"] == "false"
    assert found.quality == from_folder(make_job(tmp_path / "other")).quality
    assert not [name for name in found.drawn if name.startswith("eval/")]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants evaluated by the papers' protocol, one of them also quickly; a third not at all."""
    folder = tmp_path_factory.mktemp("outputs") / "3_sweep"
    jobs = {}
    for variant, fid in (("dcgan", 24.7), ("wgan", 31.2), ("lsgan", None)):
        job = make_job(folder / f"{len(jobs)}_{variant}", variant, final=9.0)
        jobs[job.name] = [f"model={variant}", "seed=0"]
        if fid is not None:
            evaluated(job, {"fid": fid, "recall": 0.4, "density": 0.9}, {"fid": 0.15})
    evaluated(folder / "0_dcgan", {"fid_5k": 40.0}, key="quick_00000000", n_generated=5000, note="<b>bold</b>")
    return make_sweep(folder, jobs)


def test_the_report_ranks_each_way_of_measuring_by_itself(sweep: Path) -> None:
    found = compare_sweep(sweep)
    html = found.report.read_text()
    assert html.index("<h2>Ranking</h2>") < html.index("<h2>Evaluations</h2>") < html.index("<h2>Curves</h2>")
    section = html[html.index("<h2>Evaluations</h2>") : html.index("<h2>Curves</h2>")]
    assert section.count("<table") == 2
    assert "24.70 ± 0.15" in section
    assert "Not evaluated so: lsgan." in section
    assert "note: &lt;b&gt;bold&lt;/b&gt;" in section
    assert "Evaluated in 2 ways (protocol: quick and papers; generated images: 5000 and 50000" in section
    assert compare_sweep(sweep, metric="papers/fid").report.read_text().index("<h2>Evaluations</h2>") < html.index(
        "<h2>Ranking</h2>"
    )


def test_the_terminal_and_the_description_show_them_too(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compare_sweep(sweep)
    for width in (60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = found.text().splitlines()
        assert [line for line in lines[:-2] if len(line) > width] == []
        assert any(re.search(r"1  dcgan +1 +24\.70 ± 0\.15", line) for line in lines)
    note = re.sub(" +", " ", found.markdown().replace("&nbsp;", " "))
    assert r"| 1 | dcgan | 1 | 24.70 ± 0.15 | | 0.4000 | 0.9000 | 300 |" in note
    assert r"papers\_1a2b3c4d" in note


def test_images_of_anyone_stand_beside_a_run_measured_alike(sweep: Path, tmp_path: Path) -> None:
    peer = tmp_path / "peer"
    peer.mkdir()
    tracker = FolderTracker(peer)
    tracker.set_tags({"variant": "a peer's samples"})
    tracker.close("FINISHED")
    evaluated(peer, {"fid": 20.0}, {"fid": 0.1}, step=0)
    found = compare(
        find_compared_runs([str(sweep / "0_dcgan"), str(peer)], lambda: None), "both", tmp_path / "report.html"
    )
    assert [row[1] for row in table(found.rulers[0]).rows] == ["a peer's samples", "dcgan"]
    assert found.unmeasured == []
    page = write(found)[0].read_text()
    assert page.count("python train.py") == 1


def test_without_evaluations_nothing_is_said_of_them(tmp_path: Path) -> None:
    make_job(tmp_path / "0_job")
    found = compare_sweep(make_sweep(tmp_path, {"0_job": ["model=dcgan"]}))
    assert not re.search(r"≈|Evaluated|papers", found.text() + found.markdown())
    assert "Evaluations" not in found.report.read_text()
