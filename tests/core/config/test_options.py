"""What is declared of an option is what Hydra reads, what is checked, and what people are told."""

import re
import subprocess
import sys
from typing import Literal

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gantry.core.config.declaration import declared, kind_of, within
from gantry.core.config.options import COMMANDS, FREE, NOT_COMPARED, PLACES, Train
from gantry.core.config.reference import CONF, commented, files, help_text, page
from gantry.core.files import ROOT


@pytest.mark.parametrize("command", COMMANDS)
def test_hydra_reads_the_declared_defaults(command):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = compose(command, ["hydra/launcher=basic"] if command == "train" else [])
    for key, option in declared(COMMANDS[command]).items():
        group = key.rpartition(".")[0]
        if option.is_group or option.has_target:
            continue
        node = OmegaConf.select(tree, group) if group else tree
        given = OmegaConf.to_container(node, resolve=False) if node is not None else {}
        if group and declared(COMMANDS[command])[group].has_target and option.name not in given:
            continue  # an option of some choices only
        assert given[option.name] == option.default, key


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(CONF)))
def test_the_comments_are_the_declared_sentences(path):
    """Where this fails, `python -m gantry.core.config.reference conf` writes them."""
    assert path.read_text() == commented(path)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_in_a_commands_file_is_declared(command):
    given = OmegaConf.load(CONF / f"{command}.yaml")
    assert set(given) - {"defaults", "hydra"} <= declared(COMMANDS[command]).keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_option_in_a_second_without_torch(command):
    code = f"import sys; sys.argv = ['{command}.py', '--help']; from gantry.commands.{command} import main; main()"
    watched = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {code}"
    shown = subprocess.run([sys.executable, "-c", watched], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert shown.endswith("False\n")
    for key, option in declared(COMMANDS[command]).items():
        if not option.has_target:
            assert re.search(rf"^  {re.escape(key)}[=:]", shown, re.MULTILINE), key
            assert option.sentence.split()[0] in shown
    assert max(map(len, help_text(command).splitlines())) <= 120


def test_the_reference_page_has_every_option():
    text = page()
    for command, options in COMMANDS.items():
        part = text.partition(f"## {command}.py")[2].partition("\n## ")[0]
        assert [key for key in declared(options) if f"| `{key}` |" not in part] == []
    assert "| `batch_size` | `128` | a whole number, at least 1 | real images in a discriminator step" in text
    assert "| `model` | `wgan` | Arjovsky et al. 2017" in text


def test_kinds_of_annotations():
    kind = kind_of(int | Literal["auto"] | None)
    assert [kind.accepts(value) for value in (3, "auto", None, 0.5, "x", True)] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    assert kind_of(list[int]) is None


def test_what_may_differ_on_resuming_between_machines_and_in_a_comparison():
    """As it was before the options were declared in one place: old runs are resumed and compared as ever.

    `metrics.measures`, which they had not, does not change what a run learns.
    """
    devices = [f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm")]
    assert {*FREE} == {
        "steps",
        "log_every",
        "checkpoint",
        "guard",
        *devices,
        "paths",
        "tracking",
        "data.root",
        "trainer.logger",
        "cuda_graph",
    }
    assert {*PLACES} == {"paths", "tracking", "data.root", "data.folder", "metrics.extractor.weights", "init_from"}
    assert {*NOT_COMPARED} == {"paths", "tracking", "sweep", "log_every", "seed", "metrics.measures", "cuda_graph"}
    assert within("guard.every", FREE)
    assert not within("guards.every", FREE)
    assert declared(Train)["seed"].most == 2**63 - 1


def test_a_choice_that_may_be_a_bool_is_named_in_one_list():
    assert str(declared(Train)["cuda_graph"].kind) == "one of auto, true, false"
    assert str(declared(Train)["metrics.raw"].kind) == "true or false"
