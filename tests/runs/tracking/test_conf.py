"""`tracking=none` is an empty mapping: `if cfg.tracking` is the whole test for it."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

CONF = Path(__file__).parents[3] / "conf"


def composed(tmp_path: Path, *overrides: str) -> DictConfig:
    (tmp_path / "main.yaml").write_text(
        f"defaults:\n  - tracking: mlflow\n  - _self_\nseed: 0\npaths: {{root: /somewhere}}\n"
        f"hydra: {{searchpath: ['file://{CONF}']}}\n"
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        return compose("main", overrides=list(overrides))


def test_mlflow_is_a_folder_below_the_root(tmp_path: Path) -> None:
    tracking = composed(tmp_path, "tracking.run_name=mine").tracking
    assert tracking == {"uri": "/somewhere/mlruns", "experiment": "gantry", "run_name": "mine", "close_timeout": 30}


def test_none_is_absent(tmp_path: Path) -> None:
    assert not composed(tmp_path, "tracking=none").tracking
    with pytest.raises(Exception, match=r"tracking\.uri"):
        composed(tmp_path, "tracking=none", "tracking.uri=x")
