"""Summarises a finished run: as summary.json, which a sweep reads, and as the text shown at the end."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gantry.core.files import read_json, write_json
from gantry.core.redaction import redact
from gantry.core.text import show, typed_command
from gantry.runs.folder import (
    BEST,
    FILM_FILE,
    GENERATOR,
    PROFILE,
    REFUSED,
    RUN_FILE,
    SAMPLES,
    SUMMARY_FILE,
    UNDELIVERED,
    picture,
)
from gantry.runs.tracking.status import delivering
from gantry.runs.tracking.ui import run_address, starting, view_address


@dataclass(frozen=True)
class Summary:
    """A finished run.

    Attributes:
        variant, dataset: the model and the data set.
        steps: generator steps.
        images: real images seen.
        seconds, evaluation_seconds: time spent training and measuring.
        primary: the metric by which the best step was chosen.
        higher_is_better: by name, True if a higher value of a metric is better.
        first, best, final: metrics before training, at `best_step`, at the end.
        protocol: the settings of the measurement.
        folder: the run's files.
        tracking_uri: the MLflow store; None where there is none.
        classes: of each class the share of the real and of the generated images; None where they are not known.
        data: what the data set holds and how its files were read (see `gantry.data.describe.data_record`).
        peak_memory_mib, peak_gpu_memory_mib: peak memory in MiB, on the GPU if there is one.
        caveats: what speaks against the metrics, a sentence each.
    """

    variant: str
    dataset: str
    steps: int
    images: int
    seconds: float
    evaluation_seconds: float
    primary: str
    first: dict[str, float]
    best: dict[str, float]
    best_step: int
    final: dict[str, float]
    protocol: dict[str, Any]
    folder: Path
    tracking_uri: str | None
    classes: dict[str, tuple[float, float]] | None = None
    peak_memory_mib: float = 0.0
    peak_gpu_memory_mib: float | None = None
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    data: dict[str, Any] | None = None

    def save(self) -> None:
        """Write `summary.json` in the run's folder.

        Raises:
            OSError: it cannot be written.
        """
        metrics = {name: _finite(getattr(self, name)) for name in ("first", "best", "final")}
        values = (
            asdict(self)
            | metrics
            | {
                "folder": str(self.folder),
                "tracking_uri": self.tracking_uri and redact(self.tracking_uri),
                "images_per_second": self.images / max(self.seconds, 1e-9),
            }
        )
        write_json(values, self.folder / SUMMARY_FILE)

    def _pages(self, uri: str) -> list[str]:
        """Return the lines that say how to see the run in MLflow, whose store may not have created it yet."""
        command, base = starting(uri)
        record = read_json(self.folder / RUN_FILE) or {}
        ids = [record.get(name) for name in ("experiment_id", "run_id")]
        said = [] if command is None else [command]
        if None in ids:
            return said or [base]
        if (view := record.get("view")) is not None:
            return [*said, view_address(base, str(ids[0]), view)]
        return [*said, run_address(base, *map(str, ids))]

    def text(self, in_sweep: bool = False, data: Sequence[str] = ()) -> str:
        """Return the text shown at the end: metrics, the folder and, outside a sweep, the next commands.

        Args:
            data: the overrides that say what the run was trained on, for a sweep over the same data.
        """
        width = max(len(name) for name in self.final)
        lines = [
            "",
            f"{self.variant} on {self.dataset}: {self.steps} generator steps, {self.images:,} real images "
            f"in {self.seconds:.0f} s ({self.images / max(self.seconds, 1e-9):,.0f} a second), "
            f"{self.evaluation_seconds:.0f} s of measuring",
            "",
            f"  {'':{width}}  {'start':>10}  {'best':>10}  {'final':>10}   (best at step {self.best_step})",
        ]
        for name, final in self.final.items():
            columns = (self.first.get(name), self.best.get(name), final)
            shown = [f"{'' if value is None else format(value, '.4g'):>10}" for value in columns]
            lines.append(f"  {name:{width}}  {'  '.join(shown)}")
        protocol = self.protocol
        lines += [
            f"  {protocol['n_generated']} generated against {protocol['n_real']} real images "
            f"({protocol['split']}), extractor {protocol['extractor']} {protocol['extractor_sha256'][:8]}",
            *(f"  but {caveat}" for caveat in self.caveats),
            "",
            f"samples    {show(self.folder / SAMPLES)}",
            *([f"film       {show(film)}"] if (film := self.folder / FILM_FILE).exists() else []),
            f"generator  {show(self.folder / GENERATOR / BEST)}",
        ]
        lines += [f"profile    {show(table)}" for table in sorted(self.folder.glob(f"fit-{PROFILE}*.txt"))]
        if self.tracking_uri is not None:
            first, *more = self._pages(self.tracking_uri)
            lines += [f"runs       {first}", *(f"           {line}" for line in more)]
        if (self.folder / UNDELIVERED).exists():
            lines.append(f"           not all of this run yet; once the store takes it: {delivering(self.folder)}")
        if (self.folder / REFUSED).exists():
            lines.append(f"           not what MLflow refused: see {show(self.folder / REFUSED)}")
        if not in_sweep:
            given = "".join(f" {shlex.quote(text)}" for text in data)
            lines.append(f"sweep      {typed_command('train')} -m model=vanilla,dcgan,wgan{given}")
        if (best := self.picture()) is not None:
            lines.append(f"look at    {show(best)}")
        return "\n".join(lines)

    def picture(self) -> Path | None:
        """Return the samples of the best evaluation, or the last ones where it has left none; None without any."""
        best = picture(self.folder, SAMPLES, self.best_step)
        return (
            best
            if self.best_step > 0 and best.exists()
            else max(best.parent.glob("[0-9]*.png"), key=lambda file: int(file.stem), default=None)
        )


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    """Replace values that are not finite by None, since JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
