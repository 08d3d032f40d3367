"""Writes the report: one self-contained HTML file, and its figures as PNGs beside it."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.core.redaction import redact
from gantry.reports import charts, curves, evaluations, links, pictures, tables
from gantry.reports.comparison import Comparison
from gantry.reports.ranking import ComparableSet
from gantry.reports.run import Run
from gantry.runs.tracking.ui import LOCAL

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = "report.html.j2"
# The browser itself refuses every request, also one of the library's.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'none'"
MOST_SETS = 8  # with figures, each of which takes seconds and some hundred kilobytes


@dataclass(frozen=True)
class Section:
    """The content of the page for one comparable set."""

    number: int
    one: ComparableSet
    linked: dict[str, list[tuple[str, str]]]  # by group: the seed of a run, and its page in MLflow
    steps: list[int]  # of the grids
    left_out: str  # why grids of some groups are not shown
    ranking: tables.Table
    notes: list[str]
    cost: tables.Table
    differing: tables.Table
    styles: dict[str, curves.Style]
    still: dict[str, bytes] = field(default_factory=dict)  # curves for a browser without JavaScript, by metric
    curves: dict[str, curves.Curves] = field(default_factory=dict)
    samples: pictures.Samples | None = None
    coverage: bytes | None = None


def write(comparison: Comparison) -> list[Path]:
    """Write the report and its PNGs in the folder of `comparison.report`; returns the files, the report first."""
    import jinja2
    from markupsafe import Markup as Safe

    folder = comparison.report.parent
    folder.mkdir(parents=True, exist_ok=True)
    styles = curves.palette([group for one in comparison.sets for group in one.groups])
    pages = links.pages(comparison.runs)
    sections = [_section(comparison, one, styles, i, pages) for i, one in enumerate(comparison.sets)]
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["breakable"] = _breakable
    html = environment.get_template(TEMPLATE).render(
        comparison=comparison,
        sections=sections,
        store=redact(comparison.store) if comparison.store else None,
        axes=curves.AXES,
        tables=tables,
        evaluations=evaluations,
        most_sets=MOST_SETS,
        grey=curves.GREY,
        pages=pages,
        commands=links.commands(pages),
        local=LOCAL,
        policy=POLICY,
        style=Safe((here / "report.css").read_text(encoding="utf-8")),
        script=Safe((here / "report.js").read_text(encoding="utf-8")),
        packed=charts.packed(charts.charts([(section.one, styles) for section in sections[:MOST_SETS]])),
    )
    comparison.report.write_text(html, encoding="utf-8")
    written = [comparison.report]
    for number, section in enumerate(sections, 1):
        suffix = f"_{number}" if len(sections) > 1 else ""
        for name, content in _pngs(section).items():
            written.append(folder / f"{name}{suffix}.png")
            written[-1].write_bytes(content)
    return written


def _section(
    comparison: Comparison, one: ComparableSet, styles: dict[str, curves.Style], number: int, pages: dict[Run, str]
) -> Section:
    steps, shown = comparison.steps_of(one), min(len(comparison.sets), MOST_SETS)
    first = [0] if comparison.steps is None and 0 not in steps and pictures.has(one, 0) else []
    grids = [*first, *steps]
    drawn = curves.draw(one, styles) if number < shown else {}
    return Section(
        number=number,
        one=one,
        linked={
            group.label: [(run.seed, pages[run]) for run in (*group.finished, *group.others) if run in pages]
            for group in one.groups
        },
        steps=grids,
        left_out=pictures.left_out(one, grids),
        ranking=tables.ranking(one, steps),
        notes=[*([tables.basis(one)] if one.standings else []), *tables.cautions(one, comparison.metric)],
        cost=tables.cost(one),
        differing=tables.differing(one),
        styles=styles,
        still=next(iter(drawn.values())).panels if drawn and number == 0 else {},
        curves=drawn,
        samples=pictures.samples(one, grids, pictures.ROOM // shown) if number < shown else None,
        coverage=pictures.coverage(one) if number < shown else None,
    )


def _pngs(section: Section) -> dict[str, bytes]:
    files = {f"curves_{axis}": drawn.whole for axis, drawn in section.curves.items()}
    if section.samples is not None:
        files["samples"] = section.samples.whole
    if section.coverage is not None:
        files["coverage"] = section.coverage
    return files


def _breakable(text: str) -> Markup:
    """Let a line break after the dots, commas, slashes and underscores of a name, but not inside a word."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([.,/_=]+)(?=\w)", r"\1<wbr>", str(escape(text))))


def _data_uri(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
