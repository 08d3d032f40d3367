"""What a run says of where it ran, and of what it was asked to do."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gantry.core.redaction import redact
from gantry.runs.tracking.environment import environment, git_state
from gantry.runs.tracking.params import flatten


def git(folder: Path, *arguments: str) -> str:
    name = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_git_state_of_a_checkout(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == {}
    (tmp_path / "loss.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(tmp_path) == {"git.commit": commit, "git.dirty": "false"}
    for output in ("samples.npz", "sent/generator.py", "docs/notes.md", "comparison/report.html"):
        (tmp_path / output).parent.mkdir(exist_ok=True)
        (tmp_path / output).touch()
    assert git_state(tmp_path) == {"git.commit": commit, "git.dirty": "false"}
    for read in ("my_losses.py", "my_gan.yaml", "conf/model/my_gan.yaml", "src/gantry/new.py", "examples/mine.yaml"):
        (tmp_path / read).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / read).touch()
        assert git_state(tmp_path / "docs")["git.dirty"] == "true"
        (tmp_path / read).unlink()
    (tmp_path / "loss.py").write_text("2")
    assert git_state(tmp_path) == {"git.commit": commit, "git.dirty": "true"}


def test_git_state_where_there_is_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__).parent) == {}


def test_the_environment_is_told_without_importing_it() -> None:
    script = (
        "import json, sys; from gantry.runs.tracking.environment import environment;"
        "print(json.dumps(environment()));"
        "assert not {'torch', 'mlflow', 'numpy', 'pytorch_lightning'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    here = json.loads(json.dumps(environment()))  # where torch is imported, and may see a GPU
    assert told == {key: value for key, value in here.items() if key not in ("cuda", "gpus", "cuda_visible_devices")}
    assert told["python"] == platform.python_version()
    assert told["cpus"] >= 1
    assert {"torch", "pytorch-lightning", "mlflow"} <= set(told["packages"])


def test_the_environment_names_the_gpus_that_a_job_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2, get_device_name="H100 {}".format)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="13.0")))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    expected = {"cuda": "13.0", "gpus": ["H100 0", "H100 1"]}
    assert {key: value for key, value in environment().items() if "cuda" in key or key == "gpus"} == expected
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8a")
    assert environment()["cuda_visible_devices"] == "5,GPU-8a"


def test_flatten() -> None:
    config = {
        "seed": 0,
        "model": {"lr": 2e-4, "betas": [0.5, 0.999], "ema": {}, "norm": "batch", "flip": True},
        "penalties": [{"weight": 10.0}],
        "tracking": {"uri": "postgresql://me:p/w@d@host/db"},
        "odd=key": "1",
        "long": "x" * 7000,
    }
    flat = flatten(config)
    assert len(flat.pop("long")) == 6000
    assert flat == {
        "seed": "0",
        "model.lr": "0.0002",
        "model.betas": "[0.5, 0.999]",
        "model.ema": "{}",
        "model.norm": "batch",
        "model.flip": "true",
        "penalties": '[{"weight": 10.0}]',
        "tracking.uri": "postgresql://***@host/db",
        "odd_key": "1",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pass@host:5000/a", "http://***@host:5000/a"),
        ("https://token@host", "https://***@host"),
        ("a tracking.uri=http://u:p@h b", "a tracking.uri=http://***@h b"),
        ("postgresql://host/db?user=me&password=pw&ssl=1", "postgresql://host/db?user=me&password=***&ssl=1"),
        ("http://host:5000/path and a@b", "http://host:5000/path and a@b"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
    ],
)
def test_redact(text: str, shown: str) -> None:
    assert redact(text) == shown
