"""Names of before the modules were moved: in configs, in imports, on the command line."""

import subprocess
import sys

import pytest

from gantry.core.moved import PREFIXES, new_name, renamed


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gantry.losses.hinge", "gantry.models.losses.hinge"),
        ("gantry.networks.dcgan.Generator", "gantry.models.networks.dcgan.Generator"),
        ("gantry.gan.GAN", "gantry.models.module.GAN"),
        ("gantry.data.sources.digits", "gantry.data.sources.digits"),
        ("gantry.networks_evil.G", "gantry.networks_evil.G"),
        ("mine.gantry.losses", "mine.gantry.losses"),
    ],
)
def test_a_name_is_the_one_of_today(old, new):
    assert new_name(old) == new
    assert new_name(new) == new


def test_names_are_found_in_text():
    assert renamed('[{"_target_": "gantry.penalties.R1", "gamma": 10.0}]') == (
        '[{"_target_": "gantry.models.penalties.R1", "gamma": 10.0}]'
    )
    assert renamed("~/gantry/outputs and gantry.folder") == "~/gantry/outputs and gantry.folder"


def test_every_old_name_is_the_module_of_today():
    script = "\n".join(
        ["import sys, gantry"]
        + [f"import {old}, {new}; assert sys.modules['{old}'] is sys.modules['{new}']" for old, new in PREFIXES.items()]
        + ["from gantry.losses import hinge; import gantry.models.losses as m; assert hinge is m.hinge"]
        + ["assert m.__spec__.name == m.__name__ == 'gantry.models.losses'"]
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_delivery_is_called_as_ever(tmp_path):
    command = [sys.executable, "-m", "gantry.tracking.deliver", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "is no folder" in done.stderr
