"""python sample.py run=<folder, MLflow id, latest, best, model>: images from a trained generator. See --help."""

import sys

PYTHON = "Python " + sys.version.split()[0] + " (" + sys.executable + ")"
TYPE = "make install (without make: sh install.sh), then .venv/bin/python sample.py"
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("Gantry needs Python 3.11 or newer, and this is " + PYTHON + "; type " + TYPE)
try:
    from gantry.commands.sample import main
except ModuleNotFoundError as error:
    if str(error.name).startswith("gantry."):
        raise
    sys.exit("Gantry's packages are not in this " + PYTHON + " (" + str(error) + "); type " + TYPE)

if __name__ == "__main__":
    main()
