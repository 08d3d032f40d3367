"""Paths of a config become absolute; names of the store do not."""

import pytest
from omegaconf import OmegaConf

from gantry.core.config.places import make_absolute, overrides_from


@pytest.mark.parametrize("name", ["digits@champion", "models:/digits/3", "0123456789abcdef"])
def test_the_name_of_trained_weights_is_no_path(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = OmegaConf.create({"init_from": name})
    make_absolute(cfg)
    assert cfg.init_from == name
    assert overrides_from(tmp_path, [f"init_from={name}"]) == [f"init_from={name}"]
    (tmp_path / "sent").mkdir()
    cfg.init_from = "sent"
    make_absolute(cfg)
    assert cfg.init_from == str(tmp_path / "sent")
