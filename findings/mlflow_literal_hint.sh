#!/usr/bin/env bash
# MLflow: one field of type Literal in the pydantic model that predict() is annotated with switches off the signature
#   and all validation of a logged model, which then is given plain dictionaries.
#
# Expected: a model of pydantic is checked by pydantic, which knows Literal; at worst saving the model raises.
# What happens: the class statement and save_model() warn that the type hint is not supported, and go on. The saved model
#   has no signature. predict() is given the caller's dictionaries, not objects of the annotated class, so that code that
#   reads attributes fails at the first request, and wrong types, missing and misspelt fields are let through. With
#   `str` in the place of `Literal`, objects are given and each of these is refused.
# Versions: mlflow 3.17.2, pydantic 2, Linux, Python 3.11.
# Output seen:
#   mlflow 3.17.2
#   Literal["png", "grid"] | None   signature False   right: dict   wrong type: dict   missing: dict
#   str | None                      signature True   right: Request   wrong type: refused   missing: refused
# Why it matters: a closed set of names is what a Literal is for, and the warning is lost among those of a training run.
# Remedy: annotate the field with str, and compare it with the names in a validator of pydantic's.
#
# Usage: [PYTHON=an interpreter that has this version] ./mlflow_literal_hint.sh
# Exit status: 0 as described, 1 the behaviour has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-}
if [ -z "$python" ] || ! "$python" -c 'from importlib.metadata import version
raise SystemExit(version("mlflow") != "3.17.2")' 2>/dev/null; then
    "${python:-python3}" -m venv "$work/venv"
    python=$work/venv/bin/python
    "$python" -m pip install --quiet --no-cache-dir mlflow==3.17.2
fi

cat >"$work/finding.py" <<'PYTHON'
import logging
import sys
import warnings
from typing import Literal

import mlflow
import pydantic

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)


def tried(folder, kind):
    class Request(pydantic.BaseModel):
        n: int
        format: kind = None

    class Model(mlflow.pyfunc.PythonModel):
        def predict(self, model_input: list[Request]):
            return [type(each).__name__ for each in model_input]

    mlflow.pyfunc.save_model(folder, python_model=Model())
    model = mlflow.pyfunc.load_model(folder)
    answers = {}
    for name, request in {"right": {"n": 1}, "wrong type": {"n": "many"}, "missing": {"format": "png"}}.items():
        try:
            answers[name] = model.predict([request])[0]
        except mlflow.MlflowException:
            answers[name] = "refused"
    return model.metadata.signature is not None, answers


print("mlflow", mlflow.__version__)
shown = []
for number, (text, kind) in enumerate(
    {'Literal["png", "grid"] | None': Literal["png", "grid"] | None, "str | None": str | None}.items()
):
    signature, answers = tried(f"{sys.argv[1]}/{number}", kind)
    shown.append((signature, *answers.values()))
    print(f"{text:32}signature {signature}   " + "   ".join(f"{name}: {answer}" for name, answer in answers.items()))
as_seen = [(False, "dict", "dict", "dict"), (True, "Request", "refused", "refused")]
sys.exit(0 if shown == as_seen else 1)
PYTHON
cd "$work"
"$python" finding.py "$work/models" 2>"$work/errors" || { cat "$work/errors" >&2; exit 1; }
