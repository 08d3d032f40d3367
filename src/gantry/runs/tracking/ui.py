"""Builds addresses of MLflow's pages, and prepares the page that compares runs.

MLflow promises none of this. What is used here was read from its pages and is tested against the pinned version,
3.17.2, in a browser (tests/reports/test_mlflow_page.py):

- `workflowType=machine_learning` shows model training; a browser that has never seen MLflow shows GenAI without it.
- `compareRunsMode=CHART` shows charts. `searchFilter`, `orderByKey` and `orderByAsc` choose and sort the runs.
- An experiment's tag `mlflow.sharedViewState.<key>` holds a view as JSON, which `viewStateShareKey=<key>` opens. MLflow
  leaves out of it which rows are unfolded. But it nests jobs under their sweep only in the order of their start: sorted
  by a metric, each is a row of its own.

Where MLflow takes no view, or ignores it, the address still names the runs and the order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from gantry.core.text import here
from gantry.runs.tracking.store import locate, ui_command

if TYPE_CHECKING:
    from mlflow import MlflowClient

HOST, PORT = "127.0.0.1", 5000  # of `mlflow ui`
LOCAL = f"http://{HOST}:{PORT}"
VIEW = "mlflow.sharedViewState."  # begins the tag of a view
LIMIT = 5000  # characters of an experiment's tag
MODE = {"workflowType": "machine_learning"}
SECTION = "Comparison"  # of the page, with the charts chosen here
FOLDED = ("best", "final", "loss", "score", "eval", "Model metrics")  # sections of the page that are closed at first
IMAGES = "samples"  # the grids' name

LINE: dict[str, Any] = {
    "xAxisKey": "step",
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "lineSmoothness": 0,
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
    "range": {},
}


@dataclass(frozen=True)
class View:
    """What a page that compares runs shows.

    Attributes:
        runs: MLflow's filter of the runs.
        metrics: names of metrics drawn as curves over generator steps, the most important one first.
        bars: names of metrics drawn as bars, one value a run; the runs are sorted by the first one.
        ascending: whether a lower value of that one is better.
        swept: params that differ between the runs, the axes of the parallel coordinates.
        step: at which the sample grids stand at first.
        count: number of the runs.
    """

    runs: str
    metrics: Sequence[str]
    bars: Sequence[str]
    ascending: bool
    swept: Sequence[str]
    step: int
    count: int


def is_server(uri: str | Path) -> bool:
    """Return True where the store is a server, which has pages of its own."""
    return locate(uri).tracking_uri.startswith(("http://", "https://"))


def address_of(uri: str | Path) -> str:
    """Return the address of MLflow's pages: a server's own, without password and query, else that of `mlflow ui`."""
    if not is_server(uri):
        return LOCAL
    parts = urlsplit(locate(uri).tracking_uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def starting(uri: str | Path) -> str | None:
    """Return the command that serves the pages of a store on this machine alone; None where a server does already."""
    if is_server(uri):
        return None
    return here("mlflow") + ui_command(uri).removeprefix("mlflow")


def run_address(base: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page of metrics."""
    ids = [quote(part, safe="") for part in (experiment_id, run_id)]
    return f"{base.rstrip('/')}/#/experiments/{ids[0]}/runs/{ids[1]}/model-metrics?{urlencode(MODE)}"


def view_address(base: str, experiment_id: str, view: View, key: str | None = None) -> str:
    """Return the address of the page that compares runs.

    Args:
        key: of the stored view; None: the page shows the same runs in the same order, and MLflow's choice of charts.
    """
    chosen = {"viewStateShareKey": key}
    if key is None:
        chosen = {
            name: json.dumps(value) if isinstance(value, bool) else value for name, value in _facets(view).items()
        }
    query = urlencode(MODE | {"compareRunsMode": "CHART"} | chosen, quote_via=quote)
    return f"{base}/#/experiments/{experiment_id}/runs?{query}"


def store_view(client: MlflowClient, experiment_id: str, key: str, view: View) -> bool:
    """Store a view with the experiment; False where it is too long for a tag."""
    text = json.dumps(state(view), separators=(",", ":"))
    if len(text) > LIMIT:
        return False
    client.set_experiment_tag(experiment_id, VIEW + key, text)
    return True


def state(view: View) -> dict[str, Any]:
    """Return a view in the form in which MLflow's page keeps its own."""
    charts = [
        *(_chart("LINE", name, metricKey=name, selectedMetricKeys=[name], **LINE) for name in view.metrics),
        *(_chart("BAR", name, view.count, metricKey=name) for name in view.bars),
        _chart("IMAGE", IMAGES, view.count, imageKeys=[IMAGES], step=view.step, showRunParams=False),
    ]
    if view.swept and view.bars:
        axes, values = list(view.swept), [view.bars[0]]
        parallel = _chart(
            "PARALLEL", "swept", view.count, selectedParams=axes, selectedMetrics=values, showAllRuns=False
        )
        charts.append(parallel)
    sections = [(SECTION, True), *((name, False) for name in FOLDED)]
    kept = {"deleted": False, "isReordered": False}
    return _facets(view) | {
        "runsHiddenMode": "SHOW_ALL",
        "useGroupedValuesInCharts": False,
        "isAccordionReordered": True,  # else MLflow sorts the sections by name
        "compareRunCharts": charts,
        "compareRunSections": [
            kept | {"uuid": name, "name": name, "display": shown, "isGenerated": not shown} for name, shown in sections
        ],
    }


@dataclass(frozen=True)
class Page:
    """MLflow's page that shows a comparison.

    Attributes:
        store: the store's address.
        experiment_id, view: what it shows.
        key: of the stored view; None where it is not stored.
    """

    store: str
    experiment_id: str
    view: View
    key: str | None

    def address(self, base: str | None = None) -> str:
        """Return its address; `base` is the server's, where another one than `address_of` says serves it."""
        return view_address(base or address_of(self.store), self.experiment_id, self.view, self.key)

    def lines(self) -> list[str]:
        """Return the lines that say how to see it."""
        command = starting(self.store)
        before = [] if command is None else [f"MLflow     {command}"]
        return [*before, f"{'MLflow' if command is None else '':10} {self.address()}"]


def _chart(kind: str, name: str, count: int | None = None, **of_its_kind: Any) -> dict[str, Any]:
    at_most = {} if count is None else {"runsCountToCompare": count}
    common = {"type": kind, "uuid": f"{kind} {name}", "displayName": name, "metricSectionId": SECTION}
    return common | {"deleted": False, "isGenerated": False} | at_most | of_its_kind


def _facets(view: View) -> dict[str, Any]:
    if not view.bars:
        return {"searchFilter": view.runs}
    return {"searchFilter": view.runs, "orderByKey": f"metrics.`{view.bars[0]}`", "orderByAsc": view.ascending}
