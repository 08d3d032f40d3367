"""The runs that train.py has left in a store."""

from mlflow import MlflowClient


def runs(store):
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("gantry")
    return client, client.search_runs([experiment.experiment_id]) if experiment else []


def run_of(store, folder):
    client, found = runs(store)
    (run,) = [run for run in found if run.data.tags.get("gantry.folder") == str(folder)]
    return client, run
