#!/usr/bin/env bash
# With oneDNN off, torch computes some convolutions by NNPACK, and only from a batch of 16 on.
#
# Expected: torch.backends.mkldnn.enabled = False leaves torch's own plain convolution. Together with
#   ATEN_CPU_CAPABILITY=default, MKL_CBWR=COMPATIBLE, one thread and torch.use_deterministic_algorithms(True), that
#   should give reference numbers: the plainest code, and for one image the same output in any batch.
# What happens: on a processor with AVX2, NNPACK takes over the forward pass of conv2d in float32 for a batch of 16,
#   not of 15. None of the switches above reaches it: its output has the same bits with and without them. Its 3x3
#   convolution of stride 1 rounds far worse than the plain one and than oneDNN's (17 and 14 times the error, here).
#   The same image gets other bits in a batch of 16 than in a batch of 15. Transposed convolutions and all gradients
#   stay with the plain code. torch.backends.nnpack.set_flags(False) is the switch that was missing; with oneDNN on it
#   changes nothing here, so it is easily overlooked.
# Versions: torch 2.14.1 run on the CPU, x86-64 with AVX2, Linux, Python 3.11.
# Output seen (AMD EPYC with AVX2):
#   torch 2.14.1
#   oneDNN off, hash of the forward pass and its largest error by float64:
#                                     as usual  plain              NNPACK in both
#   batch 15 conv 3x3 stride 1        cc478c05  4bf14f6b 3.6e-07   does not run
#   batch 16 conv 3x3 stride 1        3ef4f225  e2d8e621 3.6e-07   330ace02 6.3e-06
#   batch 15 conv 4x4 stride 2        2c0f865b  603e82aa 4.1e-07   does not run
#   batch 16 conv 4x4 stride 2        cdb27a9c  60c60e8b 4.1e-07   b8a2a041 5.9e-07
#   batch 15 conv 4x4 to 1x1          4a3f375e  6a69987f 2.0e-07   does not run
#   batch 16 conv 4x4 to 1x1          9464cfe9  8725c5e3 2.0e-07   5b2e612a 1.6e-07
#   batch 15 transposed 4x4 stride 2  06b06948  1088dbe6 1.6e-07   does not run
#   batch 16 transposed 4x4 stride 2  f279bc9b  0cb471fe 1.6e-07   does not run
#   batch 15 transposed 4x4 from 1x1  a95afc48  a95afc48 2.2e-07   does not run
#   batch 16 transposed 4x4 from 1x1  834f9c62  834f9c62 2.2e-07   does not run
#   error of 3x3 stride 1, batch 16: NNPACK's is 17 times the plain one; oneDNN's 4.6e-07
#   the first 15 images have the same bits in batches of 15 and 16: NNPACK off yes, on no
# Why it matters: tests of GANs hash a few training steps to notice changed numbers, and compare machines, with small
#   batches like 16. Oracles made with "oneDNN off" change with the batch size and with AVX2, and are less exact than
#   the numbers of oneDNN that they should judge. For reference numbers set all of these: mkldnn off, nnpack off,
#   ATEN_CPU_CAPABILITY=default, MKL_CBWR=COMPATIBLE (both before torch is imported) and one thread.
# Not asserted: which bits the plain code gives on another processor; the script prints them ("plain" is with
#   ATEN_CPU_CAPABILITY and MKL_CBWR, "as usual" without).
# Known: pytorch/pytorch pull request 2826 chose the batch of 16, for speed.
#
# Usage: [PYTHON=an interpreter that has torch 2.14.1] ./nnpack_convolutions.sh
# Exit status: 0 as described, 1 the behaviour has changed, 77 NNPACK cannot run on this processor.
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
import hashlib
import json
import os
import subprocess
import sys

import torch
from torch.nn import functional

# name: channels in, height, channels out, kernel, stride, padding, transposed
LAYERS = {
    "conv 3x3 stride 1": (16, 16, 16, 3, 1, 1, False),
    "conv 4x4 stride 2": (16, 16, 32, 4, 2, 1, False),
    "conv 4x4 to 1x1": (32, 4, 1, 4, 1, 0, False),
    "transposed 4x4 stride 2": (32, 8, 16, 4, 2, 1, True),
    "transposed 4x4 from 1x1": (32, 1, 16, 4, 1, 0, True),
}
FORWARD = ("conv 3x3 stride 1", "conv 4x4 stride 2", "conv 4x4 to 1x1")  # what NNPACK takes over
PLAIN = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}


def numbers(*shape, step):
    """Scattered numbers in [-0.5, 0.5), the same on every machine."""
    count = torch.Size(shape).numel()
    return ((torch.arange(count) ** 2 * step % 1000003).double() / 1000003 - 0.5).reshape(shape)


def digest(tensor):
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(bytes(flat.tolist())).hexdigest()[:8]


def run(layer, batch, dtype):
    """Output, gradient of the input and gradient of the weight."""
    inputs, size, outputs, kernel, stride, padding, transposed = layer
    x = numbers(batch, inputs, size, size, step=389).to(dtype).requires_grad_()
    shape = (inputs, outputs) if transposed else (outputs, inputs)
    weight = numbers(*shape, kernel, kernel, step=577).to(dtype).requires_grad_()
    convolution = functional.conv_transpose2d if transposed else functional.conv2d
    y = convolution(x, weight, stride=stride, padding=padding)
    return [y.detach(), *torch.autograd.grad(y, [x, weight], numbers(*y.shape, step=211).to(dtype))]


def measure():
    torch.set_num_threads(1)
    found = {"nnpack": torch.backends.nnpack.is_available(), "torch": torch.__version__.partition("+")[0]}
    for mkldnn, nnpack, deterministic in ((1, 1, 0), (1, 0, 0), (0, 1, 0), (0, 1, 1), (0, 0, 0)):
        torch.backends.mkldnn.enabled = bool(mkldnn)
        torch.backends.nnpack.set_flags(bool(nnpack))
        torch.use_deterministic_algorithms(bool(deterministic))
        for name, layer in LAYERS.items():
            for batch in (15, 16):
                exact = run(layer, batch, torch.float64)[0]
                y, *gradients = run(layer, batch, torch.float32)
                found[f"{mkldnn}{nnpack}{deterministic} {batch} {name}"] = {
                    "forward": digest(y),
                    "gradients": [digest(gradient) for gradient in gradients],
                    "first 15": digest(y[:15]),
                    "error": float((y.double() - exact).abs().max() / exact.abs().max()),
                }
    print(json.dumps(found))


def measured(environment):
    base = {name: value for name, value in os.environ.items() if name not in PLAIN}
    command = [sys.executable, "-W", "ignore", __file__, "measure"]
    return json.loads(subprocess.run(command, env=base | environment, check=True, stdout=subprocess.PIPE).stdout)


if sys.argv[1:] == ["measure"]:
    measure()
    raise SystemExit
usual, plain = measured({}), measured(PLAIN)
print("torch", usual["torch"])
if not usual["nnpack"]:
    print("NNPACK cannot run on this processor: nothing to show")
    raise SystemExit(77)
failed = []


def check(holds, text):
    if not holds:
        failed.append(text)


print("oneDNN off, hash of the forward pass and its largest error by float64:")
print(f"{'':34}{'as usual':10}{'plain':19}NNPACK in both")
for name in LAYERS:
    for batch in (15, 16):
        key, taken = f"{batch} {name}", batch == 16 and name in FORWARD
        for where, found in (("usual", usual), ("plain", plain)):
            off, on = found[f"000 {key}"], found[f"010 {key}"]
            differs = on["forward"] != off["forward"]
            check(differs == taken, f"{where} {key}: NNPACK computes the forward pass: {taken}")
            check(on["gradients"] == off["gradients"], f"{where} {key}: NNPACK leaves the gradients alone")
            check(found[f"011 {key}"] == on, f"{where} {key}: use_deterministic_algorithms leaves NNPACK on")
            check(found[f"110 {key}"] == found[f"100 {key}"], f"{where} {key}: with oneDNN on, NNPACK does nothing")
            if taken:
                check(on["forward"] == usual[f"010 {key}"]["forward"], f"{key}: the switches do not reach NNPACK")
        row = f"batch {key:28}{usual[f'000 {key}']['forward']}  {off['forward']} {off['error']:.1e}   "
        print(row + (f"{on['forward']} {on['error']:.1e}" if taken else "does not run"))
key = "16 conv 3x3 stride 1"
ratio = plain[f"010 {key}"]["error"] / plain[f"000 {key}"]["error"]
onednn = plain[f"110 {key}"]["error"]
print(f"error of 3x3 stride 1, batch 16: NNPACK's is {ratio:.0f} times the plain one; oneDNN's {onednn:.1e}")
check(ratio > 3, "NNPACK rounds worse in 3x3 convolutions of stride 1")
for name in FORWARD:
    for setting, same in (("000", True), ("010", False)):
        images = [plain[f"{setting} {batch} {name}"]["first 15"] for batch in (15, 16)]
        text = f"{name}, {setting}: an image has the same bits in both batches: {same}"
        check((images[0] == images[1]) == same, text)
if not failed:
    print("the first 15 images have the same bits in batches of 15 and 16: NNPACK off yes, on no")
for text in failed:
    print("CHANGED, no longer so:", text)
raise SystemExit(bool(failed))
PYTHON
nice "$python" -W ignore "$work/finding.py"
