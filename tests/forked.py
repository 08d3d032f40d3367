"""Scripts run in forks of a process that has imported the command line, which a new process would first import.

Each is a process of its own, with its own environment, folder, arguments, output and exit code.
"""

import functools
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path


@functools.cache
def _server():
    """multiprocessing's server, whose forks have the modules; started by the first `run`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gantry.commands.cli"])
    return context


def run(script, *arguments, cwd, env=None, timeout=120):
    """Run a Python script to its end, in a session of its own; what `subprocess.run` returns, with the output as text.

    Raises:
        TimeoutError: it has not ended after so many seconds; it is killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        given = (str(script), arguments, str(cwd), dict(env or os.environ), [str(path) for path in outputs])
        process = _server().Process(target=_script, args=given)
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{script} {' '.join(arguments)}: has not ended after {timeout} s")
        said = [path.read_text() for path in outputs]
    return subprocess.CompletedProcess([script, *arguments], process.exitcode, *said)


def _script(script, arguments, cwd, env, outputs):
    for descriptor, file in enumerate(outputs, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [script, *arguments]
    sys.path[:0] = [str(Path(script).resolve().parent), *env.get("PYTHONPATH", "").split(os.pathsep)]
    runpy.run_path(script, run_name="__main__")
