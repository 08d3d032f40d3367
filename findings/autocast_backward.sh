#!/usr/bin/env bash
# torch: autocast(enabled=False) around a forward pass does not keep its gradient in float32, if backward() is called
#   within an outer autocast. The matrix products of the gradient are in bfloat16, those of a convolution are not.
#
# Expected: torch's documentation says that backward operations run in the type that autocast chose for the forward
#   operation, so that a part within autocast(enabled=False) is computed in float32 in both directions.
# What happens: forward is in float32. Where backward() is called outside autocast, the gradient is too. Where it is
#   called within the outer autocast block, the gradient of a matrix product (matmul, linear) is computed in bfloat16
#   and returned as float32, without a warning; that of a convolution is exact. Lightning calls training_step under
#   autocast, so that with manual optimization, and manual_backward in it, every run with precision="bf16-mixed" is
#   such a case; with automatic optimization backward is called outside.
# Versions: torch 2.14.1, pytorch-lightning 2.6.6, Linux, Python 3.11, on the CPU.
# Output seen (the error of a gradient, relative to its length in float64):
#   torch 2.14.1, pytorch-lightning 2.6.6
#   matmul   backward outside autocast 2e-07, within 2e-03
#   linear   backward outside autocast 3e-07, within 3e-03
#   conv2d   backward outside autocast 2e-07, within 2e-07
#   Lightning: backward under autocast: automatic optimization False, manual optimization True
# Why it matters: parts are kept out of autocast because they need float32, as resampling filters, penalties on
#   gradients and distances. A GAN is trained with manual optimization.
# Remedy: call backward(), and autograd.grad() with create_graph, within autocast(enabled=False).
#
# Usage: [PYTHON=an interpreter that has these versions] ./autocast_backward.sh
# Exit status: 0 as described, 1 the behaviour has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-}
if [ -z "$python" ] || ! "$python" -c 'from importlib.metadata import version as v
wanted = {"torch": "2.14.1", "pytorch-lightning": "2.6.6"}
raise SystemExit(any(v(name).partition("+")[0] != number for name, number in wanted.items()))' 2>/dev/null; then
    "${python:-python3}" -m venv "$work/venv"
    python=$work/venv/bin/python
    "$python" -m pip install --quiet --no-cache-dir torch==2.14.1 pytorch-lightning==2.6.6
fi

cat >"$work/finding.py" <<'PYTHON'
import logging
import warnings
from importlib.metadata import version

import torch
from torch import nn
from torch.nn.functional import conv2d, linear

warnings.simplefilter("ignore")
import pytorch_lightning as lightning

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

print(f"torch {torch.__version__.partition('+')[0]}, pytorch-lightning {version('pytorch-lightning')}")
torch.manual_seed(0)
CASES = {
    "matmul": (torch.matmul, (64, 256), (256, 256), True),
    "linear": (linear, (64, 256), (128, 256), True),
    "conv2d": (conv2d, (4, 3, 16, 16), (8, 3, 3, 3), False),
}
failed = []


def gradient(function, x, weight, inside):
    leaf = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            total = function(leaf, weight).square().sum()
        if inside:
            total.backward()
    if not inside:
        total.backward()
    return leaf.grad


for name, (function, shape, of_weight, rounded) in CASES.items():
    x, weight = torch.randn(shape), torch.randn(of_weight)
    leaf = x.double().requires_grad_()
    function(leaf, weight.double()).square().sum().backward()
    errors = [
        float((gradient(function, x, weight, inside).double() - leaf.grad).norm() / leaf.grad.norm())
        for inside in (False, True)
    ]
    print(f"{name:8} backward outside autocast {errors[0]:.0e}, within {errors[1]:.0e}")
    if errors[0] > 1e-5 or (errors[1] > 1e-4) != rounded:
        failed.append(f"{name}: within autocast {'above' if rounded else 'below'} 1e-4")


class Trained(lightning.LightningModule):
    def __init__(self, manual):
        super().__init__()
        self.layer, self.automatic_optimization, self.seen = nn.Linear(4, 1), not manual, []

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch, _):
        loss = self.layer(batch).square().mean()
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def backward(self, loss, *given, **named):
        self.seen.append(torch.is_autocast_enabled("cpu"))
        super().backward(loss, *given, **named)


class Manual(Trained):
    def manual_backward(self, loss, *given, **named):
        self.seen.append(torch.is_autocast_enabled("cpu"))
        super().manual_backward(loss, *given, **named)


under = {}
for name, module in (("automatic", Trained(False)), ("manual", Manual(True))):
    trainer = lightning.Trainer(
        accelerator="cpu", precision="bf16-mixed", max_steps=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.randn(4, 4), batch_size=4))
    under[name] = module.seen[0]
print("Lightning: backward under autocast:", ", ".join(f"{n} optimization {v}" for n, v in under.items()))
if under != {"automatic": False, "manual": True}:
    failed.append("Lightning: under autocast with manual optimization alone")
for text in failed:
    print("CHANGED, no longer so:", text)
raise SystemExit(bool(failed))
PYTHON
nice "$python" -W ignore "$work/finding.py"
