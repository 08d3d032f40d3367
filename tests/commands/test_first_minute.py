"""The errors of the first minute end in a sentence that says what to do: no Python, network, room or packages."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

SCRIPTS = ("train", "evaluate", "compare", "sample")
OFFLINE = """WARNING: Retrying (Retry(total=4, connect=None, read=None)) after connection broken by \
'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f>: Failed to establish a new \
connection: [Errno -3] Temporary failure in name resolution')': /simple/hatchling/
ERROR: Could not find a version that satisfies the requirement hatchling>=1.24 (from versions: none)
ERROR: No matching distribution found for hatchling>=1.24"""
PROXY = """WARNING: Retrying (Retry(total=0)) after connection broken by 'ProxyError('Cannot connect to proxy.', \
OSError('Tunnel connection failed: 407 Proxy Authentication Required'))': /simple/hatchling/
ERROR: No matching distribution found for hatchling>=1.24"""
SSL = """WARNING: Retrying (Retry(total=0)) after connection broken by 'SSLError(SSLCertVerificationError(1, \
'[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate'))': /simple/hatchling/
ERROR: No matching distribution found for hatchling>=1.24"""
PIPS = {
    "no room": (
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
        "disk is full",
    ),
    "quota": ("ERROR: Could not install packages due to an OSError: [Errno 122] Disk quota exceeded", "disk is full"),
    "no network": (OFFLINE, "does not reach its package index: check the network"),
    "slow network": ("pip._vendor.urllib3.exceptions.ReadTimeoutError: Read timed out.", "check the network"),
    "proxy": (PROXY, "does not get through the proxy: export HTTPS_PROXY="),
    "certificate": (SSL, "export PIP_CERT="),
    "new Python": ("ERROR: No matching distribution found for torch==2.14.1", "try another with make install PYTHON="),
    "damaged": ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "pip cache purge"),
    "rights": ("ERROR: Could not install: [Errno 13] Permission denied: '/.cache'", "give yourself the right"),
    "other": ("ERROR: something else", "pip failed, see above; make install begins again."),
}
DEBIAN = """The virtual environment was not created successfully because ensurepip is not
available.  On Debian/Ubuntu systems, you need to install the python3-venv package"""


@pytest.fixture
def checkout(tmp_path):
    """A folder with what an installation reads."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("Makefile", "install.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def program(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return path


def fake(folder, pip="", code=1, venv="", version="3.11"):
    """A Python that says it is `version` and makes an environment whose pip says `pip` and ends with `code`."""
    (folder / "pip says").write_text(pip)
    (folder / "venv says").write_text(venv)
    major, minor = version.split(".")
    program(folder / "inside", f'case "$*" in *pip*) cat "{folder}/pip says" >&2; exit {code} ;; esac')
    return program(
        folder / "fakes" / "python3",
        f'case "$2" in *print*) echo {version}; exit ;; *exit*) [ {major}{minor} -ge 311 ]; exit ;; esac',
        'shift 2; [ "$1" = --clear ] && shift && rm -rf "$1"',  # python -m venv [--clear] folder
        'mkdir -p "$1/bin"',
        f'if [ -s "{folder}/venv says" ]; then cat "{folder}/venv says"; exit 1; fi',
        f'cp "{folder}/inside" "$1/bin/python"',
    )


def install(checkout, python, *words):
    environment = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    words = words or ("make", "install")
    ended = subprocess.run(words, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("case", PIPS, ids=str)
def test_a_failed_installation_says_what_to_do_and_leaves_nothing(checkout, tmp_path, case):
    pip, sentence = PIPS[case]
    code, said = install(checkout, fake(tmp_path, pip))
    assert code != 0
    assert pip.splitlines()[-1] in said  # what pip said is seen too
    last = [line for line in said.splitlines() if line and not line.startswith("make")][-1]
    assert sentence in last
    assert last.endswith(".")
    assert not (checkout / ".venv").exists()
    assert install(checkout, fake(tmp_path, code=0))[0] == 0
    assert (checkout / ".venv" / ".installed").exists()


def test_an_installation_that_fails_at_an_update_keeps_the_environment_there_was(checkout, tmp_path):
    assert install(checkout, fake(tmp_path, code=0))[0] == 0
    stamp = checkout / ".venv" / ".installed"
    os.utime(stamp, (1, 1))  # older than pyproject.toml
    (checkout / ".venv" / "package").touch()
    code, said = install(checkout, fake(tmp_path, OFFLINE))
    assert code != 0
    assert "check the network" in said
    assert (checkout / ".venv" / "package").exists()
    assert install(checkout, fake(tmp_path, OFFLINE))[0] != 0  # it is not taken as good


def test_an_environment_whose_python_has_gone_is_made_anew(checkout, tmp_path):
    assert install(checkout, fake(tmp_path, code=0))[0] == 0
    python = checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3.11")
    (checkout / ".venv" / "old").touch()
    assert install(checkout, fake(tmp_path, code=0))[0] == 0
    assert not python.is_symlink()
    assert not (checkout / ".venv" / "old").exists()


def test_a_stopped_installation_leaves_nothing(checkout, tmp_path):
    python = fake(tmp_path)
    program(tmp_path / "inside", 'case "$*" in *pip*) echo begun; sleep 60 ;; esac')
    environment = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    started = subprocess.Popen(
        ["make", "install"], cwd=checkout, env=environment, text=True, start_new_session=True, stderr=subprocess.PIPE
    )
    said = ""
    while "begun" not in said:
        said += (line := started.stderr.readline())
        assert line, said
    os.killpg(started.pid, signal.SIGINT)  # as Ctrl-C does
    said += started.communicate(timeout=30)[1]
    assert "Stopped; make install begins again." in said
    assert not (checkout / ".venv").exists()


def test_what_a_killed_installation_leaves_is_not_taken_as_good(checkout, tmp_path):
    assert install(checkout, fake(tmp_path, code=0))[0] == 0
    (checkout / ".venv" / ".installed").unlink()
    code, said = install(checkout, fake(tmp_path, OFFLINE))
    assert code != 0
    assert "check the network" in said
    assert not (checkout / ".venv" / ".installed").exists()


@pytest.mark.parametrize("words", [("make", "install"), ("sh", "install.sh")], ids=" ".join)
@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ({"version": "3.9"}, "Gantry needs Python 3.11 or newer, and python3 is Python 3.9: name a newer one"),
        ({"venv": DEBIAN}, "sudo apt install python3.11-venv"),
        ({"venv": "python3: No module named venv"}, "sudo apt install python3.11-venv"),
        ({"venv": "Error: [Errno 28] No space left on device"}, "The disk is full"),
    ],
)
def test_a_python_that_cannot_do_says_so(checkout, tmp_path, case, sentence, words):
    code, said = install(checkout, fake(tmp_path, **case), *words)
    assert code != 0
    assert sentence in said
    assert not (checkout / ".venv").exists()


def test_a_python_that_is_not_there_is_named(checkout, tmp_path):
    code, said = install(checkout, fake(tmp_path), "make", "install", "PYTHON=python3.99")
    assert code != 0
    assert "There is no python3.99 here: install Python 3.11 or newer" in said


def test_an_installation_needs_no_make(checkout, tmp_path):
    assert install(checkout, fake(tmp_path, code=0), "sh", "install.sh")[0] == 0
    assert (checkout / ".venv" / ".installed").exists()
    code, said = install(checkout, fake(tmp_path, OFFLINE))
    assert (code, "Installing" in said) == (0, False)  # make takes it as good


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_python_without_the_packages_says_what_to_type(script):
    """As the system's Python does."""
    ended = subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / f"{script}.py")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "No module named 'gantry'" in ended.stderr
    assert "make install" in ended.stderr
    assert f".venv/bin/python {script}.py" in ended.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_old_python_says_which_one_is_needed(script, monkeypatch):
    """Whatever it could not read comes later; the lines before are read by any Python."""
    text = (ROOT / f"{script}.py").read_text()
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit, match=r"Gantry needs Python 3\.11 or newer"):
        exec(compile(text, f"{script}.py", "exec", dont_inherit=True), {"__name__": "__main__"})
    olds = [
        path for path in map(shutil.which, ("python2", "python3.6", "python3.8", "python3.9", "python3.10")) if path
    ]
    for old in olds:
        ended = subprocess.run([old, str(ROOT / f"{script}.py")], capture_output=True, text=True, check=False)
        if "pyenv" not in ended.stderr:  # a name without a Python behind it
            assert "Gantry needs Python 3.11 or newer" in ended.stderr
            assert "Traceback" not in ended.stderr


def test_the_commands_without_make_are_in_the_pages():
    assert "sh install.sh" in (Path(ROOT) / "docs" / "start.md").read_text()
