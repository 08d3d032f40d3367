"""The wheel: what is in it, and that its four commands work where there is no checkout."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from project import ROOT

COMMANDS = ("train", "evaluate", "sample", "compare")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    here = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []  # else pip fetches hatchling
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *here, "--wheel-dir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("gantry_gan-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A fresh environment with the wheel in it, which sees the packages of this one, and not the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True)
    libraries = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    present = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (libraries / "present.pth").write_text("\n".join(present) + "\n")
    return folder


@pytest.fixture
def typed(environment, tmp_path):
    """Type an installed command in an empty folder; what it printed, its exit code being 0."""

    def run(*words):
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        command = [environment / "bin" / words[0], *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_wheel_holds_configs_templates_and_plugins_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entries,) = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    kinds = ("*.py", "*.j2", "*.css", "*.js")
    source = [path.relative_to(ROOT / "src").as_posix() for kind in kinds for path in (ROOT / "src").rglob(kind)]
    configs = [f"gantry/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")]
    assert "gantry/conf/train.yaml" in configs
    assert {"gantry/reports/report.html.j2", "gantry/reports/report.js", "hydra_plugins/gantry_launcher.py"} <= {
        *source
    }
    assert {*source, *configs} == {name for name in names if ".dist-info/" not in name}
    assert all(f"gantry-{command} = gantry.commands.{command}:main" in entries for command in COMMANDS)


@pytest.mark.slow
def test_the_installed_commands_work_outside_the_checkout(typed, environment, tmp_path, cache):
    code = "import gantry.core.files as files; print(files.__file__); print(files.config_dir())"
    module, configs = typed("python", "-c", code).splitlines()
    assert Path(module).is_relative_to(environment)
    assert configs == str(Path(module).parents[1] / "conf")
    for command in COMMANDS:
        assert "tracking" in typed(f"gantry-{command}", "--help")

    run = ["experiment=smoke", "tracking=none", f"paths.cache={cache}"]
    said = typed("gantry-train", *run, "hydra.run.dir=run")
    assert f"{environment}/bin/gantry-train -m model=" in said
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 4
    assert "git.commit" not in json.loads((tmp_path / "run" / "tags.json").read_text())

    typed("gantry-train", "-m", *run, "seed=0,1", "hydra.sweep.dir=sweep", "sweep.jobs=1")
    steps = [json.loads(path.read_text())["steps"] for path in (tmp_path / "sweep").glob("*/summary.json")]
    assert steps == [4, 4]
