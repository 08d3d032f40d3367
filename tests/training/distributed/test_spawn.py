"""What a run of several ranks says where they refuse the command."""

import os
import subprocess
import sys

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from project import ROOT

from gantry.training.distributed import spawn

SAID = "model.generator: takes labels, and the data has none (no labels: all images lie in one folder)"


def test_what_every_rank_refuses_is_said_once_and_nothing_else(tmp_path, cache):
    (tmp_path / "pictures").mkdir()
    for level in range(4):
        Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(tmp_path / f"pictures/{level}.png")
    words = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", f"paths.cache={cache}", "tracking=none"]
    words += ["model=cgan", "data=image_folder", f"data.folder={tmp_path}/pictures", "data.image_size=8"]
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "batch_size=4", *words, f"hydra.run.dir={tmp_path}/run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line.startswith(SAID)
    assert (tmp_path / "run/rank_1.txt").read_text().startswith(SAID)


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ([2, 2], ""),
        ([-9, 2], "rank 1 failed first: exit code 2\nit has another config\n"),
        ([1, 2], "rank 1 failed first: exit code 2\n"),  # rank 0 has quoted it
    ],
)
def test_a_rank_that_refuses_alone_is_named(tmp_path, capsys, codes, said):
    (tmp_path / "rank_1.txt").write_text("it has another config\n")
    spawn._report(1, codes, tmp_path, OmegaConf.create({"tracking": None}))
    assert capsys.readouterr().err == said
    assert not (tmp_path / "status.json").exists()
