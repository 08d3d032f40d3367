"""Ranks the results of `python evaluate.py`, separately for each protocol, since values of two are not comparable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from gantry.core.errors import UserError
from gantry.evaluation import records
from gantry.evaluation.result import PREFIX
from gantry.reports.ranking import IMPLIED, PROTOCOL, alike, one_a_seed, several
from gantry.reports.run import Run, in_order
from gantry.reports.significance import Score, score, told_apart
from gantry.reports.tables import ABSENT, Table, shown
from gantry.runs.directions import higher_is_better

PROTOCOLS = ("papers", "test10k", "quick")  # in this order; others follow
WORDS = {key.removeprefix("metrics."): word for key, word in PROTOCOL.items()}
ALIKE = "≈"
UNKNOWN = "?"
MOST_DIFFERENCES = 4  # settings named where protocols differ
MOST_LISTED = 8  # labels in a sentence
COUNTS = {"n_generated": "generated", "n_real": "real images"}


@dataclass(frozen=True, eq=False)
class Row:
    """Runs that differ only in their seed, measured by one protocol.

    Attributes:
        label: unique in the comparison.
        runs: one per seed.
        of: number of seeds that finished, measured by this protocol or not.
    """

    label: str
    runs: tuple[Run, ...]
    of: int

    def score(self, key: str, name: str) -> Score | None:
        """Return the score of a metric under a key; None where no run has a value."""
        evaluated = [run.evaluations[key] for run in self.runs]
        return score([one.values.get(name) for one in evaluated], [one.spread.get(name) for one in evaluated])


@dataclass(frozen=True, eq=False)
class Ruler:
    """A ranking of all that was measured by one protocol with the same settings.

    Attributes:
        key, protocol, settings: as in the records.
        title: the settings in words, unique among the rulers.
        metric: the metric it ranks by.
        rows: the best first, then the diverged, then those without a value.
        others: the labels of finished runs that were not measured by this protocol.
        repeats: number of runs left out because a later one has the same config and seed.
        higher: True where a higher value of `metric` is better.
    """

    key: str
    protocol: str
    settings: Mapping[str, str]
    title: str
    metric: str
    rows: tuple[Row, ...]
    others: tuple[str, ...]
    repeats: int
    higher: bool

    @property
    def names(self) -> list[str]:
        """Return the names of its metrics, the one it ranks by first, without those of spreads."""
        return list(
            dict.fromkeys([self.metric, *in_order(_names(self.key, [r for row in self.rows for r in row.runs]))])
        )

    def scores(self, name: str) -> list[Score | None]:
        """Return each row's score of a metric."""
        return [row.score(self.key, name) for row in self.rows]


def rulers(runs: Sequence[Run], chosen: tuple[str, str] | None = None) -> list[Ruler]:
    """Return a ranking for every protocol by which any of `runs` was measured, the papers' first.

    Args:
        chosen: the key that comes first, and the metric to rank by under it; other rankings use their first metric.
    """
    groups = alike(runs)
    samples = _samples(runs)
    titles = _titles(samples)
    made = [_ruler(record, titles[key], groups, chosen) for key, record in samples.items()]
    return sorted((ruler for ruler in made if ruler is not None), key=lambda one: _order(one, chosen))


def _order(ruler: Ruler, chosen: tuple[str, str] | None) -> tuple[bool, int, int, str]:
    place = PROTOCOLS.index(ruler.protocol) if ruler.protocol in PROTOCOLS else len(PROTOCOLS)
    first = chosen is not None and ruler.key == chosen[0]
    return not first, place, -sum(len(row.runs) for row in ruler.rows), ruler.key


def _ruler(
    record: records.Record, title: str, groups: Mapping[str, Sequence[Run]], chosen: tuple[str, str] | None
) -> Ruler | None:
    key = record.key
    rows, others, repeats = [], [], 0
    for label, group in groups.items():
        measured = [run for run in group if key in run.evaluations]
        seeds = {run.seed for run in group if run.status == "FINISHED"}
        if seeds and not measured:
            others.append(label)
        for status in dict.fromkeys(run.status for run in measured):
            kept = one_a_seed(run for run in measured if run.status == status)
            repeats += sum(run.status == status for run in measured) - len(kept)
            # A run that did not finish is not a seed of the finished ones.
            name, of = (label, len(seeds)) if status == "FINISHED" else (f"{label} ({status.lower()})", len(kept))
            rows.append(Row(name, tuple(kept), of))
    names = in_order(_names(key, [run for row in rows for run in row.runs]))
    if not names:
        return None
    metric = chosen[1] if chosen is not None and chosen[0] == key else names[0]
    stated = [run.evaluations[key].higher_is_better for row in rows for run in row.runs]
    higher = higher_is_better(metric, {name: way for one in stated for name, way in one.items()}) is True
    rows.sort(key=lambda row: _standing(row.score(key, metric), higher))
    return Ruler(key, record.protocol, record.settings, title, metric, tuple(rows), tuple(others), repeats, higher)


def _standing(value: Score | None, higher: bool) -> tuple[int, float]:
    """Return the sort key of a score: finite means from best to worst, then diverged, then unmeasured."""
    if not _finite(value):
        return (2 if value is None else 1), 0.0
    return 0, -value.shown.mean if higher else value.shown.mean


def _names(key: str, runs: Iterable[Run]) -> set[str]:
    names = {name for run in runs if key in run.evaluations for name in run.evaluations[key].values}
    return {name for name in names if "_std" not in name}


def _titles(samples: Mapping[str, records.Record]) -> dict[str, str]:
    """Return each record's settings in words, with further settings where two would read the same."""
    words = {key: _words(record) for key, record in samples.items()}
    titles = {}
    for key, record in samples.items():
        rivals = [other.settings for name, other in samples.items() if words[name] == words[key]]
        differing = [name for name in record.settings if len({other.get(name) for other in rivals}) > 1]
        titles[key] = ", ".join([words[key], *(f"{name}={several([record.settings[name]])[0]}" for name in differing)])
    return titles


def _words(record: records.Record) -> str:
    s = record.settings
    if not s:
        return record.description or f"{record.protocol}, by settings that cannot be read"
    counts = " against ".join(f"{_thousands(s[key])} {word}" for key, word in COUNTS.items() if key in s)
    data = " ".join(["of", s["data"], *([f"({s['split']})"] if "split" in s else [])]) if "data" in s else ""
    extractor = f"extractor {s['extractor']} {s.get('extractor_sha256', '')[:8]}" if "extractor" in s else ""
    generator = f"{s['generator']} generator" if "generator" in s else ""
    averaged = {"true": "averaged", "false": "not averaged"}.get(s.get("averaged", "").lower(), "")
    parts = (f"{counts} {data}".strip(), extractor.strip(), generator, averaged)
    return f"{record.protocol}: " + ", ".join(part for part in parts if part)


def _thousands(count: str) -> str:
    return f"{int(count):,}" if count.isdecimal() else count


def separation(rankings: Sequence[Ruler]) -> str:
    """Return the sentence that explains why there are several rankings; empty where there is one."""
    if len(rankings) < 2:
        return ""
    settings = [{"protocol": ruler.protocol, **ruler.settings} for ruler in rankings if ruler.settings]
    values = {
        key: {one.get(key, ABSENT) for one in settings} for key in dict.fromkeys(k for one in settings for k in one)
    }
    differing = {key: several(every) for key, every in values.items() if len(every) > 1}
    for key, consequences in IMPLIED.items():
        if key.removeprefix("metrics.") in differing:
            differing = {k: v for k, v in differing.items() if f"metrics.{k}" not in consequences}
    phrases = [f"{WORDS.get(key, key)}: {', '.join(every[:-1])} and {every[-1]}" for key, every in differing.items()]
    more = ["and other settings"] if len(phrases) > MOST_DIFFERENCES else []
    how = f" ({'; '.join([*phrases[:MOST_DIFFERENCES], *more])})" if phrases else ""
    return f"Evaluated in {len(rankings)} ways{how}: each table ranks only its own."


def table(ruler: Ruler) -> Table:
    """Return the rows, best first: the ranking metric, the places not told apart by it, other metrics, steps."""
    ranked = ruler.scores(ruler.metric)
    columns = [
        [_cell(value, row) for value, row in zip(ruler.scores(name), ruler.rows, strict=True)] for name in ruler.names
    ]
    head = ("", "runs", "seeds", ruler.metric, ALIKE, *ruler.names[1:], "step")
    rows = []
    for index, row in enumerate(ruler.rows):
        steps = sorted({run.evaluations[ruler.key].step for run in row.runs})
        seeds = str(len(row.runs)) + ("" if row.of == len(row.runs) else f" of {row.of}")
        first, *values = [column[index] for column in columns]
        step = " to ".join(f"{step:,}" for step in dict.fromkeys((steps[0], steps[-1])))
        rows.append((str(index + 1), row.label, seeds, first, _alike(index, ranked), *values, step))
    return Table(head, rows)


def _cell(value: Score | None, row: Row) -> str:
    if value is None:
        return ABSENT
    return shown(value.shown) + (
        "" if value.shown.n == len(row.runs) else f" ({value.shown.n} of {len(row.runs)} seeds)"
    )


def _alike(index: int, ranked: Sequence[Score | None]) -> str:
    """Return the places whose scores are not told apart from this one's, `1, 3 to 5`, and `?` where that is unknown."""
    verdicts = _verdicts(index, ranked)
    spans: list[list[int]] = []
    for place in (place for place, verdict in verdicts.items() if verdict is False):
        if spans and spans[-1][-1] == place - 1:
            spans[-1].append(place)
        else:
            spans.append([place])
    texts = [f"{span[0]} to {span[-1]}" if len(span) > 2 else ", ".join(map(str, span)) for span in spans]
    return ", ".join([*texts, *([UNKNOWN] if None in verdicts.values() else [])])


def _verdicts(index: int, ranked: Sequence[Score | None]) -> dict[int, bool | None]:
    """Return `told_apart` of this score and each other finite one, by place."""
    mine = ranked[index]
    if not _finite(mine):
        return {}
    others = ((place, other) for place, other in enumerate(ranked, 1) if place != index + 1)
    return {place: told_apart(mine, other) for place, other in others if _finite(other)}


def _finite(value: Score | None) -> TypeGuard[Score]:
    return value is not None and not value.shown.diverged


def basis(ruler: Ruler) -> str:
    """Return a sentence that explains a ruler's table."""
    better = "higher" if ruler.higher else "lower"
    return (
        f"Ranked by {ruler.metric}, the {better} the better, mean over seeds. ± is the standard deviation over seeds "
        "(n - 1), of a single seed that over repeated draws of its images, where it was measured."
    )


def cautions(ruler: Ruler) -> list[str]:
    """Return warnings about conclusions that a ruler's table does not support."""
    notes, ranked = [], ruler.scores(ruler.metric)
    finite = [(row.label, value) for row, value in zip(ruler.rows, ranked, strict=True) if _finite(value)]
    verdicts = {verdict for index in range(len(ranked)) for verdict in _verdicts(index, ranked).values()}
    if False in verdicts:
        notes.append(
            f"{ALIKE} names the places not told apart from this one: they differ from it in {ruler.metric} by no more "
            "than two standard deviations of the difference, or more where few seeds are all that is known of those."
        )
    if None in verdicts:
        unknown = _listed([label for label, value in finite if value.error is None])
        notes.append(f"{UNKNOWN}: without a spread over draws it is not known what differs ({unknown}).")
    single = [label for label, value in finite if value.shown.n == 1]
    if single and len(finite) > 1:
        which = "each" if len(single) == len(finite) else _listed(single)
        notes.append(f"One seed of {which}: this compares generators, not what made them. seed=0,1,2 repeats.")
    budgets = several({run.params["steps"] for row in ruler.rows for run in row.runs if "steps" in run.params})
    if len(budgets) > 1:
        notes.append(f"Trained for different budgets: {', '.join(budgets[:-1])} and {budgets[-1]} generator steps.")
    if ruler.repeats:
        repeats = "An earlier run" if ruler.repeats == 1 else f"{ruler.repeats} earlier runs"
        notes.append(f"{repeats} of the same config and seed left out.")
    said = dict.fromkeys(one for row in ruler.rows for run in row.runs for one in run.evaluations[ruler.key].caveats)
    notes += [f"But {sentence}." for sentence in said]
    if ruler.others:
        notes.append(f"Not evaluated so: {_listed(ruler.others)}.")
    return notes


def _listed(labels: Sequence[str]) -> str:
    more = [f"{len(labels) - MOST_LISTED} more"] if len(labels) > MOST_LISTED else []
    return ", ".join([*labels[:MOST_LISTED], *more])


def find(metric: str, runs: Sequence[Run]) -> tuple[str, str] | None:
    """Return key and name for `papers/fid`, `papers_1a2b3c4d/fid` or `eval/papers_1a2b3c4d/fid`; None without a match.

    Raises:
        UserError: several keys of that protocol have such a value; the message names them.
    """
    samples = _samples(runs)
    wanted, _, name = metric.removeprefix(PREFIX).partition("/")
    keys = [key for key in samples if wanted in (key, samples[key].protocol) and name in _names(key, runs)]
    if len(keys) > 1:
        titles = _titles(samples)
        listed = "\n".join(f"  metric={key}/{name}  {titles[key]}" for key in keys)
        raise UserError(f"metric={metric}: measured in {len(keys)} ways, never ranked together; name one:\n{listed}")
    return (keys[0], name) if keys else None


def choices(runs: Sequence[Run]) -> list[str]:
    """Return the metrics that a ranking can use, as `find` accepts them."""
    samples = _samples(runs)
    named = [(record.protocol, key, name) for key, record in samples.items() for name in in_order(_names(key, runs))]
    pairs = [(protocol, name) for protocol, _, name in named]
    return [f"{protocol if pairs.count((protocol, name)) == 1 else key}/{name}" for protocol, key, name in named]


def _samples(runs: Sequence[Run]) -> dict[str, records.Record]:
    """Return one record of each key, if possible one with settings."""
    every = [record for run in runs for record in run.evaluations.values()]
    return {record.key: record for record in sorted(every, key=lambda record: bool(record.settings))}
