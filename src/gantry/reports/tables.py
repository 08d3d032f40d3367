"""Builds the report's tables as text cells, and its sentences, for HTML, Markdown and the terminal."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gantry.core.config.overrides import of_the_run
from gantry.core.text import typed_command
from gantry.reports.config_differences import differences
from gantry.reports.ranking import ComparableSet, Group, Spread, apart, spread
from gantry.reports.run import Run, direction
from gantry.runs.folder import CAVEATS

ABSENT = "—"
COLUMNS = 4  # groups that "What differed" shows side by side
Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A header and rows of equally many cells; `labels` names the group of each row, where rows are groups."""

    head: Row
    rows: list[Row]
    labels: tuple[str, ...] = ()


def number(value: float) -> str:
    """Format a number with four significant digits and thousands separators, without an exponent above one.

    Whole numbers, such as counts, have no decimals; any other keeps its last zeros, so that a column has equal digits.
    """
    if not math.isfinite(value):
        return "diverged"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:#.4g}"


def shown(over_seeds: Spread | None) -> str:
    """Format as `3.05 ± 0.12`, the mean to the second digit of the standard deviation; `diverged` where a run did."""
    if over_seeds is None:
        return ABSENT
    if over_seeds.diverged:
        return "diverged" if over_seeds.n == 1 else f"diverged ({over_seeds.diverged} of {over_seeds.n})"
    if over_seeds.std is None or over_seeds.std == 0:
        return number(over_seeds.mean) + ("" if over_seeds.std is None else " ± 0")
    digits = max(0, min(1 - math.floor(math.log10(over_seeds.std)), 6))
    return f"{over_seeds.mean:,.{digits}f} ± {over_seeds.std:.{digits}f}"


def ranking(one: ComparableSet, steps: Sequence[int]) -> Table:
    """List the groups, best first: the metric's last and best values and those at `steps`, other metrics' last ones."""
    at = [step for step in steps if 0 < step < one.budget]
    others = [name for name in one.quality if name != one.metric]
    head = ("", "runs", "seeds", f"{one.metric}, final", "best", *(f"step {s:,}" for s in at), *others)
    rows = []
    for place, standing in enumerate(one.standings, 1):
        group = standing.group
        rows.append(
            (
                f"{place}" + (" ≈" if standing.close else ""),
                group.label,
                seeds(group),
                *(
                    shown(found)
                    + (
                        ""
                        if found is None or found.n == len(group.finished)
                        else f" ({found.n} of {len(group.finished)} seeds)"
                    )
                    for found in (
                        standing.final,
                        standing.best,
                        *(group.over_seeds(_at(one.metric, step)) for step in at),
                        *(group.over_seeds(_last(f"final/{name}")) for name in others),
                    )
                ),
            )
        )
    return Table(head, rows, tuple(standing.group.label for standing in one.standings))


def seeds(group: Group) -> str:
    """Return the number of finished seeds, with the total if some did not finish."""
    of = len({run.seed for run in (*group.finished, *group.others)})
    return str(len(group.finished)) + ("" if of == len(group.finished) else f" of {of}")


def _last(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.last(name)


def _at(name: str, step: int) -> Callable[[Run], float | None]:
    return lambda run: run.curves.get(name, {}).get(step)


def basis(one: ComparableSet) -> str:
    """Return the explanation of the columns of a set's ranking."""
    primary = one.protocol["metric"]
    best = "highest" if direction(primary, one.runs) else "lowest"
    return (
        f"Ranked by the mean of {one.metric} after the last step, as are all columns that name no other. Best is its "
        f"value at the step at which {primary} was {best}: a step picked by looking flatters. "
        "± is the standard deviation over seeds (n - 1)."
    )


def cautions(one: ComparableSet, metric: str | None) -> list[str]:
    """Return the limits of a set's ranking; `metric` is the requested one."""
    standings, notes = one.standings, []
    if metric is not None and one.metric != metric:
        notes.append(f"{metric} was not measured here: ranked by {one.metric}.")
    if not standings:
        return [*notes, "No run has finished: there is nothing to rank yet."]
    if any(standing.close for standing in standings):
        notes.append("≈ the next one is within one standard deviation: the order of the two says little.")
    finite = [one for one in standings if one.final is not None and not one.final.diverged]
    single = [one.group.label for one in finite if one.final is not None and one.final.n == 1]
    if single and len(standings) > 1:
        which = "each" if len(single) == len(finite) else ", ".join(single)
        notes.append(f"One seed of {which}: small differences say little. seed=0,1,2 repeats.")
    seen = {round(images.mean) for row in standings if (images := row.group.over_seeds(_last("images_seen")))}
    if len(seen) > 1:
        notes.append(
            f"The budget counts generator steps: real images seen differ, from {min(seen):,} to {max(seen):,}."
        )
    if len({row.final.n for row in standings if row.final is not None}) > 1:
        notes.append("Not all have as many seeds: the fewer, the less a mean says.")
    if one.repeats:
        repeats = "An earlier run" if len(one.repeats) == 1 else f"{len(one.repeats)} earlier runs"
        notes.append(f"{repeats} of the same config and seed left out.")
    said = dict.fromkeys(line for run in one.runs for line in run.tags.get(CAVEATS, "").splitlines())
    return [*notes, *(f"But {sentence}." for sentence in said)]


def separation(sets: Sequence[ComparableSet]) -> str:
    """Return the reason why there are several rankings; empty where there is one."""
    if len(sets) < 2:
        return ""
    return f"Not all runs can be compared ({'; '.join(apart(sets))}): each table ranks only its own."


def cost(one: ComparableSet) -> Table:
    """List the cost of the finished groups, each the mean over its seeds."""
    columns: dict[str, tuple[Callable[[Run], float | None], Callable[[float], str]]] = {
        "training": (_last("training_seconds"), duration),
        "measuring": (_sum("evaluation_seconds"), duration),
        "real images seen": (_last("images_seen"), lambda value: f"{value:,.0f}"),
        "real images a second": (_speed, lambda value: f"{value:,.0f}"),
        "peak memory, MiB": (_last("peak_memory_mib"), lambda value: f"{value:,.0f}"),
        "peak GPU memory, MiB": (_last("peak_gpu_memory_mib"), lambda value: f"{value:,.0f}"),
    }
    groups = [group for group in one.groups if group.finished]
    averages = {name: [group.over_seeds(read) for group in groups] for name, (read, _) in columns.items()}
    known = {name: means for name, means in averages.items() if any(means)}
    cells = {name: [ABSENT if m is None else columns[name][1](m.mean) for m in means] for name, means in known.items()}
    rows = [(group.label, *(cells[name][i] for name in cells)) for i, group in enumerate(groups)] if cells else []
    return Table(("", *cells), rows, tuple(group.label for group in groups))


def condensed(table: Table, kept: int = 4) -> tuple[Table, str]:
    """Take out the columns that say the same in every row, and return the rest with what those say, as a sentence.

    Args:
        kept: the first columns, which stay whatever they say.
    """
    columns = range(len(table.head))
    alike = [i for i in columns if i >= kept and len(table.rows) > 1 and len({row[i] for row in table.rows}) == 1]
    said = ", ".join(f"{table.head[i]} {table.rows[0][i]}" for i in alike if table.rows[0][i])
    rest = [i for i in columns if i not in alike]
    rows = [tuple(row[i] for i in rest) for row in table.rows]
    return Table(tuple(table.head[i] for i in rest), rows, table.labels), f"In every row: {said}." if said else ""


def duration(seconds: float) -> str:
    """Format a duration as `8.3 s`, `4 min 12 s` or `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _sum(name: str) -> Callable[[Run], float | None]:
    return lambda run: sum(run.curves[name].values()) if name in run.curves else None


def _speed(run: Run) -> float | None:
    images, seconds = run.last("images_seen"), run.last("training_seconds")
    if images and seconds:
        return images / seconds
    found = spread(run.curves.get("images_per_second", {}).values())
    return None if found is None else found.mean


def differing(one: ComparableSet) -> Table:
    """List the options that differ between the groups of a set.

    Of few groups each is a column; of more, each value of an option is a row that names the groups which have it, so
    that the table has three columns for any number of them.
    """
    groups = [group for group in one.groups if group.shown]
    table = {
        key: [ABSENT if value is None else value for value in values]
        for key, values in differences([group.shown[0] for group in groups]).items()
    }
    labels = tuple(group.label for group in groups)
    if len(labels) <= COLUMNS:
        return Table(("", *labels), [(key, *values) for key, values in table.items()])
    rows: list[Row] = []
    for key, values in table.items():
        for value in dict.fromkeys(values):
            having = ", ".join(label for label, own in zip(labels, values, strict=True) if own == value)
            rows.append((key if value == values[0] else "", value, having))
    return Table(("", "value", "runs"), rows)


def statuses(runs: Sequence[Run]) -> str:
    """Count runs by status, as `12 runs: 7 finished, 4 failed, 1 still running`."""
    counts = Counter(run.status for run in runs)
    words = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "killed", "RUNNING": "still running"}
    words |= {"NOT STARTED": "not started"}
    parts = [f"{counts[status]} {word}" for status, word in words.items() if counts[status]]
    return f"{len(runs)} run{'s' * (len(runs) != 1)}: {', '.join(parts) or 'none has begun'}"


def reason(run: Run) -> str:
    """Return the reason why a run is not among the finished ones."""
    if run.reason:
        return run.reason
    return {"RUNNING": "no ending recorded: still running, or lost with its machine"}.get(run.status, "")


def sweep_command(typed: Sequence[str]) -> str:
    """Return the command that started the sweep."""
    return f"{typed_command('train')} -m {shlex.join(typed)}"


def command(run: Run) -> str:
    """Return the command that repeats a single run."""
    return f"{typed_command('train')} {shlex.join(of_the_run(run.overrides))}".rstrip()


def state(run: Run) -> str:
    """Return the version of the code that a run used."""
    commit = run.tags.get("git.commit", "")
    if not commit:
        return "commit unknown"
    dirty = ", with changes that were not committed" if run.tags.get("git.dirty") == "true" else ""
    return f"commit {commit[:10]}{dirty}"
