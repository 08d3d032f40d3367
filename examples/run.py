"""Runs the commands at the head of each example: python examples/run.py [name ...]

They run in a temporary folder, which is removed; what they compute once is kept in the cache.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "run.py")


def commands(example: Path) -> list[str]:
    """The lines of its docstring that are commands, continued ones joined."""
    head = example.read_text().split('"""')[1].replace("\\\n", " ")
    return re.findall(r"(?m)^(?:PYTHONPATH=\S+ )?python .*$", head)


def prepare(folder: Path) -> None:
    """The scripts and the examples in a folder of their own."""
    for name in ("train.py", "sample.py", "examples"):
        (folder / name).symlink_to(ROOT / name)


def run(command: str, folder: Path) -> None:
    """Run a command there; whatever it says is shown where it fails."""
    words = shlex.split(command)
    added = [word.partition("=")[2] for word in words if word.startswith("PYTHONPATH=")]
    path = os.pathsep.join(filter(None, [*added, os.environ.get("PYTHONPATH", "")]))
    words = [sys.executable, *words[len(added) + 1 :]]
    done = subprocess.run(words, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}\n{done.stdout}{done.stderr}exit code {done.returncode}")


if __name__ == "__main__":
    chosen = [example for example in EXAMPLES if example.stem in sys.argv[1:] or not sys.argv[1:]]
    with tempfile.TemporaryDirectory() as temporary:
        prepare(Path(temporary))
        for example in chosen:
            began = time.monotonic()
            for command in commands(example):
                run(command, Path(temporary))
            print(f"{example.stem}: {time.monotonic() - began:.0f} s", flush=True)
