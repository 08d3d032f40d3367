#!/usr/bin/env bash
# pytorch-lightning: with precision="16-mixed" and manual optimization, two optimizers whose gradients are computed before
#   either steps do not step by the same loss scale: an overflow in the first doubles the step of the second.
#
# Expected: torch's documentation of GradScaler has update() called once, after the step() of all optimizers of an
#   iteration, so that all of them unscale by the scale that their losses were multiplied with. manual_backward() twice
#   and then step() twice, as simultaneous gradient descent of two players needs it, is written in that way.
# What happens: Lightning's MixedPrecision calls update() within the step() of each optimizer. Where the first has
#   infinite gradients, its step is left out and the scale is halved; the second then divides gradients of the old
#   scale by the new one and makes twice its step, without a warning. Where the scale grows, it makes half of it. Steps
#   in turns, each with its own backward pass in between, are right.
# Versions: pytorch-lightning 2.6.6, torch 2.14.1, Linux, Python 3.11, on the CPU with torch's GradScaler for it.
# Output seen (the second weight is to move by -1):
#   pytorch-lightning 2.6.6, torch 2.14.1
#   no overflow           in turns: -1.0   together: -1.0
#   overflow in the first in turns: -1.0   together: -2.0
#   scale grows           in turns: -1.0   together: -0.5
# Why it matters: BiGAN, ALI and other games move all players at once, and an overflow is how the scale is found: the
#   first steps of every run have some.
# Remedy: step all optimizers with a scaler of one's own and update it once; or precision="bf16-mixed", which has none.
#
# Usage: [PYTHON=an interpreter that has these versions] ./lightning_scaler_together.sh
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
import sys
import warnings

import pytorch_lightning
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins import MixedPrecision

warnings.simplefilter("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


class Two(LightningModule):
    """Two weights with an optimizer each; each loss has the slope 1, or the first one an infinite one."""

    def __init__(self, slope, together):
        super().__init__()
        self.automatic_optimization = False
        self.slope, self.together = slope, together
        self.first, self.second = (torch.nn.Parameter(torch.zeros(())) for _ in range(2))

    def configure_optimizers(self):
        return [torch.optim.SGD([weight], lr=1.0) for weight in (self.first, self.second)]

    def training_step(self, batch, index):
        pairs = list(zip(self.optimizers(), (self.slope * self.first, 1.0 * self.second)))
        if self.together:
            for _, loss in pairs:
                self.manual_backward(loss)
        for optimizer, loss in pairs:
            if not self.together:
                self.manual_backward(loss)
            optimizer.step()

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.zeros(1, 1))


def moved(slope, together, interval):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=interval)
    model = Two(slope, together)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model)
    return model.second.item()


print(f"pytorch-lightning {pytorch_lightning.__version__}, torch {torch.__version__.partition('+')[0]}")
cases = {"no overflow": (1.0, 2000), "overflow in the first": (float("inf"), 2000), "scale grows": (1.0, 1)}
seen = []
for name, (slope, interval) in cases.items():
    seen.append([moved(slope, together, interval) for together in (False, True)])
    print(f"{name:22}in turns: {seen[-1][0]}   together: {seen[-1][1]}")
sys.exit(0 if seen == [[-1.0, -1.0], [-1.0, -2.0], [-1.0, -0.5]] else 1)
PYTHON
cd "$work"
"$python" finding.py 2>"$work/errors" || { cat "$work/errors" >&2; exit 1; }
