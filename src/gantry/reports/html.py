"""Writes the report: one self-contained HTML file, and its figures as PNGs beside it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path

from gantry.core.redaction import redact
from gantry.reports import curves, evaluations, pictures, tables
from gantry.reports.comparison import Comparison
from gantry.reports.ranking import ComparableSet

TEMPLATE = "report.html.j2"
MOST_SETS = 8  # with figures, each of which takes seconds and some hundred kilobytes


@dataclass(frozen=True)
class Section:
    """The content of the page for one comparable set."""

    one: ComparableSet
    steps: list[int]
    ranking: tables.Table
    notes: list[str]
    cost: tables.Table
    differing: tables.Table
    styles: dict[str, curves.Style]
    curves: dict[str, curves.Curves] = field(default_factory=dict)
    samples: pictures.Samples | None = None
    coverage: bytes | None = None


def write(comparison: Comparison) -> list[Path]:
    """Write the report and its PNGs in the folder of `comparison.report`; returns the files, the report first."""
    import jinja2

    folder = comparison.report.parent
    folder.mkdir(parents=True, exist_ok=True)
    styles = curves.palette([group for one in comparison.sets for group in one.groups])
    sections = [_section(comparison, one, styles, i < MOST_SETS) for i, one in enumerate(comparison.sets)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["data_uri"] = _data_uri
    html = environment.get_template(TEMPLATE).render(
        comparison=comparison,
        sections=sections,
        store=redact(comparison.store) if comparison.store else None,
        axes=curves.AXES,
        tables=tables,
        evaluations=evaluations,
        most_sets=MOST_SETS,
    )
    comparison.report.write_text(html, encoding="utf-8")
    written = [comparison.report]
    for number, section in enumerate(sections, 1):
        suffix = f"_{number}" if len(sections) > 1 else ""
        for name, content in _pngs(section).items():
            written.append(folder / f"{name}{suffix}.png")
            written[-1].write_bytes(content)
    return written


def _section(comparison: Comparison, one: ComparableSet, styles: dict[str, curves.Style], drawn: bool) -> Section:
    steps = comparison.steps_of(one)
    return Section(
        one=one,
        steps=steps,
        ranking=tables.ranking(one, steps),
        notes=[*([tables.basis(one)] if one.standings else []), *tables.cautions(one, comparison.metric)],
        cost=tables.cost(one),
        differing=tables.differing(one),
        styles=styles,
        curves=curves.draw(one, styles) if drawn else {},
        samples=pictures.samples(one, steps) if drawn else None,
        coverage=pictures.coverage(one) if drawn else None,
    )


def _pngs(section: Section) -> dict[str, bytes]:
    files = {f"curves_{axis}": drawn.whole for axis, drawn in section.curves.items()}
    if section.samples is not None:
        files["samples"] = section.samples.whole
    if section.coverage is not None:
        files["coverage"] = section.coverage
    return files


def _data_uri(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
