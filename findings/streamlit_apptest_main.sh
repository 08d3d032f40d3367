#!/usr/bin/env bash
# Streamlit and multiprocessing: after a test of a page with AppTest, processes that are spawned run the page.
#
# Expected: AppTest runs a page beside the test and leaves the interpreter as it was.
# What happens: AppTest.run() puts the page's module in the place of sys.modules["__main__"] and leaves it there. The
#   start method "spawn" (the default on macOS and Windows, and what CUDA needs) has each child import the main module of
#   its parent, which is the page now: the page runs in every child, as __mp_main__, without a session. A page that
#   reads its arguments or stops there ends the child, in a test that has nothing to do with the page.
# Versions: streamlit 1.67.0, Python 3.11, Linux.
# Output seen:
#   streamlit 1.67.0
#   before AppTest: a child imports the test's own file, the page ran 0 times in it
#   after AppTest: __main__ is page.py, the page ran 1 times in a child
#   with __main__ put back: the page ran 0 times in a child
# Why it matters: in one pytest process the order of test files decides whether a later test with processes passes.
# Remedy: keep sys.modules["__main__"] before AppTest and put it back after it.
#
# Usage: [PYTHON=an interpreter that has streamlit 1.67.0] ./streamlit_apptest_main.sh
# Exit status: 0 as described, 1 the behaviour has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-}
if [ -z "$python" ] || ! "$python" -c 'from importlib.metadata import version as v
raise SystemExit(v("streamlit") != "1.67.0")' 2>/dev/null; then
    "${python:-python3}" -m venv "$work/venv"
    python=$work/venv/bin/python
    "$python" -m pip install --quiet --no-cache-dir streamlit==1.67.0
fi

cat >"$work/page.py" <<'PYTHON'
import os

import streamlit as st

with open(os.environ["RUNS"], "a") as file:
    file.write(f"{__name__}\n")
st.title("page")
PYTHON
cat >"$work/finding.py" <<'PYTHON'
import logging
import multiprocessing
import os
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
os.environ["RUNS"] = str(HERE / "runs")


def in_a_child():
    """How often the page ran in a spawned process."""
    (HERE / "runs").write_text("")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(abs, (-3,)) == 3
    return (HERE / "runs").read_text().count("__mp_main__")


if __name__ == "__main__":
    from streamlit.testing.v1 import AppTest

    logging.disable(logging.WARNING)
    print("streamlit", version("streamlit"))
    own, failed = sys.modules["__main__"], []
    first = in_a_child()
    print(f"before AppTest: a child imports the test's own file, the page ran {first} times in it")
    assert AppTest.from_file(str(HERE / "page.py")).run().title[0].value == "page"
    name = Path(sys.modules["__main__"].__file__).name
    then = in_a_child()
    print(f"after AppTest: __main__ is {name}, the page ran {then} times in a child")
    sys.modules["__main__"] = own
    last = in_a_child()
    print(f"with __main__ put back: the page ran {last} times in a child")
    if (first, name, then, last) != (0, "page.py", 1, 0):
        print("CHANGED, no longer so")
        raise SystemExit(1)
PYTHON
nice "$python" -W ignore "$work/finding.py" 2>/dev/null
