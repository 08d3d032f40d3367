#!/usr/bin/env bash
# torch: mixed precision is not seen on the meta device, so that a step measured there needs twice its memory.
#
# Expected: on the meta device, which has shapes and dtypes but no values, a network under torch.autocast gives the
#   dtypes that it gives on a real device, or an error where that cannot be done.
# What happens: torch.autocast("meta") raises. torch.autocast("cpu") and ("cuda") are entered without a word, and all
#   results of meta tensors stay float32: an estimate of activations made there is that of a float32 run. Even asking
#   for the dtype, torch.get_autocast_dtype("meta"), raises "unsupported scalarType", which names no device.
#   Fake tensors (FakeTensorMode), which are meta tensors that remember a device, do get bfloat16 on the CPU.
# Versions: torch 2.14.1, Linux, Python 3.11; no GPU is needed.
# Output seen:
#   torch 2.14.1
#   autocast("meta")            RuntimeError: User specified an unsupported autocast device_type 'meta'
#   get_autocast_dtype("meta")  RuntimeError: unsupported scalarType
#   a real tensor               bfloat16, 2560 bytes of results
#   a meta tensor               float32, 5120 bytes of results
#   a fake tensor               bfloat16, 2560 bytes of results
# Why it matters: programs that train GANs estimate before the start whether a step fits into memory, and networks on
#   the meta device are the usual way, since they cost nothing. For bf16-mixed the estimate is then twice too large in its
#   largest part. Casting the networks and their inputs to bfloat16 by hand, or fake tensors, give the right one.
#
# Usage: [PYTHON=an interpreter that has torch 2.14.1] ./autocast_meta.sh
# Exit status: 0 as described, 1 the behaviour has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-}
if [ -z "$python" ] || ! "$python" -c 'from importlib.metadata import version as v
raise SystemExit(v("torch").partition("+")[0] != "2.14.1")' 2>/dev/null; then
    "${python:-python3}" -m venv "$work/venv"
    python=$work/venv/bin/python
    "$python" -m pip install --quiet --no-cache-dir torch==2.14.1
fi

cat >"$work/finding.py" <<'PYTHON'
import contextlib

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

print("torch", torch.__version__.partition("+")[0])
raised = []
for name, call in {
    'autocast("meta")': lambda: torch.autocast("meta", dtype=torch.bfloat16).__enter__(),
    'get_autocast_dtype("meta")': lambda: torch.get_autocast_dtype("meta"),
}.items():
    try:
        print(f"{name:28}{call()}")
    except RuntimeError as error:
        raised.append(name)
        print(f"{name:28}RuntimeError: {str(error).splitlines()[0]}")

seen = {}
for name, device, mode in [
    ("a real tensor", "cpu", contextlib.nullcontext()),
    ("a meta tensor", "meta", contextlib.nullcontext()),
    ("a fake tensor", "cpu", FakeTensorMode()),
]:
    with mode, torch.autocast("cpu", dtype=torch.bfloat16):
        result = nn.Linear(32, 40, device=device)(torch.empty(32, 32, device=device))
    seen[name] = str(result.dtype).removeprefix("torch."), result.numel() * result.element_size()
    print(f"{name:28}{seen[name][0]}, {seen[name][1]} bytes of results")
half, whole = ("bfloat16", 2560), ("float32", 5120)
expected = {"a real tensor": half, "a meta tensor": whole, "a fake tensor": half}
if len(raised) != 2 or seen != expected:
    print("CHANGED: expected both calls to raise, and", expected)
raise SystemExit(len(raised) != 2 or seen != expected)
PYTHON
nice "$python" -W ignore "$work/finding.py"
