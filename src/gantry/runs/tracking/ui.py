"""Builds addresses of MLflow's pages, and prepares the page that compares runs.

MLflow promises none of this. What is used here was read from its pages and is tested against the pinned version,
3.17.2, in a browser (tests/reports/test_mlflow_page.py):

- `workflowType=machine_learning` shows model training; a browser that has never seen MLflow shows GenAI without it.
- `compareRunsMode=CHART` shows charts. `searchFilter`, `orderByKey` and `orderByAsc` choose and sort the runs.
- An experiment's tag `mlflow.sharedViewState.<key>` holds a view as JSON, which `viewStateShareKey=<key>` opens. MLflow
  leaves out of it which rows are unfolded. But it nests jobs under their sweep only in the order of their start: sorted
  by anything else, each is a row of its own. An address with a filter or an order of its own opens no view.
- A run's tag `mlflow.runColor` is the colour of its row, lines and bars.
- A browser that sees the pages of 127.0.0.1 or localhost for the first time opens MLflow's Assistant, which leaves the
  charts a third of a window of 1400 pixels. No address and no setting of the server prevents it: a section of two
  columns can be read beside it.
- A card of one image key shows the images below each other in a narrow window. With a second key, which may be empty,
  it is a table with a column for each run, the last of the list first; no setting turns that order round.

Where MLflow takes no view, or ignores it, the address still names the runs and the order.
"""

from __future__ import annotations

import http.client
import json
import socket
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from gantry.core.text import here
from gantry.runs.tracking.addresses import local_path
from gantry.runs.tracking.store import locate, ui_command

if TYPE_CHECKING:
    from mlflow import MlflowClient

HOST, PORT = "127.0.0.1", 5000  # of `mlflow ui`
LOCAL = f"http://{HOST}:{PORT}"
PORTS = 50  # that are tried where that one is busy
ANSWER = 2.0  # seconds that whatever is there has to answer
VIEW = "mlflow.sharedViewState."  # begins the tag of a view
LIMIT = 5000  # characters of an experiment's tag
MODE = {"workflowType": "machine_learning"}
COLOUR = "mlflow.runColor"  # tag of a run: #rrggbb
FIRST, PICTURES, REST = "Comparison", "Samples", "More"  # sections of the page, with the charts chosen here
HEIGHT, TALLER = 300, 420  # pixels of a chart, and of that with pictures
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
    """What a page of runs shows.

    Attributes:
        runs: MLflow's filter of the runs.
        curves: charts of curves over generator steps, the most important one first: of each the metrics in it by its
            title.
        bars: the metric drawn as bars, one a run, by which the runs are sorted; None where they cannot be ranked.
        ascending: whether a lower value of it is better.
        swept: params that differ between the runs, the axes of the parallel coordinates.
        step: at which the sample grids stand at first.
        count: number of the runs.
        title: of the first section.
        columns: params and metrics that the list of the runs shows, as `params.seed`.
        folded: sections of MLflow's own charts, which are closed at first.
    """

    runs: str
    curves: Mapping[str, Sequence[str]]
    bars: str | None = None
    ascending: bool = True
    swept: Sequence[str] = ()
    step: int = 0
    count: int = 1
    title: str = FIRST
    columns: Sequence[str] = ()
    folded: Sequence[str] = ()


def sections_of(metrics: Iterable[str]) -> list[str]:
    """Return the sections in which MLflow puts its own charts of metrics: the names' beginnings."""
    return list(dict.fromkeys(name.rpartition("/")[0] or "Model metrics" for name in metrics))


def is_server(uri: str | Path) -> bool:
    """Return True where the store is a server, which has pages of its own."""
    return locate(uri).tracking_uri.startswith(("http://", "https://"))


def address_of(uri: str | Path) -> str:
    """Return the address of MLflow's pages: a server's own, without password and query, else that of `mlflow ui`."""
    if not is_server(uri):
        return LOCAL
    parts = urlsplit(locate(uri).tracking_uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def free_port() -> int | None:
    """Return the first port from MLflow's own on that nothing on this machine listens at; None where there is none."""
    for port in range(PORT, PORT + PORTS):
        with socket.socket() as tried, suppress(OSError):
            tried.bind((HOST, port))
            return port
    return None


def served(uri: str | Path) -> bool:
    """Return True where `LOCAL` serves this store's pages already, such as those of an earlier `mlflow ui`."""
    folder = locate(uri).folder
    asked = f"{LOCAL}/ajax-api/2.0/mlflow/experiments/get?experiment_id=0"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(asked, timeout=ANSWER) as answer:
            place = json.load(answer)["experiment"]["artifact_location"]
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return False
    path = local_path(str(place))
    return folder is not None and path is not None and path.is_relative_to(folder)


def starting(uri: str | Path) -> tuple[str | None, str]:
    """Return the command that serves a store's pages on this machine alone, and the address at which they are then.

    The command is None where a server has them already. Another port than MLflow's own is named where that is busy.
    """
    if is_server(uri):
        return None, address_of(uri)
    port = free_port()
    if port != PORT and served(uri):
        return None, LOCAL
    other = None if port in (PORT, None) else port
    return serving_command(uri, other), LOCAL if other is None else f"http://{HOST}:{other}"


def serving_command(uri: str | Path, port: int | None = None) -> str:
    """Return the command that serves a local store's pages, with the `mlflow` of this environment."""
    return here("mlflow") + ui_command(uri, port).removeprefix("mlflow")


def run_address(base: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page, which shows its description, params and metrics."""
    ids = [quote(part, safe="") for part in (experiment_id, run_id)]
    return f"{base.rstrip('/')}/#/experiments/{ids[0]}/runs/{ids[1]}?{urlencode(MODE)}"


def view_address(base: str, experiment_id: str, view: View | str) -> str:
    """Return the address of a page of runs.

    Args:
        view: the key of a stored one; or one that is not stored: the page shows its runs in its order, and MLflow's
            choice of charts.
    """
    if isinstance(view, str):
        chosen = {"viewStateShareKey": view}
    else:
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
    lines = [
        _chart("LINE", title, metricKey=names[0], selectedMetricKeys=list(names), **LINE)
        for title, names in view.curves.items()
    ]
    grids = {"imageKeys": [IMAGES, ""] if view.count > 1 else [IMAGES], "step": view.step, "showRunParams": False}
    beside, others = lines[:1], lines[1:]
    if view.bars is None:
        beside, others = lines[:2], lines[2:]
    else:
        beside.append(_chart("BAR", view.bars, view.count, metricKey=view.bars))
        if view.swept:
            axes = {"selectedParams": list(view.swept), "selectedMetrics": [view.bars], "showAllRuns": False}
            others.insert(0, _chart("PARALLEL", "swept", view.count, **axes))
    placed = {FIRST: beside, PICTURES: [_chart("IMAGE", IMAGES, view.count, **grids)], REST: others}
    charts = [chart | {"metricSectionId": section} for section, charts in placed.items() for chart in charts]
    shown = [section for section, charts in placed.items() if charts]
    looks = {key: {"columns": 2, "cardHeight": HEIGHT} for key in shown}
    looks[PICTURES] = {"columns": 1, "cardHeight": TALLER}
    own = [_section(key, view.title if key == FIRST else key, **looks[key]) for key in shown]
    return _facets(view) | {
        "runsHiddenMode": "SHOW_ALL",
        "useGroupedValuesInCharts": False,
        "isAccordionReordered": True,  # else MLflow sorts the sections by name
        "selectedColumns": [f"{kind}.`{name}`" for kind, _, name in (one.partition(".") for one in view.columns)],
        "compareRunCharts": charts,
        "compareRunSections": [*own, *(_section(name, name, display=False, isGenerated=True) for name in view.folded)],
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
        return view_address(base or address_of(self.store), self.experiment_id, self.key or self.view)

    def lines(self) -> list[str]:
        """Return the lines that say how to see it."""
        command, base = starting(self.store)
        before = [] if command is None else [f"MLflow     {command}"]
        return [*before, f"{'MLflow' if command is None else '':10} {self.address(base)}"]


def _chart(kind: str, name: str, count: int | None = None, **of_its_kind: Any) -> dict[str, Any]:
    at_most = {} if count is None else {"runsCountToCompare": count}
    common = {"type": kind, "uuid": f"{kind} {name}", "displayName": name}
    return common | {"deleted": False, "isGenerated": False} | at_most | of_its_kind


def _section(key: str, name: str, **more: Any) -> dict[str, Any]:
    common = {"uuid": key, "name": name, "display": True, "isGenerated": False}
    return common | {"deleted": False, "isReordered": False} | more


def _facets(view: View) -> dict[str, Any]:
    """Return the filter and the order of the runs, which is never that of their start (see above)."""
    if view.bars is None:
        return {"searchFilter": view.runs, "orderByKey": "params.`variant`", "orderByAsc": True}
    return {"searchFilter": view.runs, "orderByKey": f"metrics.`{view.bars}`", "orderByAsc": view.ascending}
