#!/usr/bin/env bash
# torch: the precision switch of oneDNN turns TF32 on for the GPU, and after cudnn.flags() "ieee" misses convolutions.
#
# Expected: torch.backends.mkldnn.fp32_precision is the switch of oneDNN, on the CPU. The context managers
#   torch.backends.cudnn.flags() and mkldnn.flags() leave the precision as they found it. In a process that sets no
#   other precision, torch.backends.fp32_precision = "ieee" means float32 everywhere. The old switches
#   (set_float32_matmul_precision, allow_tf32) go together; to mix them with the new ones is known not to be supported.
# What happens:
#   1. Assigning torch.backends.mkldnn.fp32_precision sets the switch of all backends. "tf32" turns on TF32 for matrix
#      products on the GPU, "ieee" turns it off for cuDNN, and "bf16" turns it off for cuDNN too, whose convolutions
#      have it by default. The switch of oneDNN itself is out of its reach: once `mkldnn.flags()` has set that one (see
#      2), an assignment changes all backends but oneDNN, and reading it back gives another value than was assigned.
#   2. Both context managers end by writing back what they read at the start, and what they read is the value in
#      effect, wherever it came from. An inherited or a default value becomes one that is set there. After one
#      `with torch.backends.cudnn.flags(enabled=True)`, which changes nothing, "ieee" for all backends reaches matrix
#      products and no longer convolutions and recurrent layers, which keep TF32. If "tf32" was set for all backends
#      before, matrix products keep it too. Nothing warns; only the switch of the operator shows it.
#      The other way round it raises: with "ieee" set for all backends, `cudnn.flags()` cannot be entered.
#   3. The old switches disagree among themselves: after set_float32_matmul_precision("medium"), assigning
#      torch.backends.cuda.matmul.allow_tf32 to itself makes get_float32_matmul_precision() raise, with the message
#      that legacy and new switches were mixed. So does "high" and then allow_tf32 = False. No new one was used.
#   4. One new switch alone is enough for that error: "tf32" for matmul is one, "ieee" is not.
# Versions: torch 2.14.1, Linux, Python 3.11; no GPU is needed: switches are read, and nothing is computed.
# Output seen ("raises" is a RuntimeError; columns: get_float32_matmul_precision(), cuda.matmul.allow_tf32 and
#   cudnn.allow_tf32, then fp32_precision of cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul and all backends):
#   torch 2.14.1
#                                           get      matmul   cudnn    cuda     cudnn    cudnn    mkldnn
#                                           _float32 .allow   .allow   .matmul  .conv    .rnn     .matmul  all
#   -                                       highest  False    True     none     tf32     tf32     none     none
#   mkldnn.fp32_precision = 'tf32'          raises   raises   True     tf32     tf32     tf32     tf32     tf32
#   mkldnn.fp32_precision = 'ieee'          highest  False    raises   ieee     ieee     ieee     ieee     ieee
#   mkldnn.fp32_precision = 'bf16'          raises   False    raises   none     none     none     bf16     bf16
#   fp32_precision = 'ieee'                 highest  False    raises   ieee     ieee     ieee     ieee     ieee
#   cudnn.flags(), fp32_precision = 'ieee'  highest  False    True     ieee     tf32     tf32     ieee     ieee
#   'tf32', cudnn.flags(), 'ieee'           raises   raises   True     tf32     tf32     tf32     ieee     ieee
#   'tf32', 'ieee'                          highest  False    raises   ieee     ieee     ieee     ieee     ieee
#   'bf16', mkldnn.flags(), 'ieee'          raises   False    raises   ieee     ieee     ieee     bf16     ieee
#   'bf16', mkldnn.flags(), mkldnn 'ieee'   raises   False    raises   ieee     ieee     ieee     bf16     ieee
#   medium                                  medium   True     True     tf32     tf32     tf32     bf16     none
#   medium, allow_tf32 = allow_tf32         raises   True     True     tf32     tf32     tf32     bf16     none
#   high, allow_tf32 = False                raises   False    True     ieee     tf32     tf32     tf32     none
#   high, cuda.matmul 'ieee'                high     raises   True     ieee     tf32     tf32     tf32     none
#   high, fp32_precision = 'ieee'           high     True     raises   tf32     ieee     ieee     tf32     ieee
#   cuda.matmul 'tf32'                      raises   raises   True     tf32     tf32     tf32     none     none
#   cuda.matmul 'ieee'                      highest  False    True     ieee     tf32     tf32     none     none
#   mkldnn.matmul 'bf16'                    raises   False    True     none     tf32     tf32     bf16     none
#   'ieee', then cudnn.flags(): RuntimeError: PyTorch is checking whether allow_tf32 is enabled for cuDNN without a
#     specific operator name
# Why it matters: a critic with a recurrent layer needs `cudnn.flags(enabled=False)` for the gradient penalty, since
#   cuDNN's has no second derivative; after it, a program that asks for "ieee", to compare numbers or for evaluation,
#   convolves in TF32. Programs that save and restore allow_tf32 break others that read the precision.
#   To be sure, set the operators: cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, .conv and .rnn, and read no old
#   switch after a new one was set.
# Known: pytorch/pytorch issue 179445 names the error of cudnn.allow_tf32 after fp32_precision = "ieee".
#
# Usage: [PYTHON=an interpreter that has torch 2.14.1] ./fp32_precision_flags.sh
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
import multiprocessing

import torch
from torch import backends

READ = {
    "get _float32": torch.get_float32_matmul_precision,
    "matmul .allow": lambda: backends.cuda.matmul.allow_tf32,
    "cudnn .allow": lambda: backends.cudnn.allow_tf32,
    "cuda .matmul": lambda: backends.cuda.matmul.fp32_precision,
    "cudnn .conv": lambda: backends.cudnn.conv.fp32_precision,
    "cudnn .rnn": lambda: backends.cudnn.rnn.fp32_precision,
    "mkldnn .matmul": lambda: backends.mkldnn.matmul.fp32_precision,
    " all": lambda: backends.fp32_precision,
}


def every(value):
    backends.fp32_precision = value


def mkldnn(value):
    backends.mkldnn.fp32_precision = value


def matmul(value):
    backends.cuda.matmul.fp32_precision = value


def mkldnn_matmul(value):
    backends.mkldnn.matmul.fp32_precision = value


def allow(value):
    backends.cuda.matmul.allow_tf32 = value


def enter(flags):
    with flags(enabled=True):
        pass


old, cudnn, onednn = torch.set_float32_matmul_precision, backends.cudnn.flags, backends.mkldnn.flags
CASES = {  # what is done in a fresh process, and what the eight getters say then
    "-": ([], "highest False True none tf32 tf32 none none"),
    "mkldnn.fp32_precision = 'tf32'": ([(mkldnn, "tf32")], "raises raises True tf32 tf32 tf32 tf32 tf32"),
    "mkldnn.fp32_precision = 'ieee'": ([(mkldnn, "ieee")], "highest False raises ieee ieee ieee ieee ieee"),
    "mkldnn.fp32_precision = 'bf16'": ([(mkldnn, "bf16")], "raises False raises none none none bf16 bf16"),
    "fp32_precision = 'ieee'": ([(every, "ieee")], "highest False raises ieee ieee ieee ieee ieee"),
    "cudnn.flags(), fp32_precision = 'ieee'": (
        [(enter, cudnn), (every, "ieee")],
        "highest False True ieee tf32 tf32 ieee ieee",
    ),
    "'tf32', cudnn.flags(), 'ieee'": (
        [(every, "tf32"), (enter, cudnn), (every, "ieee")],
        "raises raises True tf32 tf32 tf32 ieee ieee",
    ),
    "'tf32', 'ieee'": ([(every, "tf32"), (every, "ieee")], "highest False raises ieee ieee ieee ieee ieee"),
    "'bf16', mkldnn.flags(), 'ieee'": (
        [(every, "bf16"), (enter, onednn), (every, "ieee")],
        "raises False raises ieee ieee ieee bf16 ieee",
    ),
    "'bf16', mkldnn.flags(), mkldnn 'ieee'": (
        [(every, "bf16"), (enter, onednn), (mkldnn, "ieee")],
        "raises False raises ieee ieee ieee bf16 ieee",
    ),
    "medium": ([(old, "medium")], "medium True True tf32 tf32 tf32 bf16 none"),
    "medium, allow_tf32 = allow_tf32": (
        [(old, "medium"), (lambda _: allow(backends.cuda.matmul.allow_tf32), None)],
        "raises True True tf32 tf32 tf32 bf16 none",
    ),
    "high, allow_tf32 = False": ([(old, "high"), (allow, False)], "raises False True ieee tf32 tf32 tf32 none"),
    "high, cuda.matmul 'ieee'": ([(old, "high"), (matmul, "ieee")], "high raises True ieee tf32 tf32 tf32 none"),
    "high, fp32_precision = 'ieee'": ([(old, "high"), (every, "ieee")], "high True raises tf32 ieee ieee tf32 ieee"),
    "cuda.matmul 'tf32'": ([(matmul, "tf32")], "raises raises True tf32 tf32 tf32 none none"),
    "cuda.matmul 'ieee'": ([(matmul, "ieee")], "highest False True ieee tf32 tf32 none none"),
    "mkldnn.matmul 'bf16'": ([(mkldnn_matmul, "bf16")], "raises False True none tf32 tf32 bf16 none"),
}


def read(getter):
    try:
        return str(getter())
    except RuntimeError as error:
        return "raises" if "mix of the legacy and new APIs" in str(error) else "fails"


def done(case):
    for call, value in CASES[case][0]:
        call(value)
    return " ".join(read(getter) for getter in READ.values())


def entered(_):
    every("ieee")
    try:
        enter(cudnn)
    except RuntimeError as error:
        return str(error)


def row(name, cells):
    print(f"{name:40}" + "".join(f"{cell:9}" for cell in cells).rstrip())


print("torch", torch.__version__.partition("+")[0])
for line in range(2):
    row("", [name.split(" ")[line] for name in READ])
failed = []
with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
    for case, seen in zip(CASES, pool.imap(done, CASES, chunksize=1), strict=True):
        row(case, seen.split())
        if seen != CASES[case][1]:
            failed.append(f"{case}: {CASES[case][1]}")
    message = pool.apply(entered, (None,))
print("'ieee', then cudnn.flags():", "enters" if message is None else f"RuntimeError: {message.partition(',')[0]}")
if "allow_tf32 is enabled for cuDNN" not in (message or ""):
    failed.append("cudnn.flags() cannot be entered after fp32_precision = 'ieee'")
for text in failed:
    print("CHANGED, no longer so:", text)
raise SystemExit(bool(failed))
PYTHON
nice "$python" -W ignore "$work/finding.py"
