"""Writes the documentation of the options: `--help`, the reference page and the comments in conf/*.yaml.

`python -m gantry.core.config.reference` prints the page; with `conf` it writes the comments instead.
"""

from __future__ import annotations

import re
import sys
import textwrap
from inspect import getdoc
from pathlib import Path
from typing import Any

import yaml

from gantry.core.config.declaration import declared
from gantry.core.config.options import COMMANDS, Train
from gantry.core.files import ROOT

CONF = ROOT / "conf"
FOLDERS = ("data", "metrics", "model", "protocol", "tracking", "trainer")  # config groups with declared options
SHARED = {("model", "base")}  # files that the choices of a group share, and that are no choice themselves
COLUMN, WIDTH = 26, 118  # at which comments and sentences begin; length of a line of help
LINE = re.compile(r"(?P<indent> *)(?P<name>\w+):(?P<value>.*?)(\s+# (?P<comment>.*))?")


def choices(group: str) -> dict[str, str]:
    """Return the choices of a config group, each with the comment at the top of its file."""
    found = {}
    for path in sorted((CONF / group).glob("*.yaml")):
        if (group, path.stem) in SHARED:
            continue
        comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
        found[path.stem] = next((line[2:] for line in comments if not line.startswith("# @package")), "")
    return found


def groups(command: str) -> list[str]:
    """Return the groups that a command's config is composed from, such as "model" and "model/network"."""
    foreign = declared(Train).keys() - declared(COMMANDS[command]).keys()  # a data set chooses metrics for training
    defaults: list[Any] = yaml.safe_load((CONF / f"{command}.yaml").read_text(encoding="utf-8"))["defaults"]
    named = {name for entry in defaults if isinstance(entry, dict) for name in entry if (CONF / name).is_dir()}
    return [group for name in sorted(named - foreign) for group in (name, *_inside(name))]


def _inside(group: str) -> list[str]:
    return [f"{group}/{path.name}" for path in sorted((CONF / group).iterdir()) if path.is_dir()]


def help_text(command: str) -> str:
    """Return the text of `--help` as a template for Hydra: groups with their choices, options with their defaults."""
    lines = [f"{getdoc(COMMANDS[command])}", ""]
    lines += [_entry(f"{group}=", ", ".join(choices(group))) for group in groups(command)] + [""]
    for key, option in declared(COMMANDS[command]).items():
        if option.is_group or option.has_target:
            lines += ["", _entry(f"{key}:", option.sentence)] if option.is_group else []
        else:
            said = option.kind and option.kind.choices and all(str(c) in option.sentence for c in option.kind.choices)
            limits = f" ({option.values})" if option.values and not said else ""
            lines.append(_entry(f"{key}={_plain(option.default)}", option.sentence + limits))
    lines += ["", f"python {command}.py --cfg job: the whole config, with the options of the groups' choices."]
    return "\n".join(lines).replace("$", "$$")


def _entry(name: str, text: str) -> str:
    """Return a name with its text beside it, or below it where the name is long."""
    head = textwrap.fill(f"  {name}", WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    hanging = " " * (COLUMN + 4)
    first = head.ljust(len(hanging)) if len(head) < len(hanging) else f"{head}\n{hanging}"
    body = textwrap.wrap(text, WIDTH - len(hanging), break_long_words=False) or [""]
    return f"{first}{f'{chr(10)}{hanging}'.join(body)}".rstrip()


def page() -> str:
    """Return the reference page in Markdown: the groups and options of each command."""
    return "\n".join(["# Options", "", *(line for command in COMMANDS for line in section(command))])


def section(command: str) -> list[str]:
    """Return the lines of the reference page for one command."""
    usage, _, more = str(getdoc(COMMANDS[command])).partition("\n")
    lines = [f"## {command}.py", "", f"`{usage}`", more, "", "| group | choice | |", "| --- | --- | --- |"]
    for group in groups(command):
        lines += [f"| `{group}` | `{name}` | {_cell(text)} |" for name, text in choices(group).items()]
    lines += ["", "| option | default | values | |", "| --- | --- | --- | --- |"]
    for key, option in declared(COMMANDS[command]).items():
        default = "" if option.is_group or option.has_target else f"`{_cell(_plain(option.default))}`"
        values = "its group's, or a `_target_`'s" if option.has_target else option.values
        lines.append(f"| `{key}` | {default} | {values} | {_cell(option.sentence)} |")
    return [*lines, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _plain(value: Any) -> str:
    """Return a value in the syntax of the command line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def commented(path: Path) -> str:
    """Return the text of a config file with the sentences of its declared options as comments."""
    prefix = [] if path.parent == CONF else [path.parent.name]
    options = declared(COMMANDS[path.stem if not prefix else "evaluate" if prefix == ["protocol"] else "train"])
    lines, at = [], list[str]()
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := LINE.fullmatch(line):
            at = [*at[: len(found["indent"]) // 2], found["name"]]
            option = options.get(".".join([*prefix, *at]))
            bare = f"{found['indent']}{found['name']}:{found['value']}"
            declares = option and not (option.has_target or (option.is_group and found["value"]))
            if option and declares and found["comment"] != option.sentence:
                line = f"{bare:{COLUMN - 2}}  # {option.sentence}"
        lines.append(line)
    return "\n".join([*lines, ""])


def files() -> list[Path]:
    """Return the config files that contain declared options."""
    return [CONF / f"{name}.yaml" for name in COMMANDS] + [p for name in FOLDERS for p in (CONF / name).glob("*.yaml")]


def main() -> None:
    """Print the page, or write the comments."""
    if sys.argv[1:] == ["conf"]:
        for path in files():
            path.write_text(commented(path), encoding="utf-8")
    else:
        print(page())


if __name__ == "__main__":
    main()
