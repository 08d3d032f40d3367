"""What cannot be shown does not end a command: its work is done, recorded and logged."""

import os
import subprocess
import sys

import pytest

from gantry.core.cache_folder import cache_folder

SCRIPT = """
import sys
from pathlib import Path
from gantry.core.output import loss, shown
with shown() as (out, err):
    print("fid 3.05 ± 0.12 ≈ … 日本 \\udcff" if sys.argv[1:] else "line\\n" * 100_000, flush=True)
    print("later", flush=True)
    print("noted", file=sys.stderr)
    Path("done").write_text(str(loss(out)))
"""


@pytest.fixture
def shell(tmp_path):
    """Run the script through a shell line in which {python} stands for its command."""
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")

    def run(line, **environment):
        command = line.format(python=f"{sys.executable} script.py")
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=os.environ | environment, capture_output=True, timeout=60
        )
        return done, (tmp_path / "done").read_text() if (tmp_path / "done").exists() else "not done"

    return run


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", b"fid 3.05 +- 0.12 ~ ... ?? ?\nlater\n"),
        ("latin-1", b"fid 3.05 \xb1 0.12 ~ ... ?? ?\nlater\n"),
        ("utf-8", "fid 3.05 ± 0.12 ≈ … 日本 ?\nlater\n".encode()),
    ],
)
def test_characters_that_an_encoding_lacks_are_replaced(shell, encoding, shown):
    done, left = shell("{python} x", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout, left) == (0, shown, "None")


def test_the_posix_locale_without_pythons_help(shell):
    done, left = shell("{python} x", LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="")
    assert (done.returncode, done.stdout, left) == (0, b"fid 3.05 +- 0.12 ~ ... ?? ?\nlater\n", "None")


@pytest.mark.parametrize(
    ("line", "lost"),
    [
        ("{python} | true", "None"),
        ("{python} | head -1", "None"),
        ("{python} >&-", "None"),
        ("{python} >&- 2>&-", "None"),
        ("{python} > /dev/full", "not all output could be written: OSError: [Errno 28] No space left on device"),
        ("{python} 2> /dev/full", "None"),
    ],
)
def test_output_that_nobody_takes_does_not_end_the_work(shell, line, lost):
    done, left = shell(line)
    assert (done.returncode, left) == (0, lost)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_the_cache_is_found_without_a_home(monkeypatch):
    for name in ("GANTRY_CACHE", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: __import__("pathlib").Path("/home/known"))
    assert cache_folder() == "/home/known/.cache/gantry"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == "/caches/gantry"
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder() == "/home/me/.cache/gantry"
    monkeypatch.setenv("HOME", "")
    assert cache_folder() == "/caches/gantry"
    monkeypatch.setenv("GANTRY_CACHE", "/mine")
    assert cache_folder() == "/mine"


def test_where_there_is_no_home_at_all_the_message_names_the_variable(monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    for name in ("GANTRY_CACHE", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", unknown)
    with pytest.raises(ValueError, match=r"GANTRY_CACHE=/path or paths\.cache=/path"):
        cache_folder()
