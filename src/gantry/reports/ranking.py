"""Groups comparable runs and ranks them, by pure functions of what was logged."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gantry.reports.config_differences import config, labels, typed
from gantry.reports.run import Run, direction

GROUND = "metrics.ground"  # only of images with alpha
# Runs are ranked together only where all of these tags agree; the values are their names in sentences.
PROTOCOL = {
    "metrics.data": "data set",
    "metrics.data_digest": "the data set's digest",
    GROUND: "the ground of transparent images",
    "metrics.split": "split",
    "metrics.n_real": "real images",
    "metrics.n_generated": "generated images",
    "metrics.extractor": "extractor",
    "metrics.extractor_sha256": "the extractor's weights",
}
IMPLIED = {  # differences that follow from that of the key, and are not mentioned beside it
    "metrics.data": ("metrics.data_digest", "metrics.n_real", "metrics.extractor_sha256"),
    "metrics.n_real": ("metrics.data_digest", "metrics.extractor_sha256"),
    "metrics.extractor": ("metrics.extractor_sha256", "metric"),
    "metrics.n_generated": ("metric",),
}
SHOWN = ("steps", "seed", "model", "data", "metrics.n_generated")  # in a set's title or rows anyway
CHOSEN_STEPS = 4


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds.

    Attributes:
        mean: NaN where a run diverged.
        std: the sample standard deviation (n - 1); None for one run.
        n: number of runs.
        diverged: number of runs without a finite value.
    """

    mean: float
    std: float | None
    n: int
    diverged: int = 0


def spread(values: Iterable[float | None]) -> Spread | None:
    """Return mean and standard deviation of the values that are not None; None where there are none."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    if diverged := sum(not math.isfinite(value) for value in present):
        return Spread(math.nan, None, len(present), diverged)
    return Spread(statistics.fmean(present), statistics.stdev(present) if len(present) > 1 else None, len(present))


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ only in their seed.

    Attributes:
        label: unique among the groups compared with it.
        finished: one run per seed, in the order of the seeds.
        others: its runs that failed, were stopped or are under way.
    """

    label: str
    finished: tuple[Run, ...]
    others: tuple[Run, ...]

    @property
    def shown(self) -> tuple[Run, ...]:
        """Return the runs whose curves and samples are shown."""
        return self.finished or self.others

    def over_seeds(self, value: Callable[[Run], float | None]) -> Spread | None:
        """Return the spread of `value` over the finished runs."""
        return spread(value(run) for run in self.finished)


@dataclass(frozen=True, eq=False)
class Standing:
    """A group's place in a ranking; `close` where the next one differs by less than their spread over seeds."""

    group: Group
    final: Spread | None
    best: Spread | None
    close: bool


@dataclass(frozen=True, eq=False)
class ComparableSet:
    """Groups with the same protocol and the same budget.

    Attributes:
        protocol: the common values of the keys of `PROTOCOL`, `metric` (which picked the best step) and `steps`.
        metric: the metric they are ranked by.
        groups: ranked ones first, best first.
        repeats: finished runs left out because a later one has the same config and seed.
        options: overrides that all of its runs share and that differ in other sets, by key.
    """

    protocol: Mapping[str, str]
    metric: str
    groups: tuple[Group, ...]
    repeats: tuple[Run, ...]
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def budget(self) -> int:
        """Return the budget in generator steps."""
        return int(self.protocol["steps"])

    @property
    def title(self) -> str:
        options = "".join(f", {key}={value}" for key, value in self.options.items())
        return f"{self.protocol['metrics.data']}, {self.budget:,} generator steps{options}"

    @property
    def measured(self) -> str:
        """Return the protocol of its metrics in a line."""
        p = self.protocol
        return (
            f"{p['metrics.n_generated']} generated against {p['metrics.n_real']} real images ({p['metrics.split']}), "
            f"extractor {p['metrics.extractor']} {p['metrics.extractor_sha256'][:8]}"
        )

    @property
    def runs(self) -> list[Run]:
        """The runs of its groups that are shown."""
        return [run for group in self.groups for run in group.shown]

    @property
    def quality(self) -> list[str]:
        """Return the quality metrics of its runs."""
        return list(dict.fromkeys(name for run in self.runs for name in run.quality))

    @property
    def standings(self) -> list[Standing]:
        """Return the groups with finished runs, best first."""
        ranked = [group for group in self.groups if group.finished]
        finals = [group.over_seeds(lambda run: run.last(f"final/{self.metric}")) for group in ranked]
        bests = [group.over_seeds(lambda run: run.last(f"best/{self.metric}")) for group in ranked]
        close = [_close(a, b) for a, b in zip(finals, [*finals[1:], None], strict=True)] if finals else []
        return [Standing(*row) for row in zip(ranked, finals, bests, close, strict=True)]

    @property
    def measured_steps(self) -> list[int]:
        """Return the steps above 0 at which every group was measured; where there is none, those of any group."""
        steps = [{s for run in g.shown[:1] for s in run.curves.get(self.metric, ()) if s > 0} for g in self.groups]
        reached = [s for s, group in zip(steps, self.groups, strict=True) if group.finished] or steps
        return sorted(set.intersection(*reached) or set.union(*reached))


def _close(one: Spread | None, next_one: Spread | None) -> bool:
    if one is None or next_one is None or one.std is None or next_one.std is None:
        return False
    return abs(one.mean - next_one.mean) < max(one.std, next_one.std)


def spaced(steps: Sequence[int], most: int = CHOSEN_STEPS) -> list[int]:
    """Return at most `most` of the sorted `steps`, evenly spread, the last among them."""
    if len(steps) <= most:
        return list(steps)
    targets = [steps[-1] * (i + 1) / most for i in range(most)]
    return sorted({min(steps, key=lambda step: abs(step - target)) for target in targets})


def comparable_sets(runs: Sequence[Run], metric: str | None = None) -> list[ComparableSet]:
    """Divide the runs that were measured into sets that can be compared, the largest first.

    Args:
        metric: rank by this one where a set has it; by the metric that picked the best steps otherwise.
    """
    measured: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        if (protocol := _protocol(run)) is not None:
            measured.setdefault(tuple(protocol.items()), []).append(run)
    sets = [_set(dict(protocol), members, metric) for protocol, members in measured.items()]
    sets = [replace(one, options=options) for one, options in zip(sets, _options(list(measured.values())), strict=True)]
    return sorted(sets, key=lambda one: -sum(len(group.shown) for group in one.groups))


def _options(sets: Sequence[Sequence[Run]]) -> list[dict[str, str]]:
    """Return for each set the overrides that all of its runs share and that differ in other sets."""
    everywhere = [[typed(run) for run in runs] for runs in sets]
    keys = dict.fromkeys(key for runs in everywhere for options in runs for key in options if key not in SHOWN)
    shared = [{key: {options.get(key) for options in runs} for key in keys} for runs in everywhere]
    differing = [key for key in keys if len({value for values in shared for value in values[key]}) > 1]
    return [
        {key: value for key in differing if len(values[key]) == 1 and (value := next(iter(values[key]))) is not None}
        for values in shared
    ]


def alike(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group the runs that differ only in their seed, by a unique label."""
    members: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        members.setdefault((("variant", run.variant), *sorted(config(run).items())), []).append(run)
    return dict(zip(labels([group[0] for group in members.values()]), members.values(), strict=True))


def one_a_seed(runs: Iterable[Run]) -> list[Run]:
    """Return the latest run of each seed, in the order of the seeds."""
    latest = {run.seed: run for run in sorted(runs, key=lambda run: run.started)}
    return sorted(latest.values(), key=lambda run: (len(run.seed), run.seed))


def apart(sets: Sequence[ComparableSet]) -> list[str]:
    """Return the differences that make sets incomparable, such as `budget: 1000 and 3000 generator steps`."""
    protocols = {key: several({one.protocol[key] for one in sets}) for key in (*PROTOCOL, "metric", "steps")}
    differing = {key: values for key, values in protocols.items() if len(values) > 1}
    for key, consequences in IMPLIED.items():
        if key in differing:
            differing = {other: values for other, values in differing.items() if other not in consequences}
    hashes = {"metrics.data_digest", "metrics.extractor_sha256"}
    if hashes & differing.keys() and (keys := dict.fromkeys(key for one in sets for key in one.options)):
        # An override is more informative than the hash that it changed.
        differing = {key: values for key, values in differing.items() if key not in hashes}
        differing |= {key: several({one.options.get(key, "as it is") for one in sets}) for key in keys}
    names = {**PROTOCOL, **{key: key for key in differing}, **PROTOCOL, "metric": "metric", "steps": "budget"}
    units = {"steps": " generator steps"}
    return [
        f"{names[key]}: {', '.join(values[:-1])} and {values[-1]}{units.get(key, '')}"
        for key, values in differing.items()
    ]


def several(values: Iterable[str]) -> list[str]:
    """Sort values, numbers by size, and shorten hashes."""
    return [value[:12] if len(value) == 64 else value for value in sorted(values, key=lambda text: (len(text), text))]


def _protocol(run: Run) -> dict[str, str] | None:
    """Return the values that must agree for a run to be ranked with others; None where it was not measured."""
    values = {GROUND: "none"} | {key: run.tags.get(key) for key in PROTOCOL if key != GROUND or key in run.tags}
    values |= {"metric": run.primary, "steps": run.params.get("steps")}
    present = {key: value for key, value in values.items() if value is not None}
    return present if len(present) == len(values) else None


def _set(protocol: dict[str, str], runs: Sequence[Run], metric: str | None) -> ComparableSet:
    primary = protocol["metric"]
    by = metric if metric in {name for run in runs for name in run.quality} else primary
    groups, repeats = [], []
    for label, group in alike(runs).items():
        finished = one_a_seed(run for run in group if run.status == "FINISHED")
        others = [run for run in group if run.status != "FINISHED"]
        repeats += [run for run in group if run.status == "FINISHED" and run not in finished]
        groups.append(Group(label, tuple(finished), tuple(others)))
    higher = direction(by, runs) is True
    return ComparableSet(
        protocol, by, tuple(sorted(groups, key=lambda group: _order(group, by, higher))), tuple(repeats)
    )


def _order(group: Group, metric: str, higher: bool) -> tuple[int, float]:
    """Return the sort key of a group: finite means from best to worst, then diverged, unmeasured, unfinished."""
    if not group.finished:
        return 3, 0.0
    final = group.over_seeds(lambda run: run.last(f"final/{metric}"))
    if final is None:
        return 2, 0.0
    if math.isnan(final.mean):
        return 1, 0.0
    return 0, -final.mean if higher else final.mean
