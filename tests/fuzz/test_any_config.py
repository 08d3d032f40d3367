"""Whatever is typed, it is taken, or refused in words that name what is at fault: never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("asking.py")


@pytest.mark.parametrize(
    "arguments", [["2"], pytest.param(["400", "at random"], marks=pytest.mark.slow)], ids=["same", "random"]
)
def test_any_config_is_taken_or_refused_in_words_before_torch_is_imported(arguments):
    environment = {key: value for key, value in os.environ.items() if key != "NO_SUCH_VARIABLE"}
    done = subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
