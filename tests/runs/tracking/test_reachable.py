"""Where a store wants files that this machine cannot keep there, the message says what helps."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from gantry.runs.tracking.reachable import FilesAway, check_files


def run(address: str) -> SimpleNamespace:
    return SimpleNamespace(info=SimpleNamespace(artifact_uri=address))


@pytest.mark.parametrize(
    ("address", "uri", "said"),
    [
        ("/srv/nowhere/1/id/artifacts", "http://tracking:5000", "on the disk of tracking, not of this machine; start"),
        ("file:///srv/nowhere/1/id/artifacts", "http://tracking:5000", "--serve-artifacts and --artifacts-destination"),
        ("/dev/null/1/id/artifacts", "http://127.0.0.1:5000", "/dev/null cannot be written; start the server with"),
        ("/dev/null/1/id/artifacts", "sqlite:////tmp/mlflow.db", r"cannot be written; tracking\.experiment=\.\.\."),
        ("hdfs://host/1/id/artifacts", "http://tracking:5000", "pip install pyarrow"),
        ("nowhere://host/1/id/artifacts", "http://tracking:5000", "see its credentials and address"),
    ],
)
def test_the_message_says_what_helps(address: str, uri: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gantry.runs.tracking.reachable._is_installed", lambda module: False)
    with pytest.raises(FilesAway, match=f"cannot be kept in {address}: .*{said}"):
        check_files(run(address), uri)  # type: ignore[arg-type]


@pytest.mark.parametrize("uri", ["http://tracking:5000", "http://localhost:5000", "sqlite:////tmp/mlflow.db"])
def test_a_folder_that_is_here_is_taken(tmp_path: Path, uri: str) -> None:
    check_files(run((tmp_path / "1" / "id" / "artifacts").as_uri()), uri)  # type: ignore[arg-type]


def test_a_server_that_serves_no_files_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # MLflow's server answers 503, of which its client says only "too many 503 error responses" once it has tried again
    def refuse(address: str, uri: str) -> SimpleNamespace:
        raise RuntimeError("API request failed with exception: Max retries exceeded (too many 503 error responses)")

    monkeypatch.setattr("mlflow.store.artifact.artifact_repository_registry.get_artifact_repository", refuse)
    with pytest.raises(FilesAway, match="the server serves no files; start the server with --serve-artifacts"):
        check_files(run("mlflow-artifacts:/1/id/artifacts"), "http://tracking:5000")  # type: ignore[arg-type]
