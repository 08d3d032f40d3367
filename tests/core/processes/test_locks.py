"""A folder is held while its process lives, whatever ends that."""

import subprocess
import sys

import pytest

from gantry.core.errors import UserError
from gantry.core.processes.locks import held, is_dead

HOLD = """
import sys, time
from pathlib import Path
from gantry.core.processes.locks import held
with held(Path(sys.argv[1]), "the run in"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_until_its_process_is_killed(tmp_path):
    folder = tmp_path / "run"
    assert not is_dead(folder)  # nothing is known of it
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert not is_dead(folder)
        with pytest.raises(UserError, match="is still running"), held(folder, "the run in"):
            pass
        holder.kill()
    assert is_dead(folder)
    with held(folder, "the run in"):
        assert not is_dead(folder)
