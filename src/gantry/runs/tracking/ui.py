"""Makes the addresses of MLflow's pages, which MLflow does not document."""

from __future__ import annotations

from urllib.parse import quote


def run_address(base: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page in MLflow 3; `base` is the server's, such as http://127.0.0.1:5000."""
    return f"{base.rstrip('/')}/#/experiments/{quote(experiment_id, safe='')}/runs/{quote(run_id, safe='')}"
