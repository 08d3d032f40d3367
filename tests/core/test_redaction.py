"""Secrets stay out of what is written while a command runs."""

import io

from omegaconf import OmegaConf

from gantry.core.redaction import kept_out

CONFIG = {"uri": "http://me:secret@host", "steps": 3}
WRITTEN = {"uri": "http://***@host", "steps": 3}


def test_a_config_is_saved_without_secrets_to_a_path_and_to_an_open_file(tmp_path):
    file = io.StringIO()
    with kept_out():
        OmegaConf.save(OmegaConf.create(CONFIG), tmp_path / "config.yaml")
        OmegaConf.save(OmegaConf.create(CONFIG), file)
    assert OmegaConf.load(tmp_path / "config.yaml") == WRITTEN
    assert OmegaConf.create(file.getvalue()) == WRITTEN
